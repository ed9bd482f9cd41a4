"""The slots of a service, and jobs judged on them: cases side by side, a lost slot replaced."""

import asyncio
import logging
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from k15.engines.sandbox import judge
from k15.engines.sandbox.cgroups import NAME, Cgroups
from k15.engines.sandbox.container import make_rootfs
from k15.engines.sandbox.metrics import Metrics
from k15.engines.sandbox.settings import SandboxSettings
from k15.engines.sandbox.slots import Outcome, Slot, SlotLostError, World
from k15.programs import Case, CaseResult, Job, JobResult
from k15.records import Status

TRIES = 2  # of a case whose slot was lost
RESTART_S = 0.5  # between tries to bring a slot back
COMPILE = {"cpu_s": 20.0, "wall_s": 40.0, "output_bytes": 16 << 20}
COMPILE_LIMITS = {"memory_bytes": 1 << 30, "disk_bytes": 64 << 20, "processes": 32}
PROCESSES_BESIDE = 16  # of a slot: the fork server and the first processes of worlds

log = logging.getLogger(__name__)


class Pool:
    """`settings.slots` warm slots; every case runs on one that is free."""

    def __init__(self, settings: SandboxSettings, metrics: Metrics) -> None:
        self.settings = settings
        self.slots: dict[int, Slot] = {}
        self._metrics = metrics
        self._free: asyncio.Queue[Slot] = asyncio.Queue()
        self._restarts: set[asyncio.Task[None]] = set()
        self._next = 0
        self._cgroups: Cgroups | None = None
        self._state = Path(tempfile.mkdtemp(prefix=f"{NAME}-{os.getpid()}-"))

    async def start(self) -> None:
        """Bring all slots up; ValueError where the first one does not come."""
        for left in self._state.parent.glob(f"{NAME}-*-*"):  # by services that were killed
            if not Path(f"/proc/{left.name.split('-')[2]}").exists():
                shutil.rmtree(left, ignore_errors=True)
        self._state.chmod(0o755)  # users of slots have ranges of their own
        make_rootfs(self._state / "root")
        if self.settings.isolation == "crun":
            self._cgroups = Cgroups()
        try:
            await asyncio.gather(*(self._add() for _ in range(self.settings.slots)))
        except (SlotLostError, OSError) as error:
            await self.close()
            raise ValueError(f"isolation {self.settings.isolation!r} does not work here: {error}") from None

    async def close(self) -> None:
        """End every slot; nothing of them stays."""
        for task in (restarts := list(self._restarts)):
            task.cancel()
        await asyncio.gather(*restarts, return_exceptions=True)
        await asyncio.gather(*(slot.destroy() for slot in self.slots.values()))
        if self._cgroups is not None:
            self._cgroups.close()
        shutil.rmtree(self._state, ignore_errors=True)

    async def judge(self, job: Job) -> JobResult:
        """Every case of a job, or up to the first that is wrong. Unjudged, past its deadline too."""
        began_s = time.monotonic()
        results: dict[int, CaseResult] = {}
        reason = ""
        try:
            async with asyncio.timeout(job.deadline_s):
                reason = await self._cases(job, results)
        except TimeoutError:
            reason = f"the job's deadline of {job.deadline_s} s passed"
        except SlotLostError as error:
            reason = f"the sandbox lost a slot: {error}"
        cases = tuple(results[index] for index in sorted(results))
        wrong = next((case for case in cases if case.status is Status.WRONG), None)
        if wrong:
            status, reason = Status.WRONG, wrong.reason
        else:
            status = Status.UNJUDGED if reason else Status.CORRECT
        return JobResult(status, reason, cases, self.settings.isolation, time.monotonic() - began_s)

    async def _cases(self, job: Job, results: dict[int, CaseResult]) -> str:
        """Fill `results`; why cases are unjudged, empty where none is."""
        binary: bytes | None = None
        if (compilation := judge.compilation(job)) is not None:
            outcome = await self._run([compilation], **COMPILE, **COMPILE_LIMITS)
            binary, problem = judge.compiled(outcome)
            if problem:
                results[0] = CaseResult(Status.WRONG, problem, wall_s=outcome.wall_s)
                return ""
        waiting = iter(enumerate(job.cases))
        reasons: list[str] = []

        async def work() -> None:
            for index, case in waiting:
                if job.stop_at_first and any(r.status is Status.WRONG for r in results.values()):
                    return
                try:
                    results[index] = await self._case(job, case, binary)
                except SlotLostError as error:
                    reasons.append(f"case {index}: the sandbox lost its slot: {error}")
                    results[index] = CaseResult(Status.UNJUDGED, reasons[-1])

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self.settings.slots, len(job.cases))):
                group.create_task(work())
        return reasons[0] if reasons else ""

    async def _case(self, job: Job, case: Case, binary: bytes | None) -> CaseResult:
        limits = job.limits
        outcome = await self._run(
            judge.worlds(job, case, binary),
            cpu_s=limits.cpu_s,
            wall_s=limits.wall_s,
            output_bytes=limits.output_kb << 10,
            memory_bytes=limits.memory_mb << 20,
            disk_bytes=limits.disk_mb << 20,
            processes=limits.processes,
        )
        result = judge.result(job, case, outcome)
        self._metrics.case(job.language, result)
        return result

    async def _run(self, worlds: list[World], **limits: Any) -> Outcome:
        """Run an order on a free slot; once more on another where the first was lost."""
        for last in (False, True):
            try:
                async with self._lease() as slot:
                    return await slot.run(worlds, **limits)
            except SlotLostError:
                if last:
                    raise
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def _lease(self) -> AsyncIterator[Slot]:
        """A free slot for one order. A slot that is lost, or left in the middle of an order, is replaced."""
        slot = await self._free.get()
        done = False
        try:
            yield slot
            done = True
        finally:
            if done and slot.num_orders < self.settings.orders_per_slot:
                self._free.put_nowait(slot)
            else:
                task = asyncio.create_task(self._replace(slot, lost=not done))
                self._restarts.add(task)
                task.add_done_callback(self._restarts.discard)

    async def _replace(self, slot: Slot, *, lost: bool) -> None:
        log.log(logging.WARNING if lost else logging.INFO, "slot=%d replaced lost=%s", slot.index, lost)
        self._metrics.replaced.labels("lost" if lost else "worn").inc()
        del self.slots[slot.index]
        with suppress(TimeoutError):
            await slot.destroy()
        while True:
            try:
                return await self._add()
            except (SlotLostError, OSError) as error:
                log.error("slot=start_failed error=%s", error)
                await asyncio.sleep(RESTART_S)

    async def _add(self) -> None:
        settings = self.settings
        slot = Slot(
            self._next,
            self._state,
            self._state / "root",
            self._cgroups,
            memory_bytes=(settings.memory_mb << 20) + (64 << 20),
            processes=settings.processes + PROCESSES_BESIDE,
            cores=settings.cores_per_slot,
        )
        self._next += 1
        try:
            await slot.start()
        except BaseException:
            await slot.destroy()
            raise
        self.slots[slot.index] = slot
        self._free.put_nowait(slot)
