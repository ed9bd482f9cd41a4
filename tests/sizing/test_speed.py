"""What the time formulas keep, whatever the layout."""

import pytest

from k15.recipes.pipeline import Layout
from k15.sizing.hardware import EFFICIENCY, GPUS
from k15.sizing.layouts import estimate
from k15.sizing.memory import Training
from k15.sizing.shape import Shape
from k15.sizing.speed import model_flops, step_time
from k15.sizing.workload import Workload

H100 = GPUS["h100"]


def test_operations_are_six_per_weight_and_token_and_attention_s(large: Shape, long_rows: Workload) -> None:
    tokens = long_rows.step_tokens
    norms = 64 * (2 * large.hidden_size + 2 * large.head_dim) + large.hidden_size
    weights = large.num_parameters - large.embedding_parameters - norms
    attention = 64 * 3 * 2 * 32769 * large.query_width  # layers, passes, two products over half a row
    assert model_flops(large, long_rows) == pytest.approx(tokens * (6 * weights + attention))


def test_one_gpu_computes_at_the_efficiency_stated(large: Shape, long_rows: Workload) -> None:
    one = estimate(large, Layout(), long_rows, Training(), H100)
    assert one.time.tensor == one.time.context == one.time.pipeline == one.time.data == 0
    assert one.mfu == pytest.approx(EFFICIENCY, rel=0.01)
    again = step_time(large, Layout(), long_rows, Training(recompute=True), H100)
    assert 1.3 < again.compute / one.time.compute < 4 / 3


def test_a_pipeline_waits_for_its_ends(large: Shape, long_rows: Workload) -> None:
    time = step_time(large, Layout(pipeline=4), long_rows, Training(), H100)
    assert time.total / time.compute == pytest.approx((64 + 3) / 64, rel=0.01)


def test_data_parallelism_halves_the_step_but_for_its_own_exchange(large: Shape, long_rows: Workload) -> None:
    one, two = (
        step_time(large, Layout(tensor=8, sequence=True, data=data), long_rows, Training(), H100)
        for data in (1, 2)
    )
    assert two.compute == pytest.approx(one.compute / 2)
    assert one.data == 0 < two.data < 0.05 * two.total


def test_links_between_nodes_are_slower(large: Shape, long_rows: Workload) -> None:
    inside = step_time(large, Layout(tensor=8, sequence=True), long_rows, Training(), H100)
    across = step_time(large, Layout(tensor=16, sequence=True), long_rows, Training(), H100)
    assert across.tensor > 8 * inside.tensor


def test_whole_steps_come_near_published_ones(large: Shape) -> None:
    """Megatron-LM reports 41 to 48 % of H100s at 4,096 tokens, most of its communication overlapped."""
    work = Workload(4096, 4096, 512 * 4096)
    one = estimate(large, Layout(tensor=4, pipeline=4, data=4, sequence=True), work, Training(), H100)
    assert 0.33 < one.mfu < 0.48
