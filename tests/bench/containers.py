# services: local
"""What a container costs: a stage from start to end, by the Docker launcher and by the process launcher.

    make images && make bench NAME=containers [ARGS=run]

The stage is `documents` of recipes/activation, made once: each later start finds it done, so what is
measured is the way there and back (interpreter, imports, store, relay, container). overhead_s is the
difference of the medians over turns of both. With ARGS=run the whole tiny recipe also runs under both, each
in a prefix of its own: seconds of every stage, whether keys agree, and whether every manifest holds the
image. Writes out/bench/containers.json.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from uuid import uuid4

from flows.containers import DockerLauncher
from flows.launcher import Launcher, ProcessLauncher
from k15.recipes import Resources
from k15.store.artifact import Store
from k15.store.local import environment
from k15.store.plan import input_files, load_pipeline, resolve_job
from k15.store.runs import RunRecord, run_records

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes/activation/pipeline.toml"
TURNS = 7
LIMIT_S = 2.0


def main() -> int:
    """Measure, print, write; 1 where a container costs too much, or a run is not what it must be."""
    prefix = f"bench-containers-{uuid4().hex[:8]}"
    env = {**os.environ, **environment(ROOT, os.environ), "K15_S3_PREFIX": prefix}
    figures: dict[str, float] = overhead(env)
    good = figures["overhead_s"] < LIMIT_S
    if "run" in sys.argv[1:]:
        good = whole_runs(env, figures) and good
    target = ROOT / "out/bench/containers.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(figures, indent=1))
    print("  ".join(f"{name}={value:.3f}" for name, value in figures.items()))
    return 0 if good else 1


def overhead(env: dict[str, str]) -> dict[str, float]:
    """Medians of both launchers, in turns, so that both meet the same load."""
    store = Store.from_environment(env)
    pipeline = load_pipeline(RECIPE, [], ROOT)
    job = resolve_job(store, pipeline, "documents", {}, input_files(store, pipeline, ROOT, ingest=True))
    uri = store.put_job(job)
    launchers: dict[str, Launcher] = {
        "process": ProcessLauncher(ROOT / ".venv/engine/bin/python", ROOT, env),
        "docker": DockerLauncher.open(env),
    }
    launch(launchers["process"], uri)
    seconds: dict[str, list[float]] = {name: [] for name in launchers}
    for _ in range(TURNS + 1):
        for name, launcher in launchers.items():
            seconds[name].append(launch(launcher, uri))
    print(f"{'launcher':10}{'median':>9}{'least':>9}{'most':>9}")
    for name, values in seconds.items():
        kept = values[1:]  # the first of each warms caches up
        print(f"{name:10}{median(kept):9.3f}{min(kept):9.3f}{max(kept):9.3f}")
    medians = {f"{name}_s": median(values[1:]) for name, values in seconds.items()}
    return {**medians, "overhead_s": medians["docker_s"] - medians["process_s"]}


def launch(launcher: Launcher, uri: str) -> float:
    """Seconds from the start of a stage to its end."""
    began = time.monotonic()
    execution = launcher.start("corpus", uri, Resources(memory_gb=2.0))
    lines = list(execution.lines())
    code = execution.wait()
    if code:
        raise RuntimeError(f"{launcher.name}: exit code {code}\n" + "\n".join(lines[-15:]))
    return time.monotonic() - began


def whole_runs(env: dict[str, str], figures: dict[str, float]) -> bool:
    """The tiny recipe under both runtimes, and whether the containers made what the processes made."""
    runs: dict[str, RunRecord] = {}
    stores: dict[str, Store] = {}
    for runtime in ("process", "docker"):
        own = {**env, "K15_S3_PREFIX": f"{env['K15_S3_PREFIX']}-{runtime}"}
        done = subprocess.run(
            [sys.executable, "-m", "k15.cli.main", "run", "tiny", "--runtime", runtime], cwd=ROOT, env=own
        )
        stores[runtime] = Store.from_environment(own)
        if done.returncode:
            return False
        runs[runtime] = run_records(stores[runtime])[-1]
    print(f"{'stage':12}{'process':>10}{'docker':>10}  same key")
    digests = []
    for name, node in runs["docker"].nodes.items():
        other = runs["process"].nodes[name]
        manifest = stores["docker"].manifest(node.key)
        digests.append(manifest.provenance.image_digest if manifest else "")
        print(f"{name:12}{other.seconds:10.1f}{node.seconds:10.1f}  {node.key == other.key}")
        for runtime, record in runs.items():
            made = stores[runtime].manifest(record.nodes[name].key)
            if made is not None and name == "evaluate":
                print(f"  {runtime}: {json.dumps(made.summary)}")
    figures |= {f"{runtime}_run_s": record.seconds for runtime, record in runs.items()}
    return all(digest.startswith("sha256:") for digest in digests)


if __name__ == "__main__":
    sys.exit(main())
