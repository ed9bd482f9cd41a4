"""The tables of an RL round: the segments sampled in it, what came of responses and groups, success rates."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import pyarrow

from k15.records import End, Part, Segment
from k15.store.tables import checked

SEGMENTS_FILE = "segments.parquet"
RESPONSES_FILE = "responses.parquet"
GROUPS_FILE = "groups.parquet"
SUCCESS_FILE = "success.parquet"

SEGMENTS = pyarrow.schema(
    [
        ("group", pyarrow.int64()),  # its place among all groups taken
        ("prompt_id", pyarrow.string()),
        ("sample", pyarrow.int32()),
        ("position", pyarrow.int32()),  # among the trajectory's segments
        ("round", pyarrow.int32()),
        ("policy_version", pyarrow.int32()),
        ("prompt_token_ids", pyarrow.list_(pyarrow.int32())),  # empty past position 0
        ("images", pyarrow.string()),  # JSON: the prompt's image parts, as records.Part
        ("token_ids", pyarrow.list_(pyarrow.int32())),
        ("logprobs", pyarrow.list_(pyarrow.float64())),
        ("end", pyarrow.string()),
    ]
)
RESPONSES = pyarrow.schema(
    [
        ("group", pyarrow.int64()),
        ("prompt_id", pyarrow.string()),
        ("sample", pyarrow.int32()),
        ("status", pyarrow.string()),
        ("reason", pyarrow.string()),
        ("end", pyarrow.string()),
        ("num_tokens", pyarrow.int32()),
        ("num_segments", pyarrow.int32()),
        ("response", pyarrow.string()),
    ]
)
GROUPS = pyarrow.schema(
    [
        ("group", pyarrow.int64()),
        ("prompt_id", pyarrow.string()),
        ("first_round", pyarrow.int32()),
        ("finished_round", pyarrow.int32()),  # -1 while it is open
        ("fate", pyarrow.string()),  # k15.loops.history.Fate
        ("reason", pyarrow.string()),
        ("rewards", pyarrow.list_(pyarrow.float64())),  # of the judged responses, where it was trained on
    ]
)
SUCCESS = pyarrow.schema(
    [("prompt_id", pyarrow.string()), ("correct", pyarrow.int64()), ("judged", pyarrow.int64())]
)


@dataclass(frozen=True, slots=True)
class SegmentRow:
    """One segment, and where it belongs."""

    group: int
    prompt_id: str
    sample: int
    position: int
    round: int
    prompt_token_ids: tuple[int, ...]
    segment: Segment
    images: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class ResponseRow:
    """What came of one response of a group that finished."""

    group: int
    prompt_id: str
    sample: int
    status: str
    reason: str
    end: str
    num_tokens: int
    num_segments: int
    response: str


@dataclass(frozen=True, slots=True)
class GroupRow:
    """What came of one group in a round."""

    group: int
    prompt_id: str
    first_round: int
    finished_round: int
    fate: str
    reason: str
    rewards: tuple[float, ...]


def segments_to_table(rows: Sequence[SegmentRow]) -> pyarrow.Table:
    """Segments as rows; prompt tokens with a trajectory's first only."""
    columns = {
        "group": [row.group for row in rows],
        "prompt_id": [row.prompt_id for row in rows],
        "sample": [row.sample for row in rows],
        "position": [row.position for row in rows],
        "round": [row.round for row in rows],
        "policy_version": [row.segment.policy_version for row in rows],
        "prompt_token_ids": [() if row.position else row.prompt_token_ids for row in rows],
        "images": [json.dumps([asdict(part) for part in row.images]) for row in rows],
        "token_ids": [row.segment.token_ids for row in rows],
        "logprobs": [row.segment.logprobs for row in rows],
        "end": [str(row.segment.end) for row in rows],
    }
    return pyarrow.table(columns, schema=SEGMENTS)


def segments_from_table(table: pyarrow.Table, where: str) -> list[SegmentRow]:
    """Inverse of segments_to_table; ValueError names `where`."""
    found = []
    for row in checked(table, SEGMENTS, where).to_pylist():
        try:
            end = End(row["end"])
        except ValueError:
            raise ValueError(f"{where}: {row['end']!r} is no end of a segment") from None
        segment = Segment(row["policy_version"], tuple(row["token_ids"]), tuple(row["logprobs"]), end)
        images = tuple(Part(**part) for part in json.loads(row["images"]))
        place = (row["group"], row["prompt_id"], row["sample"], row["position"], row["round"])
        found.append(SegmentRow(*place, tuple(row["prompt_token_ids"]), segment, images))
    return found


def success_to_table(success: Mapping[str, tuple[int, int]]) -> pyarrow.Table:
    """Counts of correct and judged responses by prompt."""
    correct = [counts[0] for counts in success.values()]
    judged = [counts[1] for counts in success.values()]
    columns = {"prompt_id": list(success), "correct": correct, "judged": judged}
    return pyarrow.table(columns, schema=SUCCESS)


def success_from_table(table: pyarrow.Table) -> dict[str, tuple[int, int]]:
    """Inverse of success_to_table."""
    return {row["prompt_id"]: (row["correct"], row["judged"]) for row in table.to_pylist()}
