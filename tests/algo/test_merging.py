"""Weight merging."""

import pytest
import torch

from k15.algo.merging import average


def test_is_the_weighted_mean_in_the_type_of_the_first() -> None:
    long, short = torch.tensor([1.0, 3.0]).bfloat16(), torch.tensor([3.0, 5.0]).bfloat16()
    merged = average(long, short, weight=0.25)
    assert merged.tolist() == [2.5, 4.5]
    assert merged.dtype == torch.bfloat16


def test_ends_are_the_models_themselves() -> None:
    long, short = torch.randn(5), torch.randn(5)
    assert torch.equal(average(long, short, weight=1.0), long)
    assert torch.equal(average(long, short, weight=0.0), short)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        average(torch.zeros(2), torch.zeros(3), weight=0.5)
