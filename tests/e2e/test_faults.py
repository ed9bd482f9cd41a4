"""SIGKILL of every process of a run, each mid-round: the next run finishes, nothing done is done again."""

import pytest

from k15.store.artifact import Store
from k15.store.manifest import Manifest
from k15.store.runs import latest_run
from tests.e2e.driver import Cli, wait_for

ROUNDS = 16  # enough that the phase still runs when its first committed round is seen


def rl_keys(store: Store) -> set[str]:
    """Keys of the stages that have committed a round."""
    return {info.path.split("/")[1] for info in store.objects.list("rounds/")}


def rounds(store: Store, key: str) -> list[str]:
    """Attempts of a stage's committed rounds."""
    return [committed.attempt for committed in store.rounds(key)]


def attempts(store: Store) -> dict[str, set[str]]:
    """Every attempt that wrote anything, by stage key: who does a thing twice leaves two."""
    found: dict[str, set[str]] = {}
    for info in store.objects.list("attempts/"):
        key, attempt = info.path.split("/")[1:3]
        found.setdefault(key, set()).add(attempt)
    return found


def final_rl(store: Store, seed: int) -> Manifest:
    (found,) = [m for m in store.manifests() if m.kind == "rl" and m.recipe["seed"] == seed]
    return found


@pytest.mark.parametrize(
    ("victim", "seed"),
    [
        ("flows.pipeline", 101),
        ("stages.rl", 102),
        ("stages.sampler", 103),
        ("stages.trainer", 104),
        ("s3", 105),
    ],
)
def test_a_run_killed_mid_round_is_finished_by_the_next(cli: Cli, store: Store, kill_s3, trunk, victim, seed):
    arguments = (
        "run",
        str(trunk),
        f"--set=nodes.rl.recipe.rounds={ROUNDS}",
        "--set=nodes.rl.recipe.prompts_per_round=16",
        f"--set=nodes.rl.recipe.seed={seed}",
    )
    before, before_the_kill = rl_keys(store), attempts(store)
    finished = {manifest.key for manifest in store.manifests()}
    with cli.start(*arguments) as run:
        wait_for(lambda: bool(rl_keys(store) - before), "a round", every_s=0.05)
        with cli.held("stages."):  # the phase cannot end while the test looks, however slow the machine
            (key,) = rl_keys(store) - before
            committed = rounds(store, key)
            assert len(committed) < ROUNDS, "the phase ended before the kill"
            if victim != "s3":
                cli.kill(victim)
        if victim == "s3":
            kill_s3()
        run.wait(timeout=300)  # it may go on by its own retry or end by the fault
    wait_for(lambda: not cli.processes("stages."), "the end of every stage process", timeout_s=15)
    again = cli.run(*arguments)
    assert again.returncode == 0, again.stdout[-4000:] + again.stderr[-4000:]
    assert len(rounds(store, key)) == ROUNDS
    assert rounds(store, key)[: len(committed)] == committed, "a committed round was played again"
    record, afterwards = latest_run(store), attempts(store)
    assert all(node.cached for name, node in record.nodes.items() if name != "rl")
    assert all(afterwards[k] == before_the_kill[k] for k in finished), "a finished stage was run again"
    # One attempt a round, one for the stage, and at most the one that the kill interrupted.
    assert len(afterwards[key]) <= ROUNDS + 2
    manifest = final_rl(store, seed)
    verified = cli.run("verify", f"s3://k15/{cli.env['K15_S3_PREFIX']}/stages/{manifest.key}")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert not cli.processes("stages.") and not cli.processes("flows.")
