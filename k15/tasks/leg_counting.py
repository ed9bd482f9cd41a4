"""reasoning-gym's leg_counting: legs of several animals, worked animal by animal, then summed."""

from typing import Any

from reasoning_gym.arithmetic.leg_counting import ANIMALS

from k15.tasks.problem import Step


def steps(entry: dict[str, Any]) -> tuple[Step, ...]:
    """A product for each animal, added to the running total at once."""
    worked: list[Step] = []
    total: int | None = None
    for animal, count in entry["metadata"]["animals"].items():
        legs = ANIMALS[animal]
        product = count * legs
        worked.append(Step(left=f"{count} * {legs}", value=product, shift=legs - product))
        if total is None:
            total = product
        else:
            worked.append(Step(left=f"{total} + {product}", value=total + product, shift=-product))
            total += product
    return tuple(worked)


def difficulty(entry: dict[str, Any]) -> float:
    """0 for one animal; 1 from five animals on, or for totals from 200 on."""
    animals: int = len(entry["metadata"]["animals"])
    legs: int = entry["metadata"]["total_legs"]
    return min(1.0, max((animals - 1) / 4, legs / 200))
