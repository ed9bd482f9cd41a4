"""Create the locked environments: `python3 infra/setup.py [control] [engine] [bench] [tests]`.

Without a name control and engine; bench is what benchmarks compare with.

Guarantees: every wheel is checked against the hashes in containers/locks; a second call with unchanged
locks does nothing; a call that was interrupted is finished by the next one. Exit code 2 says what to do.
Needs nothing but Python's standard library.
"""

import ctypes.util
import errno
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
LOCKS = ROOT / "containers" / "locks"
UV = VENV / "tools" / "bin" / "uv"
APT_LIBRARIES = {"libibverbs1": "ibverbs", "libnuma1": "numa", "libcurl4": "curl"}
APT_PROGRAMS = {"crun": "crun", "bubblewrap": "bwrap"}  # for the sandbox
APT_FOR_TESTS = {"etcd-server": "etcd"}
TORCH_REMEDY = (
    "PyTorch's CPU wheel was not found among the packages pip reaches.\n"
    "Set PIP_EXTRA_INDEX_URL to PyTorch's own CPU wheel index (pytorch.org, 'Get Started', Pip, CPU) "
    "and run this again."
)
LOCK_FILES = {
    "tools": ("tools.txt",),
    "control": ("control.txt",),
    "engine": ("torch-cpu.txt", "engine.txt"),
    "bench": ("torch-cpu.txt", "bench.txt"),
}
ENVIRONMENTS = ("control", "engine", "bench")
TESTS = "tests"  # no environment: what only tests need
STARTED = time.monotonic()


class SetupError(Exception):
    """What went wrong and what to do about it."""


def say(text: str) -> None:
    """One progress line with the seconds since the start."""
    print(f"setup {time.monotonic() - STARTED:6.1f} s  {text}", flush=True)


def disk_problem(error: OSError, place: Path) -> str:
    """One line on what the system refused under `place`, and the remedy."""
    remedies = {
        errno.ENOSPC: "free some disk",
        errno.EDQUOT: "free some disk",
        errno.ENOENT: "run make setup",
    }
    remedy = remedies.get(error.errno or 0, "see that it is yours to write")
    return f"{error.filename or place}: {error.strerror or error}; {remedy}, then run this again"


def run(name: str, command: list[str], remedy: str = "") -> None:
    """Run a command quietly; SetupError carries its last lines and the remedy."""
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-12:])
        raise SetupError(f"{name} failed:\n{tail}\n{remedy}".rstrip())


def stamp_of(name: str) -> str:
    """What an environment was made from: locks, package metadata, interpreter and place."""
    digest = hashlib.sha256()
    for path in [*(LOCKS / lock for lock in LOCK_FILES[name]), ROOT / "pyproject.toml", Path(__file__)]:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    digest.update(f"{sys.version_info[:2]} {ROOT}".encode())
    return digest.hexdigest()


def is_current(name: str) -> bool:
    """Whether the environment was completed from exactly these locks."""
    stamp = VENV / name / "k15-stamp"
    return stamp.is_file() and stamp.read_text() == stamp_of(name)


def make(name: str, steps: Callable[[], None]) -> None:
    """Bring one environment up to date; its stamp is written last."""
    if is_current(name):
        return
    steps()
    (VENV / name / "k15-stamp").write_text(stamp_of(name))
    say(f"{name} ready")


