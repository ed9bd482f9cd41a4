"""Training against transformers + TRL's SFTTrainer, packing, and the memory of the loss.

Both sides train the same six layers of SmolLM2-135M's shape on the same batches of eight rows with the same
optimizer, in fp32 with one thread each, and take turns; tokens per CPU-second of real tokens, so the ratio is
that of CPU-seconds. Their losses must agree step by step. Equal lengths: 256 tokens, all in the loss. Mixed:
GSM8K as it comes, loss on answers; SFTTrainer as it comes, which pads, and beside it with padding_free.
Prints a table, writes out/bench/training.json. `make bench NAME=training`; about half an hour of CPU.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from k15.algo.packing import packed

ROOT = Path(__file__).parents[2]
GSM8K = ROOT / ".." / "shared" / "data" / "gsm8k" / "train.jsonl"
ROWS_PER_STEP = 8
TURNS = 4  # of one step each; the first warms up
LOSS_TOLERANCE = 2e-4
WORKLOADS = {  # a row of the table: rows, and what the peer is started with
    "equal_lengths": ("equal", ()),
    "mixed_lengths": ("mixed", ()),
    "mixed_lengths_padding_free": ("mixed", ("padding_free",)),
}
CAPACITY = 4096
VOCABULARY = 151_936
LENGTHS, SMALL = (8_192, 16_384, 32_768), (256, "float32")  # hidden size and type: how it grows with length
LARGE_LENGTHS, LARGE = (1_024, 4_096), (5_120, "bfloat16")  # a 32B model's: hours of a CPU at the last length
PEERS = "tests/bench/peers"
MARK = "round "


class Side:
    """One process that trains when told to."""

    def __init__(self, environment: str, script: str, arguments: list[str]) -> None:
        self._process = subprocess.Popen(
            [*python(environment), f"{PEERS}/{script}", *arguments],
            cwd=ROOT,
            env=environment_variables(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=sys.stderr,
            text=True,
        )

    def turn(self, steps: int) -> dict[str, Any]:
        """CPU-seconds and losses of `steps` steps; RuntimeError where the process has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith(MARK):
                return dict(json.loads(line.removeprefix(MARK)))
        raise RuntimeError(f"a side of the benchmark ended with exit code {self._process.wait()}")

    def end(self) -> None:
        """Let it go."""
        self._process.terminate()
        self._process.communicate()


def python(environment: str) -> list[str]:
    """The interpreter of an environment."""
    return [str(ROOT / ".venv" / environment / "bin" / "python")]


def environment_variables() -> dict[str, str]:
    """One thread for each side, and no look at the network."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def compare(folder: Path, workload: str, extra: tuple[str, ...]) -> dict[str, float]:
    """Both sides in turns; RuntimeError where their losses differ."""
    arguments = [str(folder), workload, str(ROWS_PER_STEP), str(TURNS)]
    ours = Side("engine", "ours.py", arguments)
    theirs = Side("bench", "sft_trainer.py", [*arguments, *extra])
    try:
        turns = [(ours.turn(1), theirs.turn(1)) for _ in range(TURNS)]
    finally:
        ours.end()
        theirs.end()
    apart = max(abs(a["losses"][0] - b["losses"][0]) for a, b in turns)
    if apart > LOSS_TOLERANCE:
        raise RuntimeError(f"{workload}: the losses differ by {apart}; the sides do not train alike")
    rows = [json.loads(line) for line in (folder / f"{workload}.jsonl").read_text().splitlines()]
    tokens = sum(len(row["token_ids"]) for row in rows[ROWS_PER_STEP : TURNS * ROWS_PER_STEP])
    mine, peer = (sum(turn[side]["cpu_s"] for turn in turns[1:]) for side in (0, 1))
    ratios = [b["cpu_s"] / a["cpu_s"] for a, b in turns[1:]]
    return {
        "ours": tokens / mine,
        "trl": tokens / peer,
        "speed": median(ratios),
        "least": min(ratios),
        "loss_difference": apart,
    }


def fill(lengths: list[int]) -> float:
    """Real tokens among those of the packed sequences; what is longer than one comes in pieces."""
    pieces = [min(CAPACITY, size - start) for size in lengths for start in range(0, size, CAPACITY)]
    random.Random(0).shuffle(pieces)
    sequences = list(packed(pieces, lambda size: size, CAPACITY, seed="0"))
    return sum(pieces) / (CAPACITY * len(sequences))


def loss_gib(length: int, hidden: int, dtype: str) -> float:
    """What the loss adds at this length, measured in a process of its own."""
    sizes = [str(length), str(VOCABULARY), str(hidden), dtype]
    command = [*python("engine"), f"{PEERS}/loss_memory.py", *sizes]
    variables = {name: value for name, value in environment_variables().items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, text=True, check=True)
    gib = int(done.stdout) / 2**30
    print(f"{length} tokens × {VOCABULARY}, hidden {hidden}, {dtype}: loss_gib={gib:.3f}", flush=True)
    return gib


def main() -> int:
    """Measure, print, write."""
    if not GSM8K.is_file():
        print(f"bench: {GSM8K.resolve()} is missing: put GSM8K's train.jsonl there", file=sys.stderr)
        return 2
    subprocess.run([sys.executable, "infra/setup.py", "bench"], cwd=ROOT, check=True)
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare = [*python("engine"), f"{PEERS}/prepare.py", name, str(GSM8K)]
        subprocess.run(prepare, cwd=ROOT, env=environment_variables(), check=True)
        lengths = json.loads((folder / "lengths.json").read_text())
        for corpus in ("gsm8k", "docs"):
            figures[f"fill_{corpus}"] = fill(lengths[corpus])
            print(
                f"fill_{corpus}={figures[f'fill_{corpus}']:.4f}  {len(lengths[corpus])} documents", flush=True
            )
        for title, (workload, extra) in WORKLOADS.items():
            row = compare(folder, workload, extra)
            figures |= {f"{key}_{title}": value for key, value in row.items()}
            print(title, *(f"{key}={value:.4g}" for key, value in row.items()), sep="  ", flush=True)
    for length in LENGTHS:
        figures[f"loss_gib_{length}"] = loss_gib(length, *SMALL)
    figures["loss_gib"] = figures[f"loss_gib_{LENGTHS[-1]}"]
    few, more = (loss_gib(length, *LARGE) for length in LARGE_LENGTHS)
    per_token = (more - few) / (LARGE_LENGTHS[1] - LARGE_LENGTHS[0])
    figures["loss_gib_large"] = more + per_token * (LENGTHS[-1] - LARGE_LENGTHS[1])
    print(f"loss_gib={figures['loss_gib']:.3f} measured at {LENGTHS[-1]} tokens, hidden {SMALL[0]}")
    print(
        f"loss_gib_large={figures['loss_gib_large']:.3f} there at hidden {LARGE[0]}, by the line through both"
    )
    target = ROOT / "out" / "bench" / "training.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
