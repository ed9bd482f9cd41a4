"""One sampling call spread over replicas: who samples what, and what a lost one still owed."""

import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Protocol

from k15.records import Answer, End, SamplePart, SampleRequest, SampleStats, Segment

NOTHING = SampleStats()


class Replica(Protocol):
    """What a phase asks of a sampler."""

    def parts(self, requests: Sequence[SampleRequest], *, deadline_s: float) -> Iterator[SamplePart]:
        """ports.Sampler.sample by parts, the last one with what the call did."""


@dataclass(frozen=True, slots=True)
class _Ended:
    """A call is over, well where there is no error."""

    error: Exception | None
    stats: SampleStats = NOTHING


@dataclass(frozen=True, slots=True)
class _Event:
    replica: str
    what: Answer | _Ended


class Phase:
    """Requests go to the replica with the most room, and wait where there is none."""

    def __init__(
        self,
        requests: Sequence[SampleRequest],
        replicas: Mapping[str, Replica],
        capacity: int,
        *,
        deadline_s: float,
        version: int,
    ) -> None:
        self._requests, self._replicas, self._version = requests, dict(replicas), version
        self._end_s = time.monotonic() + deadline_s
        self._waiting = deque(range(len(requests)))
        self._held: dict[int, str] = {}  # request → the replica that samples it
        self._capacity = capacity
        self._room = dict.fromkeys(replicas, capacity)
        self._calls: Counter[str] = Counter()  # under way, by replica
        self._events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._ended: list[SampleStats] = []
        self._tokens: Counter[str] = Counter()
        self._owed: set[int] = set()  # by lost replicas, and not taken up since
        self._moved = 0

    def silent(self, name: str, error: Exception) -> None:
        """A replica answers nothing any more; any thread may say so."""
        self._events.put(_Event(name, _Ended(error)))

    def close(self) -> None:
        """Calls still under way are ended by their next answer."""
        self._closed.set()

    def answers(self, lose: Callable[[str, BaseException], None]) -> Iterator[Answer]:
        """Every request's segments; `lose` is told of a replica that is gone.

        The last one's error once none is left, ValueError where a request is refused.
        """
        while self._waiting or self._held or self._calls.total():
            self._assign()
            if self._waiting and not self._held:  # the deadline came before their turn
                yield from [(index, self._nothing(index)) for index in self._waiting]
                break
            event = self._events.get()
            if event.replica not in self._room:
                continue  # of a replica that was lost
            if isinstance(event.what, _Ended):
                self._end(event.replica, event.what, lose)
            else:
                index, segments = event.what
                del self._held[index]
                self._room[event.replica] += len(segments)
                self._tokens[event.replica] += sum(len(segment.token_ids) for segment in segments)
                yield index, segments

    def stats(self, *, lost: Sequence[str]) -> SampleStats:
        """What all calls did together."""
        counted = [field.name for field in fields(SampleStats) if field.name.startswith("num_")]
        sums = {name: sum(getattr(stats, name) for stats in self._ended) for name in counted}
        total = max(1, sum(self._tokens.values()))
        return SampleStats(
            **{**sums, "num_moved": self._moved, "num_left": self._responses(self._owed)},
            seconds=max((stats.seconds for stats in self._ended), default=0.0),
            lost=tuple(lost),
            shares=tuple(sorted((name, tokens / total) for name, tokens in self._tokens.items())),
        )

    def _assign(self) -> None:
        """Hand out what waits, to each replica in one call."""
        left_s = self._end_s - time.monotonic()
        given: dict[str, list[int]] = {}
        while self._waiting and left_s > 0:
            name = max(self._room, key=lambda one: self._room[one])
            index = self._waiting[0]
            # A request of more samples than a replica has room for goes to one that is idle.
            if self._room[name] < min(self._requests[index].num_samples, self._capacity):
                break
            self._waiting.popleft()
            self._held[index] = name
            if index in self._owed:
                self._owed.remove(index)
                self._moved += self._requests[index].num_samples
            self._room[name] -= self._requests[index].num_samples
            given.setdefault(name, []).append(index)
        for name, indices in given.items():
            self._calls[name] += 1
            call = threading.Thread(target=self._call, args=(name, indices, left_s), daemon=True)
            call.start()

    def _call(self, name: str, indices: Sequence[int], left_s: float) -> None:
        stats = NOTHING
        try:
            parts = self._replicas[name].parts([self._requests[i] for i in indices], deadline_s=left_s)
            for part in parts:
                stats = part.stats or stats
                for place, segments in part.answers:
                    self._events.put(_Event(name, (indices[place], segments)))
                if self._closed.is_set():
                    return  # which closes the call
        except Exception as error:  # noqa: BLE001 (raised, or counted, where the events are read)
            self._events.put(_Event(name, _Ended(error)))
        else:
            self._events.put(_Event(name, _Ended(None, stats)))

    def _end(self, name: str, ended: _Ended, lose: Callable[[str, BaseException], None]) -> None:
        """A call of a replica is over: count it, or take back what the replica owes."""
        if ended.error is None:
            self._ended.append(ended.stats)
            self._calls[name] -= 1
            return
        if isinstance(ended.error, ValueError):
            raise ended.error
        owed = [index for index, holder in self._held.items() if holder == name]
        for index in reversed(owed):
            del self._held[index]
            self._waiting.appendleft(index)
            self._owed.add(index)
        del self._room[name], self._calls[name]
        if not self._room:
            raise ended.error
        lose(name, ended.error)

    def _responses(self, indices: Iterable[int]) -> int:
        return sum(self._requests[index].num_samples for index in indices)

    def _nothing(self, index: int) -> list[Segment]:
        nothing = Segment(self._version, (), (), End.BUDGET)
        return [nothing] * self._requests[index].num_samples
