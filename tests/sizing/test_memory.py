"""What the memory formulas keep, whatever the layout. Their figures are checked in tests/engines/megatron."""

from dataclasses import replace

import pytest

from k15.recipes.pipeline import Layout
from k15.sizing.memory import Training, fullest, layer_bytes, of_rank, rank_parameters
from k15.sizing.shape import Shape
from k15.sizing.workload import Workload

PLAIN = Training()


def test_state_of_a_parameter_is_18_bytes_in_bf16_and_16_in_fp32(large: Shape, long_rows: Workload) -> None:
    for training, expected in ((PLAIN, 18), (Training(precision="float32"), 16)):
        memory = fullest(large, Layout(), long_rows, training)
        fresh = 2 * large.hidden_size * large.intermediate_size * training.weight_bytes  # not yet summed
        state = memory.weights + memory.gradients + memory.optimizer - fresh
        assert state == pytest.approx(expected * large.num_parameters)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("pipeline", [1, 2, 4])
def test_pipeline_ranks_hold_every_parameter_once_and_a_tied_output_twice(
    large: Shape, tied: bool, pipeline: int
) -> None:
    model, layout = replace(large, tied=tied), Layout(pipeline=pipeline)
    held = sum(rank_parameters(model, layout, rank) for rank in range(pipeline))
    copy = model.embedding_parameters if tied and pipeline > 1 else 0
    assert held == pytest.approx(model.num_parameters + copy)


def test_tensor_ranks_repeat_norms_alone(large: Shape) -> None:
    whole, half = (rank_parameters(large, Layout(tensor=t), 0) for t in (1, 2))
    norms = large.num_layers * (2 * large.hidden_size + 2 * large.head_dim) + large.hidden_size
    assert 2 * half == pytest.approx(whole + norms)


def test_activations_shrink_with_each_kind_of_sharing(large: Shape, long_rows: Workload) -> None:
    def activations(training: Training = PLAIN, **degrees: object) -> float:
        return fullest(large, Layout.model_validate(degrees), long_rows, training).activations

    whole = activations()
    assert activations(tensor=8, sequence=True) == pytest.approx(whole / 8)
    assert whole / 8 < activations(tensor=8) < whole / 2
    assert whole / 2 < activations(context=2) < 1.1 * whole / 2  # keys and values are gathered
    assert activations(Training(recompute=True)) < whole / 10
    assert activations(data=64) == whole


def test_the_first_pipeline_rank_holds_as_many_microbatches_as_there_are_ranks(
    large: Shape, long_rows: Workload
) -> None:
    layout = Layout(pipeline=4)
    held = [of_rank(large, layout, long_rows, PLAIN, rank).activations for rank in range(4)]
    assert held == pytest.approx([held[3] * many for many in (4, 3, 2, 1)])
    alone = replace(long_rows, step_tokens=long_rows.microbatch_tokens)
    assert of_rank(large, layout, alone, PLAIN, 0).activations == pytest.approx(held[3])


def test_the_distributed_optimizer_cuts_master_and_moments(large: Shape, long_rows: Workload) -> None:
    layout = Layout(tensor=8, context=2, data=4)
    whole = fullest(large, layout, long_rows, PLAIN)
    cut = fullest(large, layout, long_rows, Training(distributed_optimizer=True))
    assert cut.optimizer == pytest.approx(whole.optimizer / 8)
    assert whole.total - cut.total == pytest.approx(whole.optimizer - cut.optimizer)


def test_memory_grows_linearly_with_length(large: Shape) -> None:
    layout = Layout(tensor=8, sequence=True)
    totals = [
        fullest(large, layout, Workload(tokens, tokens, tokens), PLAIN).total
        for tokens in (8192, 16384, 24576)
    ]
    # Chunks of logits are of one size, which changes a little with their number.
    assert totals[2] - totals[1] == pytest.approx(totals[1] - totals[0], rel=0.01)


def test_a_layer_counts_what_its_docstring_lists(large: Shape) -> None:
    hidden, query, group, wide = 5120, 64 * 128, 8 * 128, 25600
    widths = 4 * hidden + (query + 2 * group) + (query + group) + query + (query + group) + 5 * wide
    assert layer_bytes(large, Layout(), PLAIN) == 2 * widths
