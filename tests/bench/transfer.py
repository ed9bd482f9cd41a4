# environment: engine
"""The weights of a 135M model from trainer to sampler: shared memory, Mooncake over TCP, and the S3 store.

    make bench NAME=transfer

Two processes of one host, SmolLM2-135M's shapes in bf16 (269 MB, random values), all ways by turns in one
run; a first turn warms up. Every ratio is taken within a turn; its median is given, its least as `…_least`.
shm_of_memcpy: seconds of libc's memcpy over those of laying the tensors into the segment and finding them in
the sampler. tcp_of_bare: seconds of Mooncake's bare writes of the same bytes to the same process, bucket by
bucket, over those of our transfer. Both without checksums, which are timed and printed apart.
speedup_over_s3: a round trip through the store (safetensors, upload, commit, verified download, load) over
the slower channel from tensor to verified bytes, checksums included.
peer_killed_…: a trainer killed (SIGKILL) in the middle of such a transfer: seconds to the sampler's error,
whether it still serves the old weights whole, and whether it takes a version of the next trainer.
Writes out/bench/transfer.json.
"""

import ctypes
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from k15.engines.channels import open_sender
from k15.engines.weights import BUCKET_BYTES, HEADER_BYTES, buckets, layout_bytes
from k15.records import WeightSource, WeightTicket
from k15.store.artifact import Store
from tests.bench.peers.weights_of_135m import HOST, TIMEOUT_S, layout, tensors
from tests.engines import channel_ends
from tests.s3 import s3_server

ROOT = Path(__file__).parents[2]
TURNS = 15
S3_EVERY = 3  # turns
KEY = "0" * 64
DEADLINE_S = 600.0
KILLED_DEADLINE_S = 30.0
Row = dict[str, float]


