"""Control groups made ahead, one for each slot: memory, processes, CPU. Version 1 (hybrid) and version 2."""

import contextlib
import os
import signal
import time
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
NAME = "k15-sandbox"
CONTROLLERS = ("memory", "pids", "cpu")
PERIOD_US = 100_000
GONE_S = 5.0


class Cgroups:
    """The groups of one service, named after its process."""

    def __init__(self) -> None:
        """OSError where this process may not make groups."""
        self.unified = (ROOT / "cgroup.controllers").exists()
        self._tops = [ROOT if self.unified else ROOT / name for name in _own(self.unified)]
        self._tops = [
            top / own.lstrip("/") for top, own in zip(self._tops, _own(self.unified).values(), strict=True)
        ]
        sweep(self._tops)
        if self.unified:
            _delegate(self._tops[0])
        self._tops = [top / f"{NAME}-{os.getpid()}" for top in self._tops]
        for top in self._tops:
            top.mkdir(exist_ok=True)
            if self.unified:
                (top / "cgroup.subtree_control").write_text("+memory +pids +cpu")

    def make(self, name: str, *, memory_bytes: int, processes: int, cores: float) -> list[Path]:
        """A slot's group: its folder for each controller."""
        folders = [top / name for top in self._tops]
        for folder in folders:
            folder.mkdir()
        quota = int(cores * PERIOD_US)
        if self.unified:
            settings = {
                "memory.max": memory_bytes,
                "memory.swap.max": 0,
                "pids.max": processes,
                "cpu.max": f"{quota} {PERIOD_US}",
            }
        else:
            settings = {
                "memory.limit_in_bytes": memory_bytes,
                "pids.max": processes,
                "cpu.cfs_quota_us": quota,
            }
        for file, value in settings.items():
            for folder in folders:
                if (folder / file).exists():
                    (folder / file).write_text(str(value))
        return folders

    def remove(self, folders: list[Path]) -> None:
        """End whatever is in a slot's group, then take it away."""
        end_group(folders)

    def close(self) -> None:
        """Take the service's own groups away."""
        sweep([top.parent for top in self._tops], pid=os.getpid())


def sweep(tops: list[Path], pid: int | None = None) -> None:
    """Take away the groups of services that are gone; with `pid` those of that one."""
    for top in tops:
        for folder in top.glob(f"{NAME}-*"):
            owner = int(folder.name.rpartition("-")[2])
            if owner == pid or (pid is None and not Path(f"/proc/{owner}").exists()):
                end_group([slot for slot in folder.iterdir() if slot.is_dir()])
                with contextlib.suppress(FileNotFoundError):
                    folder.rmdir()


def end_group(folders: list[Path]) -> None:
    """Kill every process in the groups and remove them; TimeoutError where the kernel keeps one."""
    deadline_s = time.monotonic() + GONE_S
    for folder in folders:
        while folder.exists():
            with contextlib.suppress(FileNotFoundError):
                for pid in (folder / "cgroup.procs").read_text().split():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
            try:
                folder.rmdir()
            except FileNotFoundError:
                break
            except OSError:
                if time.monotonic() > deadline_s:
                    raise TimeoutError(f"{folder}: its processes do not end") from None
                time.sleep(0.002)


def _own(unified: bool) -> dict[str, str]:
    """This process's own group under each controller."""
    own: dict[str, str] = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(",") if names else ("",):
            own[name] = path
    if unified:
        return {"": own[""]}
    if missing := [name for name in CONTROLLERS if name not in own]:
        raise OSError(f"no cgroup controller {', '.join(missing)}; slots need {', '.join(CONTROLLERS)}")
    return {name: own[name] for name in CONTROLLERS}


def _delegate(top: Path) -> None:
    """Version 2 lets a group hold processes or children: move this one's into a child of it."""
    leaf = top / "k15-service"
    leaf.mkdir(exist_ok=True)
    for pid in (top / "cgroup.procs").read_text().split():
        with contextlib.suppress(ProcessLookupError):
            (leaf / "cgroup.procs").write_text(pid)
    (top / "cgroup.subtree_control").write_text("+memory +pids +cpu")