def install_tools() -> None:
    """.venv/tools: a pip of our own and a hash-checked uv."""
    say("tools: creating .venv/tools with uv")
    if not (VENV / "tools" / "bin" / "pip").exists():
        run(
            "python -m venv",
            [sys.executable, "-m", "venv", str(VENV / "tools")],
            "Install python3-venv and run this again.",
        )
    pip = [str(VENV / "tools" / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    run("installing uv", [*pip, "--require-hashes", "-r", str(LOCKS / "tools.txt")])


def create(name: str) -> str:
    """The environment's interpreter, in a fresh environment where it was missing or made elsewhere."""
    home = VENV / name
    if not (home / "bin" / "python").exists():
        shutil.rmtree(home, ignore_errors=True)
        run(f"creating .venv/{name}", [str(UV), "venv", "--quiet", "--python", sys.executable, str(home)])
    return str(home / "bin" / "python")


def install(name: str, lock: str) -> None:
    """The lock's packages, and k15 itself from this checkout."""
    python = create(name)
    uv = [str(UV), "pip", "install", "--quiet", "--python", python, "--no-deps"]
    if not os.environ.get("UV_LINK_MODE"):
        os.environ["UV_LINK_MODE"] = "hardlink"
    say(
        f"{name}: installing {sum('==' in line for line in (LOCKS / lock).read_text().splitlines())} packages"
    )
    run(f"installing {lock}", [*uv, "--require-hashes", "-r", str(LOCKS / lock)])
    run("installing k15", [*uv, "--no-build-isolation", "--editable", str(ROOT)])


def install_torch(name: str) -> None:
    """PyTorch's CPU build, by pip: it takes wheels from every place this machine's pip is configured for."""
    python = create(name)
    say(f"{name}: installing torch (CPU)")
    pip = [str(VENV / "tools" / "bin" / "python"), "-m", "pip", "--python", python, "install", "--quiet"]
    command = [*pip, "--no-deps", "--require-hashes", "-r", str(LOCKS / "torch-cpu.txt")]
    run("installing torch", command, TORCH_REMEDY)


def install_apt_libraries() -> None:
    """Mooncake's shared libraries and the sandbox's walls; without root, the line that installs the first."""
    missing = [package for package, library in APT_LIBRARIES.items() if not ctypes.util.find_library(library)]
    if os.geteuid() == 0:  # the sandbox needs root too, and says the line itself
        missing += [package for package, program in APT_PROGRAMS.items() if not shutil.which(program)]
    if not missing:
        return
    line = f"apt-get install -y --no-install-recommends {' '.join(missing)}"
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise SetupError(f"libraries are missing; run this, then setup again:\n  sudo {line}")
    apt_install(line)


def install_apt_for_tests() -> None:
    """Servers that tests start by themselves; without root those tests are skipped, and say so."""
    missing = [package for package, program in APT_FOR_TESTS.items() if not shutil.which(program)]
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        # Nothing is started as a service: RUNLEVEL is what the package's scripts go by.
        apt_install(f"env RUNLEVEL=1 apt-get install -y --no-install-recommends {' '.join(missing)}")


def apt_install(line: str) -> None:
    """Run an installing line, with the lists of packages renewed before."""
    say(f"apt: {line}")
    run("apt-get update", ["apt-get", "update", "-qq"])
    run("apt-get install", line.split())


def in_background(steps: Callable[[], None]) -> Callable[[], None]:
    """Start `steps` in a thread; calling the result waits for it and raises what it raised."""
    errors: list[SetupError | OSError] = []

    def guarded() -> None:
        try:
            steps()
        except (SetupError, OSError) as error:
            errors.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()

    def wait() -> None:
        thread.join()
        if errors:
            raise errors[0]

    return wait


def set_up(names: list[str]) -> None:
    """All of `names`, torch's slow unpacking beside the rest."""
    if "engine" in names:
        install_apt_libraries()
    if TESTS in names:
        install_apt_for_tests()
        names = [name for name in names if name != TESTS]
    if all(is_current(name) for name in names):
        return
    VENV.mkdir(exist_ok=True)
    with (VENV / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        make("tools", install_tools)
        torch = "engine" in names and not is_current("engine")
        if torch:
            create("engine")  # before two installers look for it
        wait_for_torch = in_background(lambda: install_torch("engine")) if torch else None
        if "control" in names:
            make("control", lambda: install("control", "control.txt"))
        if wait_for_torch:
            try:
                install("engine", "engine.txt")
            finally:
                wait_for_torch()
            make("engine", lambda: None)
        if "bench" in names:
            make("bench", install_bench)


def install_bench() -> None:
    """What benchmarks compare with, apart from what they measure."""
    install_torch("bench")
    install("bench", "bench.txt")


def main() -> int:
    """Parse the names, set up, turn a SetupError or a refusal of the disk into exit code 2."""
    names = sys.argv[1:] or ["control", "engine"]
    if unknown := [name for name in names if name not in (*ENVIRONMENTS, TESTS)]:
        known = ", ".join((*ENVIRONMENTS, TESTS))
        print(f"setup: unknown environment {unknown[0]!r}; there are {known}", file=sys.stderr)
        return 2
    if sys.version_info[:2] != (3, 11):
        found = shutil.which("python3.11")
        remedy = "make PYTHON=python3.11 ..." if found else "install Python 3.11 (with venv)"
        version = ".".join(str(part) for part in sys.version_info[:2])
        print(f"setup: the locks are for Python 3.11, this is {version}; {remedy}", file=sys.stderr)
        return 2
    try:
        set_up(names)
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"setup: {disk_problem(error, VENV)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
