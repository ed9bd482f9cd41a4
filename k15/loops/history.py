"""A round as it is stored: its tables and its JSON; and state, groups and updates from stored rounds."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import msgspec
import pyarrow

from k15.loops.replay import JudgedGroup, ReplayState, RolloutGroup
from k15.records import Prompt, Status, Trajectory, Verdict
from k15.store import rollouts
from k15.store.manifest import RoundManifest
from k15.store.rollouts import GroupRow, ResponseRow, SegmentRow
from k15.store.tables import table_of

Row = dict[str, float]


class Fate(StrEnum):
    """What came of a group in a round; every token sampled for it is accounted for by it."""

    OPEN = "open"  # unfinished: continued in the next phase
    TRAINED = "trained"
    UNIFORM = "uniform"  # in the update, but all rewards are equal: no gradient in its first step
    BUFFERED = "buffered"  # finished, and waits to be drawn
    DROPPED = "dropped"  # never trained on, with the reason


@dataclass(frozen=True, slots=True)
class Played:
    """One round, played: what is committed of it."""

    number: int
    version: int  # of the policy that sampled in it and that its update started from
    after: ReplayState
    row: Row
    segments: tuple[SegmentRow, ...]  # all that was sampled in it
    responses: tuple[ResponseRow, ...]  # of the groups that finished in it
    groups: tuple[GroupRow, ...]  # every group that was alive in it
    trained: tuple[tuple[int, int], ...]  # (group, round it finished in), in the order of the update
    updated: bool
    last: bool  # no round follows
    lost: tuple[dict[str, Any], ...] = ()  # tokens sampled and not kept, with the reason
    examples: tuple[dict[str, Any], ...] = ()

    def tables(self) -> dict[str, pyarrow.Table]:
        """The round's tables by file name."""
        made = {
            rollouts.RESPONSES_FILE: table_of(self.responses, rollouts.RESPONSES),
            rollouts.GROUPS_FILE: table_of(self.groups, rollouts.GROUPS),
            rollouts.SUCCESS_FILE: rollouts.success_to_table(self.after.success),
        }
        if self.segments:
            made[rollouts.SEGMENTS_FILE] = rollouts.segments_to_table(self.segments)
        return made

    def state(self) -> dict[str, Any]:
        """What goes on in the next round, as plain JSON; tokens and success rates are in the tables."""
        after = self.after
        plain = msgspec.to_builtins(replace(after, success={}, open_groups=(), buffer=()))
        open_groups = [(group.number, group.first_round) for group in after.open_groups]
        buffer = [(g.rollouts.number, g.rollouts.first_round, g.finished_round, g.uses) for g in after.buffer]
        return {
            "replay": plain | {"open_groups": open_groups, "buffer": buffer},
            "version": self.version,
            "trained": list(self.trained),
            "lost": list(self.lost),
            "examples": list(self.examples),
        }


class History:
    """Reads committed rounds: `read` gives a round's table by its file name, None where it has none."""

    def __init__(
        self, rounds: Sequence[RoundManifest], read: Callable[[RoundManifest, str], pyarrow.Table | None]
    ) -> None:
        self._rounds = rounds
        self._read = read

    def state(self) -> ReplayState:
        """The state after the last round; an empty one before the first."""
        if not self._rounds:
            return ReplayState()
        last = self._rounds[-1]
        plain = dict(last.state["replay"])
        open_groups, buffer = plain.pop("open_groups"), plain.pop("buffer")
        try:
            state = msgspec.convert({**plain, "success": {}, "open_groups": [], "buffer": []}, ReplayState)
        except msgspec.ValidationError as error:
            raise ValueError(f"round {last.number} holds no replay state: {error}") from None
        success = self._read(last, rollouts.SUCCESS_FILE)
        groups = self.rollouts([number for number, *_ in [*open_groups, *buffer]])
        verdicts = self.verdicts([(number, finished) for number, _, finished, _ in buffer])
        return replace(
            state,
            success=rollouts.success_from_table(success) if success is not None else {},
            open_groups=tuple(groups[number] for number, _ in open_groups),
            buffer=tuple(
                JudgedGroup(groups[number], verdicts[number], finished, uses)
                for number, _, finished, uses in buffer
            ),
        )

    def trained(self, number: int) -> list[JudgedGroup]:
        """The groups round `number` was trained on, in the update's order."""
        refs = self._rounds[number].state["trained"]
        groups = self.rollouts([group for group, _ in refs])
        verdicts = self.verdicts(refs)
        return [JudgedGroup(groups[group], verdicts[group], finished) for group, finished in refs]

    def rollouts(self, wanted: Iterable[int]) -> dict[int, RolloutGroup]:
        """Groups by number, whole, from the rounds their segments were sampled in: the newest back."""
        missing = set(wanted)
        found: dict[int, list[SegmentRow]] = {number: [] for number in missing}
        for record in reversed(self._rounds):
            if not missing:
                break
            table = self._read(record, rollouts.SEGMENTS_FILE)
            rows = rollouts.segments_from_table(table, f"round {record.number}") if table is not None else []
            for row in rows:
                if row.group in found:
                    found[row.group].append(row)
            missing -= {row.group for row in rows if not row.position}
        if missing:
            raise ValueError(f"no stored round holds the beginning of groups {sorted(missing)[:10]}")
        return {number: group_of(rows) for number, rows in found.items()}

    def verdicts(self, refs: Iterable[Sequence[int]]) -> dict[int, tuple[Verdict, ...]]:
        """The verdicts of groups, each (number, round it finished in)."""
        by_round: dict[int, set[int]] = {}
        for number, finished in refs:
            by_round.setdefault(finished, set()).add(number)
        found: dict[int, list[tuple[int, Verdict]]] = {}
        for finished, numbers in by_round.items():
            table = self._read(self._rounds[finished], rollouts.RESPONSES_FILE)
            for row in table.to_pylist() if table is not None else []:
                if row["group"] in numbers:
                    verdict = Verdict(Status(row["status"]), row["reason"])
                    found.setdefault(row["group"], []).append((row["sample"], verdict))
        return {
            number: tuple(v for _, v in sorted(rows, key=lambda r: r[0])) for number, rows in found.items()
        }


def segment_rows(
    group: RolloutGroup, samples: Iterable[int], number: int, prompts: Mapping[str, Prompt]
) -> list[SegmentRow]:
    """The newest segments of some samples of a group, sampled in round `number`."""
    images = tuple(part for part in prompts[group.prompt_id].parts if part.kind == "image")
    rows = []
    for sample in samples:
        trajectory = group.trajectories[sample]
        position = len(trajectory.segments) - 1
        prompt = trajectory.prompt_token_ids
        rows.append(
            SegmentRow(
                group.number,
                group.prompt_id,
                sample,
                position,
                number,
                prompt,
                trajectory.segments[-1],
                () if position else images,
            )
        )
    return rows


def group_of(rows: Sequence[SegmentRow]) -> RolloutGroup:
    """A group from all its segments."""
    ordered = sorted(rows, key=lambda row: (row.sample, row.position))
    first = ordered[0]
    trajectories: dict[int, Trajectory] = {}
    for row in ordered:
        old = trajectories.get(row.sample, Trajectory(row.prompt_id, row.sample, row.prompt_token_ids))
        if row.position != len(old.segments):
            raise ValueError(
                f"group {row.group}, sample {row.sample}: segment {len(old.segments)} is missing in the store"
            )
        trajectories[row.sample] = replace(old, segments=(*old.segments, row.segment))
    return RolloutGroup(first.group, first.prompt_id, first.round, tuple(trajectories.values()))
