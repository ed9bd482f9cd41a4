"""The replay buffer: which finished groups a round trains on, which stay, which leave unused."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from k15.loops.replay import JudgedGroup


@dataclass(frozen=True, slots=True)
class Draw:
    """One round's part of the buffer."""

    trained: tuple[JudgedGroup, ...]  # in the order of the update
    kept: tuple[JudgedGroup, ...]  # the oldest first
    crowded_out: tuple[JudgedGroup, ...]  # never trained on: the buffer was full


def draw(
    groups: Sequence[JudgedGroup], *, train_groups: int, buffer_groups: int, group_uses: int, seed: str
) -> Draw:
    """Take `train_groups` of `groups` at random where there are more, else all in their order (0: always).

    Drawn without replacement from old and new alike, so an update's groups did not all finish together. A
    group stays until it was trained on `group_uses` times; past `buffer_groups` the oldest leave.
    """
    chosen = list(range(len(groups)))
    if train_groups and len(groups) > train_groups:
        chosen = random.Random(seed).sample(chosen, train_groups)
    picked = set(chosen)
    used = [
        replace(group, uses=group.uses + 1) if place in picked else group
        for place, group in enumerate(groups)
    ]
    left = [group for group in used if group.uses < group_uses]
    overflow = max(0, len(left) - buffer_groups)
    return Draw(
        tuple(used[place] for place in chosen),
        tuple(left[overflow:]),
        tuple(group for group in left[:overflow] if not group.uses),
    )
