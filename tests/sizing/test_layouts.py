"""Which layouts are possible, which fit, and in which order they are proposed."""

import pytest

from k15.recipes.pipeline import Layout
from k15.sizing import layouts
from k15.sizing.hardware import GIB, GPUS
from k15.sizing.memory import Training
from k15.sizing.shape import Shape
from k15.sizing.workload import Workload

H100 = GPUS["h100"]
BF16 = Training()


@pytest.mark.parametrize(
    ("layout", "why"),
    [
        (Layout(tensor=3), "tensor=3 does not divide the model's 64 attention heads"),
        (Layout(tensor=16), "tensor=16 does not divide the model's 8 key-value groups"),
        (Layout(pipeline=3), "pipeline=3 does not divide the model's 64 layers"),
        (Layout(data=65), "data=65 is more than the 64 microbatches of a step"),
        (Layout(sequence=True), "sequence=true shares tokens between tensor ranks"),
        (Layout(context=32768), "context=32768 cuts a row of 32768 tokens to nothing"),
    ],
)
def test_what_does_not_divide_is_said(large: Shape, long_rows: Workload, layout: Layout, why: str) -> None:
    assert any(why in problem for problem in layouts.indivisible(large, layout, long_rows))


def test_possible_layouts_use_every_gpu_and_divide(large: Shape, long_rows: Workload) -> None:
    found = list(layouts.possible(large, long_rows, 24))
    assert {layout.world for layout in found} == {24}
    assert not any(layouts.indivisible(large, layout, long_rows) for layout in found)
    assert len(found) == len({str(layout) for layout in found})
    assert {layout.tensor for layout in found} == {1, 2, 4, 8}


def test_those_that_fit_come_fastest_first_and_once(large: Shape, long_rows: Workload) -> None:
    everything = layouts.ranked(large, long_rows, BF16, H100, gpus=64)
    found = layouts.fitting(everything, 80 * GIB)
    assert 0 < len(found) < len(everything)
    assert all(one.needed_bytes <= 80 * GIB for one in found)
    times = [one.time.total for one in found]
    assert times == sorted(times)
    assert len({str(one.layout) for one in found}) == len(found)
    without = {
        str(one.layout) for one in everything if one.needed_bytes <= 80 * GIB and not one.training.recompute
    }
    assert all(one.training.recompute == (str(one.layout) not in without) for one in found)


def test_a_32b_model_needs_more_than_one_node_of_80_gb(large: Shape, long_rows: Workload) -> None:
    assert not layouts.fitting(layouts.ranked(large, long_rows, BF16, H100, gpus=8), 80 * GIB)
    more = layouts.fewest_gpus(large, long_rows, BF16, H100, 80 * GIB, more_than=8)
    assert more > 8
    assert layouts.fitting(layouts.ranked(large, long_rows, BF16, H100, gpus=more), 80 * GIB)
    assert not layouts.fewest_gpus(large, long_rows, BF16, H100, 4 * GIB, more_than=8)
