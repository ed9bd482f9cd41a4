"""Segments of a round under way: what a killed process had stored is used, not sampled again.

    phases/<key>/<round>/<epoch>-<number>-<digest>.parquet     segments, as SEGMENTS of k15.store.rollouts
    phases/<key>/<round>/<epoch>-begun                         a process began the round; how many responses
                                                               it asked for
    phases/<key>/<round>/<epoch>-<number>-moved                as many responses were begun by a sampler that
                                                               was lost, and again by another

Pieces leave in the background, all that came within a moment in one. They go once the round is committed,
which then holds every segment; `k15 gc` takes what a killed process left.
"""

import hashlib
import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Self

from k15.records import Segment
from k15.store.artifact import Store
from k15.store.manifest import corrupt
from k15.store.rollouts import SegmentRow, segments_from_table, segments_to_table
from k15.store.tables import decode_table, encode_table

EVERY_S = 1.0
DIGEST_CHARACTERS = 32
BEGUN, MOVED = "begun", "moved"
REMEDY = "delete it and rerun: what it holds is sampled again"

log = logging.getLogger(__name__)


class Journals:
    """The journals of a stage's rounds; a thread writes them for as long as the block lasts.

    The block's end, of any kind, stores what was added before. StoreError is raised by the next call.
    """

    def __init__(self, store: Store, key: str, *, every_s: float = EVERY_S) -> None:
        self._store, self._key, self._every_s = store, key, every_s
        self._epoch = store.fences[key].epoch if key in store.fences else 0
        self._found: dict[int, list[str]] = {}
        for info in store.objects.list(f"phases/{key}/"):
            self._found.setdefault(int(info.path.split("/")[2]), []).append(info.path)
        self._waiting: dict[int, list[SegmentRow]] = {}
        self._lock, self._writing, self._end = threading.Lock(), threading.Lock(), threading.Event()
        self._error: Exception | None = None
        self._over = False
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
        if kind is None:
            self._raise()

    def begin(self, number: int) -> "Journal":
        """The journal of round `number`, with what earlier processes left of it."""
        self._raise()
        stored: dict[tuple[int, int], Segment] = {}
        asked: list[int] = []
        moved = 0
        for path, data in sorted(self._store.objects.get_many(self._found.get(number, [])).items()):
            if path.endswith(BEGUN):
                asked.append(self._count(path, data))
                continue
            if path.endswith(MOVED):
                moved += self._count(path, data)
                continue
            for row in self._decoded(path, data):
                stored.setdefault((row.group, row.sample), row.segment)
        if asked:
            log.info("journal round=%d tries=%d stored=%d", number, len(asked), len(stored))
        return Journal(self, number, asked, moved, stored)

    def ask(self, number: int, num_responses: int) -> None:
        """Store that this process asks for so many responses of a round; it is there on return."""
        self._raise()
        self._put(number, BEGUN, str(num_responses).encode())

    def moved(self, number: int, num_responses: int) -> None:
        """Store that so many responses of a round were begun again by another sampler."""
        self._raise()
        self._put(number, f"{len(self._found.get(number, [])):06d}-{MOVED}", str(num_responses).encode())

    def add(self, number: int, rows: Sequence[SegmentRow]) -> None:
        """Store segments of a round, soon."""
        self._raise()
        with self._lock:
            self._waiting.setdefault(number, []).extend(rows)

    def clear(self, number: int) -> None:
        """Forget the rounds up to `number`: they are committed."""
        with self._lock:
            self._waiting = {n: rows for n, rows in self._waiting.items() if n > number}
            paths = [path for n, some in self._found.items() if n <= number for path in some]
            self._found = {n: some for n, some in self._found.items() if n > number}
        self._store.objects.delete(paths)

    def forget(self, number: int) -> None:
        """Drop what is stored of rounds after `number`, and store no more: it followed another round."""
        with self._writing, self._lock:
            self._over = True
            paths = [path for n, some in self._found.items() if n > number for path in some]
        self._store.objects.delete(paths)

    def _work(self) -> None:
        last = False
        while not last:
            last = self._end.wait(self._every_s)
            with self._lock:
                waiting, self._waiting = self._waiting, {}
            try:
                for number, rows in waiting.items():
                    self._write(number, rows)
            except Exception as error:  # noqa: BLE001 (raised by the next call of the main thread)
                self._error = error
                return

    def _write(self, number: int, rows: Sequence[SegmentRow]) -> None:
        """Objects of this process only; the lease says that there is no other."""
        data = encode_table(segments_to_table(rows))
        self._put(number, f"{len(self._found.get(number, [])):06d}-{_digest(data)}.parquet", data)

    def _put(self, number: int, name: str, data: bytes) -> None:
        self._store.check_fence(self._key)
        path = f"phases/{self._key}/{number:06d}/{self._epoch:09d}-{name}"
        with self._writing:
            if self._over:
                return
            with self._lock:
                self._found.setdefault(number, []).append(path)
            self._store.objects.put(path, data)

    def _count(self, path: str, data: bytes) -> int:
        if not data.isdigit():
            raise corrupt(self._store.objects.uri(path), "it holds no number", REMEDY)
        return int(data)

    def _decoded(self, path: str, data: bytes) -> Iterable[SegmentRow]:
        uri = self._store.objects.uri(path)
        if _digest(data) != path.removesuffix(".parquet").rpartition("-")[2]:
            raise corrupt(uri, "its content does not fit its name", REMEDY)
        return segments_from_table(decode_table(data), uri)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error


class Journal:
    """One round's: what is stored of it already, and what is added."""

    def __init__(
        self,
        journals: Journals,
        number: int,
        asked: Sequence[int],
        moved: int,
        stored: Mapping[tuple[int, int], Segment],
    ) -> None:
        """`asked`: how many responses each process before asked for; `moved`: begun again in all of them."""
        self.tries = len(asked)
        self.asked_again = sum(asked[1:])
        self.moved_before = moved
        self.stored = stored
        self._journals, self._number = journals, number

    def ask(self, num_responses: int) -> None:
        """Store that so many responses are about to be sampled; it is there on return."""
        self._journals.ask(self._number, num_responses)

    def moved(self, num_responses: int) -> None:
        """Store that so many more responses were begun again by another sampler."""
        self._journals.moved(self._number, num_responses)

    def add(self, rows: Sequence[SegmentRow]) -> None:
        """Store segments, soon; returns at once."""
        self._journals.add(self._number, rows)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:DIGEST_CHARACTERS]
