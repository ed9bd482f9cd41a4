"""Rounds of an RL stage as the store holds them, written through the real store."""

import pyarrow

from k15.records import End, Segment
from k15.store.artifact import Store
from k15.store.rollouts import (
    GROUPS,
    GROUPS_FILE,
    RESPONSES,
    RESPONSES_FILE,
    SEGMENTS_FILE,
    GroupRow,
    ResponseRow,
    SegmentRow,
    segments_to_table,
)
from k15.store.tables import table_of


def commit_rounds(store: Store, key: str) -> None:
    """Two rounds of an RL stage as the store holds them: a response that goes on in the second."""
    for number in range(2):
        attempt = store.begin(key)
        for name, table in round_tables(number).items():
            attempt.write_table(name, table)
        lost = [{"reason": "the process ended", "tries": 1, "responses": 3}] if number else []
        state = {"row": {"round": number, "pass_rate": 0.5, "share_cut": 0.0}, "lost": lost}
        store.commit_round(key, number, attempt, state)


def round_tables(number: int) -> dict[str, pyarrow.Table]:
    """One group of two responses: one ends at once, the other in round 1."""
    done = Segment(0, (5, 6, 1), (-0.1, -0.2, -0.3), End.STOP)
    parts = (Segment(0, (5, 6, 7), (-0.5,) * 3, End.BUDGET), Segment(1, (8, 1), (-0.5,) * 2, End.STOP))
    rows = [SegmentRow(0, "p0", 1, number, number, (2, 3), parts[number])]
    rows += [] if number else [SegmentRow(0, "p0", 0, 0, 0, (2, 3), done)]
    responses = [
        ResponseRow(0, "p0", 0, "correct", "", "stop", 3, 1, "The answer is 7."),
        ResponseRow(0, "p0", 1, "wrong", "", "stop", 5, 2, "Wait.\nThe answer is 9."),
    ]
    group = (
        (0, "p0", 0, 1, "trained", "", (1.0, 0.0)) if number else (0, "p0", 0, -1, "open", "1 unfinished", ())
    )
    return {
        SEGMENTS_FILE: segments_to_table(rows),
        RESPONSES_FILE: table_of(responses if number else [], RESPONSES),
        GROUPS_FILE: table_of([GroupRow(*group)], GROUPS),
    }
