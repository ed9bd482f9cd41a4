# environment: engine
"""The weights of a 135M model from trainer to sampler: shared memory, Mooncake over TCP, and the S3 store.

    make bench NAME=transfer

Two processes of one host, SmolLM2-135M's shapes in bf16 (269 MB, random values), everything by turns, the
median of seven turns after one that warms up. shm_of_memcpy: seconds of libc's memcpy over those of laying
the tensors into the segment and finding them in the sampler. tcp_of_bare: seconds of Mooncake's bare writes
of the same bytes to the same process, bucket by bucket, over those of our transfer. Both without checksums,
which are timed and printed apart. speedup_over_s3: a round trip through the store (safetensors, upload,
commit, verified download, load) over the slower channel from tensor to verified bytes, checksums included.
Writes out/bench/transfer.json.
"""

import ctypes
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
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
from tests.s3 import s3_server

ROOT = Path(__file__).parents[2]
TURNS = 7
S3_TURNS = 3
KEY = "0" * 64
DEADLINE_S = 600.0
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


def channel(transport: str, bare: Callable[[Any, Replica], Callable[[], Any]]) -> Row:
    """Medians of the steps of a transfer, and of `bare`, by turns; kept ratios are medians of turns."""
    replica = Replica(transport)
    sender: Any = open_sender(transport, layout(), host=HOST, timeout_s=TIMEOUT_S)
    values = tensors(0)
    act = bare(sender, replica)
    rows: list[Row] = []
    try:
        for version in range(TURNS + 1):
            bare_s = seconds_of(act)
            total = time.perf_counter()
            ticket = sender.send(values, version, deadline_s=DEADLINE_S)
            taken = replica.take(ticket)
            total_s = time.perf_counter() - total - taken["copy_s"]
            pack_s, moved_s = sender.seconds.move, taken["move_s"]
            compared_s = pack_s + moved_s if transport == "shared_memory" else moved_s
            rows.append(
                {
                    "bare_s": bare_s,
                    "pack_s": pack_s,
                    "move_s": moved_s,
                    "checksums_s": sender.seconds.checksum + taken["checksum_s"],
                    "total_s": total_s,
                    "copied_out_s": taken["copy_s"],
                    "of_bare": bare_s / compared_s,
                    "end_to_end_of_bare": bare_s / (pack_s + moved_s),
                }
            )
    finally:
        sender.close()
        replica.end()
    return {name: median(row[name] for row in rows[1:]) for name in rows[0]}


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


def through_s3(folder: Path) -> Row:
    """The same tensors as a stage would hand them over: medians of the steps."""
    rows: list[Row] = []
    values = dict(tensors(0))
    with s3_server(folder / "s3") as server:
        store = Store.from_environment(server.environment)
        for number in range(S3_TURNS):
            out, back = folder / f"out-{number}", folder / f"back-{number}"
            out.mkdir()
            attempt = store.begin(KEY)
            save_s = seconds_of(lambda out=out: save_file(values, out / "model.safetensors"))
            upload_s = seconds_of(lambda a=attempt, out=out: a.add_directory("model", out))
            commit_s = seconds_of(lambda n=number, a=attempt: store.commit_round(KEY, n, a, {}))
            artifact = store.open_round(store.rounds(KEY)[-1])
            download_s = seconds_of(lambda a=artifact, back=back: a.download(back, "model"))
            found = list(back.rglob("*.safetensors"))
            load_s = seconds_of(lambda found=found: [t.clone() for t in load_file(found[0]).values()])
            steps = {"save_s": save_s, "upload_s": upload_s, "commit_s": commit_s}
            steps |= {"download_s": download_s, "load_s": load_s}
            rows.append({**steps, "total_s": sum(steps.values())})
    return {name: median(row[name] for row in rows) for name in rows[0]}


def show(name: str, row: Row, num_bytes: int) -> None:
    """A channel's lines of the table."""
    print(f"\n{name}")
    for step, value in row.items():
        rate = f"{num_bytes / value / 1e9:8.2f} GB/s" if step.endswith("_s") else ""
        print(f"  {step:24s} {value:10.4f} {rate}")


def main() -> None:
    """Measure, print, write."""
    os.environ |= {"GLOG_minloglevel": "2"}  # Mooncake narrates otherwise
    torch.set_num_threads(1)
    num_bytes = layout_bytes(layout())
    print(f"{num_bytes / 1e6:.0f} MB in {len(layout())} tensors, buckets of {BUCKET_BYTES / 1e6:.0f} MB")
    shm = channel("shared_memory", memcpy)
    show("shared memory; bare: memcpy", shm, num_bytes)
    tcp = channel("tcp", bare_writes)
    show("Mooncake TCP; bare: its own writes", tcp, num_bytes)
    with tempfile.TemporaryDirectory() as folder:
        s3 = through_s3(Path(folder))
    show("S3 (SeaweedFS)", s3, num_bytes)
    figures = {
        "shm_of_memcpy": shm["of_bare"],
        "tcp_of_bare": tcp["of_bare"],
        "speedup_over_s3": s3["total_s"] / max(shm["total_s"], tcp["total_s"]),
        "shm_speedup_over_s3": s3["total_s"] / shm["total_s"],
        "tcp_speedup_over_s3": s3["total_s"] / tcp["total_s"],
    }
    print()
    for name, value in figures.items():
        print(f"{name:24s} {value:8.2f}")
    for name, row in (("shm", shm), ("tcp", tcp), ("s3", s3)):
        figures |= {f"{name}_{step}": value for step, value in row.items()}
    out = ROOT / "out" / "bench" / "transfer.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
