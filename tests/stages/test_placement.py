"""Where samplers go among the GPUs of a stage."""

from dataclasses import dataclass
from typing import Any

import pytest

from k15.recipes.pipeline import Resources
from stages.placement import VISIBLE, Placement, groups

pytestmark = pytest.mark.engine


def resources(**values: Any) -> Resources:
    return Resources.parse(values, where="resources")


@dataclass
class Process:
    """A sampler's process, as far as its place is concerned."""

    shown: str
    alive: bool = True


def test_samplers_follow_the_trainer() -> None:
    apart = resources(gpus=8, layout={"tensor": 4}, sampler_tensor=2, replicas=2)
    assert groups(apart, {}) == [["4", "5"], ["6", "7"]]
    assert groups(apart, {VISIBLE: "8,9,10,11,12,13,14,15"}) == [["12", "13"], ["14", "15"]]


def test_sharing_they_have_the_trainer_s() -> None:
    shared = resources(gpus=8, layout={"tensor": 8}, sampler_tensor=4, replicas=2, gpus_shared=True)
    assert groups(shared, {}) == [["0", "1", "2", "3"], ["4", "5", "6", "7"]]


def test_a_cpu_has_no_places() -> None:
    assert groups(resources(replicas=2), {}) == []
    assert Placement(resources(), {}).started(lambda variables: Process(str(dict(variables)))).shown == "{}"


@pytest.mark.parametrize("shared", [False, True])
def test_too_few_are_refused(shared: bool) -> None:
    few = resources(gpus=8, layout={"tensor": 8}, sampler_tensor=8, replicas=2, gpus_shared=shared)
    with pytest.raises(ValueError, match="2 samplers of sampler_tensor = 8 need 16 GPUs.*8 are seen here"):
        groups(few, {})


def test_one_that_died_leaves_its_place_to_the_next() -> None:
    placement = Placement(resources(gpus=3, replicas=2), {})
    first, second = (placement.started(lambda variables: Process(variables[VISIBLE])) for _ in range(2))
    assert (first.shown, second.shown) == ("1", "2")
    second.alive = False
    assert placement.started(lambda variables: Process(variables[VISIBLE])).shown == "2"


def test_turns_and_samplers_elsewhere_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="gpus_shared: samplers take turns with the trainer on this host"):
        resources(gpus_shared=True, samplers=("http://10.0.0.2:1",))
