"""Run the test suites side by side, each in its own environment: `python infra/test.py [SUITE …]`.

Lines are printed as they come, behind their suite's name. Exit code 0 where every suite passed. Arguments
after `--` go to every pytest: `python infra/test.py e2e -- -x -k killed`.
"""

import os
import subprocess
import sys
import threading
import time

MIRROR = "store/test_mirror.py"  # of the store's tests the one that needs an MLflow server
SUITES = {
    "engine": ("engine", "algo engines gpu loops recipes rewards stages store tasks", MIRROR),
    "control": ("control", f"cli flows infra report sizing {MIRROR}", ""),
    "e2e": ("control", "e2e", ""),
}
PYTEST = ("-v", "--no-header", "-rfE", "--durations=5")


def main(arguments: list[str]) -> int:
    """Start every suite, pass on what they print, sum up."""
    names, _, extra = " ".join(arguments).partition("--")
    chosen = names.split() or list(SUITES)
    if unknown := sorted(set(chosen) - set(SUITES)):
        print(f"make test: no suite {', '.join(unknown)}; there are {', '.join(SUITES)}", file=sys.stderr)
        return 2
    began = time.monotonic()
    results: dict[str, tuple[int, float]] = {}
    threads = [threading.Thread(target=run, args=(name, extra.split(), began, results)) for name in chosen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in chosen:
        code, seconds = results[name]
        print(f"tests: {name:8} {'passed' if code == 0 else f'FAILED (exit code {code})'} in {seconds:.0f} s")
    return exit_code([code for code, _ in results.values()])


def exit_code(codes: list[int]) -> int:
    """0 where every suite ended with 0, else 1; one killed by a signal has a negative code."""
    return int(any(codes))


def run(name: str, extra: list[str], began: float, results: dict[str, tuple[int, float]]) -> None:
    """One suite to its end."""
    environment, taken, left_out = SUITES[name]
    paths = [f"tests/{path}" for path in taken.split()] + [
        f"--ignore=tests/{path}" for path in left_out.split()
    ]
    command = [f".venv/{environment}/bin/python", "-m", "pytest", *PYTEST, *extra, *paths]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip():
            sys.stdout.write(f"{name:8}| {line}")
            sys.stdout.flush()
    results[name] = (process.wait(), time.monotonic() - began)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
