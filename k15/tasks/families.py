"""The reasoning-gym families that come with worked steps and difficulty labels."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import metadata
from typing import Any

import reasoning_gym
from reasoning_gym.factory import DATASETS

from k15.tasks import chain_sum, gcd, leg_counting
from k15.tasks.problem import Problem, Step

SIZE = 1_000_000  # entries a generator offers; it makes them one by one


@dataclass(frozen=True, slots=True)
class Family:
    """How a family's entries are worked, and how hard each is."""

    steps: Callable[[dict[str, Any]], tuple[Step, ...]]
    difficulty: Callable[[dict[str, Any]], float]


FAMILIES: dict[str, Family] = {
    module.__name__.rpartition(".")[2]: Family(module.steps, module.difficulty)
    for module in (chain_sum, gcd, leg_counting)
}


def licenses() -> dict[str, str]:
    """Under what the generated questions, and the steps that this package works out, may be used."""
    generator = metadata("reasoning-gym")
    stated = "License-Expression" in generator
    named = generator["License-Expression"] if stated else "not stated by its package"
    return {f"reasoning-gym {generator['Version']}": named, "k15.tasks": "Apache-2.0"}


def problems(name: str, params: dict[str, Any], seed: int) -> Iterator[Problem]:
    """The family's problems in a seeded order, with repeats as its generator makes them.

    ValueError names an unknown family or parameter, or one the generator refuses.
    """
    if name not in FAMILIES:
        raise ValueError(f"families.{name}: no such family; there are {sorted(FAMILIES)}")
    known = {field.name for field in dataclasses.fields(DATASETS[name][1])} - {"seed", "size"}
    if unknown := sorted(set(params) - known):
        raise ValueError(f"families.{name}.params: unknown {unknown}; there are {sorted(known)}")
    try:
        entries = reasoning_gym.create_dataset(name, seed=seed, size=SIZE, **params)
    except (AssertionError, TypeError) as error:
        raise ValueError(f"families.{name}.params: {error}") from error
    return (problem(name, entries[index]) for index in range(SIZE))


def problem(name: str, entry: dict[str, Any]) -> Problem:
    """An entry with its steps and its difficulty."""
    family = FAMILIES[name]
    return Problem(
        question=entry["question"].strip(),
        answer=entry["answer"],
        task=name,
        difficulty=round(family.difficulty(entry), 3),
        reward="reasoning_gym",
        metadata=json.dumps({**entry["metadata"], "source_dataset": name}, sort_keys=True),
        steps=family.steps(entry),
    )