class Replica:
    """The sampler's process."""

    def __init__(self, transport: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.peers.weights_of_135m", transport],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.source: dict[str, Any] | None = self._answer()

    def take(self, ticket: WeightTicket) -> Row:
        """Its seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(dataclasses.asdict(ticket)) + "\n")
        self._process.stdin.flush()
        return dict(self._answer())

    def end(self) -> None:
        """Let it go."""
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the replica ended with exit code {self._process.wait()}")
        return json.loads(line)


def seconds_of(act: Callable[[], Any]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


class Channel:
    """One transport's two ends, and the bare copy it is held against."""

    def __init__(self, transport: str, bare: Callable[[Any, Replica], Callable[[], Any]]) -> None:
        self._transport = transport
        self._replica = Replica(transport)
        self._sender: Any = open_sender(transport, layout(), host=HOST, timeout_s=TIMEOUT_S)
        self._bare = bare(self._sender, self._replica)

    def turn(self, version: int, values: list[tuple[str, torch.Tensor]]) -> Row:
        """The bare copy, then one version from tensor to verified bytes in the sampler."""
        bare_s = seconds_of(self._bare)
        total = time.perf_counter()
        ticket = self._sender.send(values, version, deadline_s=DEADLINE_S)
        taken = self._replica.take(ticket)
        total_s = time.perf_counter() - total - taken["copy_s"]
        pack_s, moved_s = self._sender.seconds.move, taken["move_s"]
        compared_s = pack_s + moved_s if self._transport == "shared_memory" else moved_s
        return {
            "bare_s": bare_s,
            "pack_s": pack_s,
            "move_s": moved_s,
            "checksums_s": self._sender.seconds.checksum + taken["checksum_s"],
            "total_s": total_s,
            "copied_out_s": taken["copy_s"],
            "of_bare": bare_s / compared_s,
            "end_to_end_of_bare": bare_s / (pack_s + moved_s),
        }

    def end(self) -> None:
        """Let both ends go."""
        self._sender.close()
        self._replica.end()


def memcpy(sender: Any, _: Replica) -> Callable[[], Any]:
    """libc's memcpy of as many bytes, between two buffers that were touched before."""
    num_bytes = layout_bytes(layout())
    source, target = torch.ones(num_bytes, dtype=torch.uint8), torch.zeros(num_bytes, dtype=torch.uint8)
    return lambda: ctypes.memmove(target.data_ptr(), source.data_ptr(), num_bytes)


def bare_writes(sender: Any, replica: Replica) -> Callable[[], Any]:
    """Mooncake's own write from the trainer's registered memory to the sampler's, bucket by bucket."""
    assert replica.source is not None
    to = WeightSource(**replica.source)
    engine, base = sender._registered._engine, sender._registered.source.base + HEADER_BYTES

    def write() -> None:
        for offset, size in buckets(layout_bytes(layout())):
            code = engine.transfer_sync_write(to.place, base + offset, to.base + HEADER_BYTES + offset, size)
            if code:
                raise RuntimeError(f"a bare write failed with code {code}")

    return write


def through_s3(store: Store, number: int, values: list[tuple[str, torch.Tensor]], folder: Path) -> Row:
    """The same tensors as a stage would hand them over."""
    out, back = folder / f"out-{number}", folder / f"back-{number}"
    out.mkdir()
    attempt = store.begin(KEY)
    steps = {
        "save_s": seconds_of(lambda: save_file(dict(values), out / "model.safetensors")),
        "upload_s": seconds_of(lambda: attempt.add_directory("model", out)),
        "commit_s": seconds_of(lambda: store.commit_round(KEY, number, attempt, {})),
    }
    artifact = store.open_round(store.rounds(KEY)[-1])
    steps["download_s"] = seconds_of(lambda: artifact.download(back, "model"))
    found = list(back.rglob("*.safetensors"))
    steps["load_s"] = seconds_of(lambda: [tensor.clone() for tensor in load_file(found[0]).values()])
    return {**steps, "total_s": sum(steps.values())}


def by_turns(folder: Path) -> dict[str, list[Row]]:
    """Every way's turns but the one that warms up."""
    rows: dict[str, list[Row]] = {"shm": [], "tcp": [], "s3": []}
    values = tensors(0)
    channels = {"shm": Channel("shared_memory", memcpy), "tcp": Channel("tcp", bare_writes)}
    try:
        with s3_server(folder / "s3") as server:
            store = Store.from_environment(server.environment)
            for number in range(TURNS + 1):
                for name, channel in channels.items():
                    rows[name].append(channel.turn(number, values))
                if number % S3_EVERY == 0:
                    slower_s = max(rows[name][-1]["total_s"] for name in channels)
                    row = through_s3(store, number // S3_EVERY, values, folder)
                    rows["s3"].append({**row, "over_channel": row["total_s"] / slower_s})
    finally:
        for channel in channels.values():
            channel.end()
    return {name: turns[1:] for name, turns in rows.items()}


def peer_killed(transport: str) -> Row:
    """A trainer's death in the middle of a transfer, as the sampler sees it.

    In shared memory it dies while it lays out the version, over the wire while the sampler reads it.
    """
    num_bytes = layout_bytes(layout())
    ends: list[channel_ends.End] = []

    def start(kind: type[Any]) -> Any:
        ends.append(kind(kind.__name__.lower(), transport, num_bytes, host=HOST))
        return ends[-1].ready()  # type: ignore[attr-defined]

    try:
        replica, trainer = start(channel_ends.Replica), start(channel_ends.Trainer)
        replica.update(trainer.send(1), deadline_s=KILLED_DEADLINE_S)
        ticket = trainer.send(2)
        if transport == "shared_memory":
            ticket = replace(ticket, version=3)
            trainer.tell(version=3, value=3.0, stall=True)
            assert trainer.line() == "midway"
        else:
            replica.ask(ticket, deadline_s=KILLED_DEADLINE_S)
            assert replica.line() == "midway"
        trainer.process.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        trainer.process.wait()
        if transport == "shared_memory":
            replica.ask(ticket, deadline_s=KILLED_DEADLINE_S)
        try:
            replica.settle()
        except ConnectionError as error:
            print(f"  {transport}: {error}")
        else:
            raise RuntimeError(f"{transport}: the transfer was over before the trainer died")
        error_s = time.monotonic() - killed
        intact = replica.serves(1)
        replica.update(start(channel_ends.Trainer).send(3), deadline_s=KILLED_DEADLINE_S)
        return {
            "error_s": error_s,
            "old_weights_intact": float(intact),
            "next_attempt_works": float(replica.serves(3)),
        }
    finally:
        for end in ends:
            end.end()


def show(name: str, rows: list[Row], num_bytes: int) -> Row:
    """A way's lines of the table; its medians."""
    print(f"\n{name} ({len(rows)} turns)            median      least")
    medians = {step: median(row[step] for row in rows) for step in rows[0]}
    for step, value in medians.items():
        rate = f"{num_bytes / value / 1e9:8.2f} GB/s" if step.endswith("_s") else ""
        print(f"  {step:24s} {value:10.4f} {min(row[step] for row in rows):10.4f} {rate}")
    return medians


def main() -> None:
    """Measure, print, write."""
    os.environ |= {"GLOG_minloglevel": "2"}  # Mooncake narrates otherwise
    torch.set_num_threads(1)
    num_bytes = layout_bytes(layout())
    print(f"{num_bytes / 1e6:.0f} MB in {len(layout())} tensors, buckets of {BUCKET_BYTES / 1e6:.0f} MB")
    with tempfile.TemporaryDirectory() as folder:
        rows = by_turns(Path(folder))
    titles = {
        "shm": "shared memory; bare: memcpy",
        "tcp": "Mooncake TCP; bare: its own writes",
        "s3": "S3 (SeaweedFS)",
    }
    ratios = {
        "shm_of_memcpy": [row["of_bare"] for row in rows["shm"]],
        "tcp_of_bare": [row["of_bare"] for row in rows["tcp"]],
        "speedup_over_s3": [row["over_channel"] for row in rows["s3"]],
    }
    figures: Row = {name: median(values) for name, values in ratios.items()}
    figures |= {f"{name}_least": min(values) for name, values in ratios.items()}
    for name, title in titles.items():
        figures |= {f"{name}_{step}": value for step, value in show(title, rows[name], num_bytes).items()}
    print("\na trainer killed in the middle of a transfer")
    for name, transport in (("shm", "shared_memory"), ("tcp", "tcp")):
        figures |= {f"peer_killed_{name}_{what}": value for what, value in peer_killed(transport).items()}
    figures["peer_killed_deadline_s"] = KILLED_DEADLINE_S
    print()
    for name, value in figures.items():
        if name.startswith("peer_killed") or name.removesuffix("_least") in ratios:
            print(f"{name:36s} {value:8.2f}")
    out = ROOT / "out" / "bench" / "transfer.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
