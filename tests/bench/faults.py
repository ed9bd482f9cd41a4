"""SIGKILL of every process of an RL phase at every boundary of a round: nothing skipped, twice or lost.

A real stage on a small model, under the flow's launcher. Each injection waits for a boundary (or a moment
drawn after it) and kills one of: stage, sampler, trainer, the flow above them, the S3 server. In the end
every prompt of the frontier was taken once, and every token that an engine drew, by its own ledger, is in the
commit of a round with its fate, or within what that round calls lost, with the reason; the policy is held,
to the bit, against that of a run that nobody disturbed.

`make bench NAME=faults ARGS="--injections 21 --seed 0"`; writes out/bench/faults.json.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from k15.store.job import Job
from tests.ledger import Watch, account
from tests.rl_stage import TRIES, RlStage, weights_digest
from tests.s3 import S3Server, s3_server

BOUNDARIES = ("starting", "begun", "middle", "sampled", "trained", "published", "committing", "committed")
PLAN = [
    *(("stages.rl", boundary) for boundary in BOUNDARIES),
    *(("stages.sampler", boundary) for boundary in ("begun", "middle", "published")),
    *(("stages.trainer", boundary) for boundary in ("begun", "sampled", "trained")),
    *(("flow", boundary) for boundary in ("begun", "middle", "committing")),
    *(("s3", boundary) for boundary in ("starting", "middle", "committing", "committed")),
]
MOMENT_S = {"starting": 15.0, "middle": 2.5}  # the kill comes within this, at random
WAIT_S = 1200.0
OUTAGE_S, SETTLE_S = 1.0, 1.0


def main() -> int:
    """Run the plan, then count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--injections", type=int, default=len(PLAN))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    drawn = random.Random(arguments.seed)
    plan = (PLAN * (1 + arguments.injections // len(PLAN)))[: arguments.injections]
    if arguments.injections < len(PLAN):
        plan = drawn.sample(PLAN, arguments.injections)
    else:
        drawn.shuffle(plan)
    with (
        tempfile.TemporaryDirectory(prefix="k15-faults-") as folder,
        s3_server(Path(folder) / "s3") as server,
    ):
        rl = RlStage(server, "faults", Path(folder) / "rl")
        try:
            figures = measure(rl, server, plan, drawn)
        finally:
            rl.end()
    for name, value in figures.items():
        print(f"{name:<28} {value:g}")
    target = Path("out/bench/faults.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(figures, indent=1))
    return 0


def measure(
    rl: RlStage, server: S3Server, plan: list[tuple[str, str]], drawn: random.Random
) -> dict[str, float]:
    """The figures of a disturbed run, held against one that was left alone."""
    recipe = {
        "rounds": 8 * len(plan) + 4,  # an injection takes three, and more where the stage goes on
        "prompts_per_round": 24,
        "samples_per_prompt": 4,
        "max_response_tokens": 96,
        "phase_token_budget": 24,
        "update": {"lr": 3e-4},
    }
    job = rl.rl(recipe, every=3)
    watch, began = Watch(), time.monotonic()
    for victim, boundary in plan:
        inject(rl, server, job, victim, boundary, drawn, watch)
    if (process := rl.running()) is not None:
        process.wait(WAIT_S)
    rl.run(job)
    disturbed_s = time.monotonic() - began
    calm = rl.rl({**recipe, "priority_prior": 0.4})  # which a uniform sampler does not read
    rl.run(calm)
    same = weights_digest(rl.manifest(job)) == weights_digest(rl.manifest(calm))
    return {
        "injections": len(watch.done),
        **account(rl, job, watch),
        "weights_as_undisturbed": float(same),
        "store_losses_survived": watch.survived,
        "rounds": len(rl.rounds(job)),
        "seconds_per_injection": disturbed_s / max(1, len(plan)),
    }


def inject(
    rl: RlStage, server: S3Server, job: Job, victim: str, boundary: str, drawn: random.Random, watch: Watch
) -> None:
    """Wait for the boundary in one of the stage's next rounds, kill, and look at the store."""
    later = drawn.randint(0, 1)
    process, last = at_boundary(rl, job, boundary, later)
    time.sleep(drawn.random() * MOMENT_S.get(boundary, 0.0))
    if victim == "s3":
        server.kill()
    else:
        kill(rl, process.pid, victim)
    watch.done.append((victim, boundary, last))
    if victim == "s3":
        time.sleep(OUTAGE_S)
        server.start()
        recovered(process, rl, job)
        watch.survived += process.poll() is None  # the next injection finds it at work
    else:
        process.wait(WAIT_S)
        wait_until_gone(rl)
    watch.look(rl, job)
    print(f"{len(watch.done):>3}  {victim:<15} {boundary:<11} with {last} rounds committed", flush=True)


def recovered(process: "subprocess.Popen[bytes]", rl: RlStage, job: Job) -> None:
    """Wait until the stage has committed another round to the store that is back, or has ended."""
    before, end_s = len(rl.rounds(job)), time.monotonic() + WAIT_S
    while process.poll() is None and len(rl.rounds(job)) <= before and time.monotonic() < end_s:
        time.sleep(0.1)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(SETTLE_S)  # one that faulted is about to end


def at_boundary(rl: RlStage, job: Job, boundary: str, later: int) -> tuple["subprocess.Popen[bytes]", int]:
    """The stage at a boundary of a round to come, started where it does not run, and the rounds committed."""
    process = rl.running()
    if process is not None and boundary == "starting":
        for pid in family(process.pid):
            end(pid)
        process.wait(WAIT_S)
        wait_until_gone(rl)
        process = None
    for _ in range(TRIES):
        last = len(rl.rounds(job))
        ahead = later if process is None else later + 2  # rounds that one at work may be in already
        process = process or rl.start(job)
        wanted = f"round={last + ahead} at={'begun' if boundary in MOMENT_S else boundary}"
        if boundary == "starting" or came(process, rl.log_path(job), wanted):
            return process, last
        process = None
    raise RuntimeError(f"{wanted} never came:\n{rl.log(job)[-3000:]}")


def came(process: "subprocess.Popen[bytes]", log: Path, wanted: str) -> bool:
    """Wait until the stage says `wanted`; False where it ends first."""
    while wanted not in log.read_text(errors="replace"):
        if process.poll() is not None:
            return False
        time.sleep(0.01)
    return True


def kill(rl: RlStage, flow: int, victim: str) -> None:
    """SIGKILL the flow, or the one process below it that runs a module."""
    if victim == "flow":
        end(flow)
        return
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        found = [pid for pid in family(flow) if victim in command(pid)]
        if found:
            end(found[-1])
            return
        if not psutil.pid_exists(flow):
            break
        time.sleep(0.02)
    raise RuntimeError(f"there is no {victim} to kill in {rl.folder}")


def family(root: int) -> list[int]:
    """A process and all below it."""
    try:
        return [root, *(child.pid for child in psutil.Process(root).children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def command(pid: int) -> str:
    """A process's command line; empty where it is gone."""
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def end(pid: int) -> None:
    """SIGKILL, quiet where it is gone."""
    if psutil.pid_exists(pid):
        os.kill(pid, signal.SIGKILL)


def wait_until_gone(rl: RlStage) -> None:
    """Nothing a killed run started is left; RuntimeError where something stays."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        left = []
        for process in psutil.process_iter():
            try:
                mine = process.environ().get("TMPDIR") == rl.environment["TMPDIR"]
                left += [process.pid] * (mine and process.status() != psutil.STATUS_ZOMBIE)
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        if not left:
            return
        time.sleep(0.1)
    raise RuntimeError(f"processes {left} outlived the run that started them")


if __name__ == "__main__":
    sys.exit(main())
