"""The formula against torch's own counter on a plain model, and MFU."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from k15.algo.flops import Shape, forward_flops, model_flops_utilisation, training_flops

SHAPE = Shape(
    hidden_size=64, intermediate_size=96, num_layers=2, num_heads=4, num_groups=2, head_dim=16, vocab_size=101
)


@pytest.mark.engine
def test_counts_what_torch_counts_of_a_forward_pass() -> None:
    """Torch counts all pairs of a row, for it does not know of the mask."""
    import transformers

    config = transformers.Qwen3Config(
        vocab_size=SHAPE.vocab_size,
        hidden_size=SHAPE.hidden_size,
        intermediate_size=SHAPE.intermediate_size,
        num_hidden_layers=SHAPE.num_layers,
        num_attention_heads=SHAPE.num_heads,
        num_key_value_heads=SHAPE.num_groups,
        head_dim=SHAPE.head_dim,
        attn_implementation="eager",
    )
    model = transformers.Qwen3ForCausalLM(config)
    length = 12
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, length, dtype=torch.long))
    assert counter.get_total_flops() == forward_flops(SHAPE, length, length**2, length)


def test_rows_do_not_see_each_other_and_prompts_meet_no_output_layer() -> None:
    one = training_flops(SHAPE, [10], 4)
    assert training_flops(SHAPE, [10, 10], 8) == 2 * one
    assert training_flops(SHAPE, [20], 8) > 2 * one
    assert training_flops(SHAPE, [10], 5) - one == 6 * SHAPE.hidden_size * SHAPE.vocab_size
    assert training_flops(SHAPE, [], 0) == 0


def test_mfu_is_a_share_of_the_peak() -> None:
    assert model_flops_utilisation(3e12, 2.0, 3.0) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="peak_tflops=0"):
        model_flops_utilisation(1.0, 1.0, 0.0)
