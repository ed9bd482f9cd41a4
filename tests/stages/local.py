"""What a stage's body takes and gives, in local folders; and a tiny model to give it."""

import hashlib
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow

from k15.recipes.pipeline import Resources
from k15.stage import MetricLog
from k15.store.tables import encode_table
from k15.tasks.tokenizer import train_tokenizer

ADDITIONS = [(a, b) for a in range(12) for b in range(12)]


@dataclass
class LocalInput:
    """An artifact's part in a folder, or one table of it, or a file's bytes."""

    directory: Path = Path()
    tables: dict[str, pyarrow.Table] = field(default_factory=dict)
    uri: str = "local://input"
    content: bytes = b""

    def read_bytes(self) -> bytes:
        return self.content

    def download(self, directory: Path) -> Path:
        return Path(shutil.copytree(self.directory, directory))

    @property
    def files(self) -> list["LocalFile"]:
        return [LocalFile(path, table) for path, table in self.tables.items()]

    def copy_file(self, path: str, local: Path) -> None:
        local.write_bytes(encode_table(self.tables[path]))

    def read_table(self, path: str) -> pyarrow.Table:
        return self.tables[path]


@dataclass
class LocalFile:
    """A table's entry."""

    path: str
    table: pyarrow.Table

    @property
    def sha256(self) -> str:
        return hashlib.sha256(encode_table(self.table)).hexdigest()


class LocalSteps:
    """Step checkpoints in a folder, which may have some."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._list = folder / "kept.json"
        kept = json.loads(self._list.read_text()) if self._list.is_file() else []
        self.kept = [SimpleNamespace(**record) for record in kept]

    def last(self) -> SimpleNamespace | None:
        return self.kept[-1] if self.kept else None

    def uri(self, record: SimpleNamespace) -> str:
        return f"local://steps/{record.number}"

    def download(self, record: SimpleNamespace, directory: Path) -> Path:
        return Path(shutil.copytree(self._folder / str(record.number), directory))

    def save(self, number: int, directory: Path, state: dict[str, Any]) -> None:
        shutil.copytree(directory, self._folder / str(number))
        self.kept.append(SimpleNamespace(number=number, state=json.loads(json.dumps(state))))
        self._list.write_text(json.dumps([vars(record) for record in self.kept]))


class LocalObjects:
    """Objects in memory, and the paths that were written."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def uri(self, path: str) -> str:
        return f"local://{path}"

    def get(self, path: str) -> bytes:
        if path not in self.kept:
            raise FileNotFoundError(path)
        return self.kept[path]

    def put_if_absent(self, path: str, data: bytes) -> bool:
        return self.kept.setdefault(path, data) == data

    def delete(self, paths: list[str]) -> None:
        for path in paths:
            del self.kept[path]


class LocalRounds:
    """A store in which no round was committed; what is, is counted and gone."""

    def __init__(self) -> None:
        self.num_committed = 0
        self.objects = LocalObjects()

    def rounds(self, key: str) -> list[Any]:
        return []

    def begin(self, key: str) -> SimpleNamespace:
        return SimpleNamespace(write_table={}.__setitem__)

    def commit_round(self, key: str, number: int, attempt: Any, state: dict[str, Any]) -> bool:
        self.num_committed += 1
        return True


class NoMirror:
    """MLflow is away."""

    def log(self, step: int, values: dict[str, float]) -> None: ...


@dataclass
class LocalContext:
    """What a body uses of StageContext; the parts of its output are `parts`."""

    inputs: dict[str, LocalInput]
    scratch: Path
    stop_after: int = 10**9
    resources: Resources = field(default_factory=Resources)
    steps: LocalSteps | None = None
    summary: dict[str, float] = field(default_factory=dict)
    parts: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.scratch.mkdir()
        self.job = SimpleNamespace(resources=self.resources, key="0" * 64)
        self.store = LocalRounds()
        self.lease = SimpleNamespace(epoch=1)
        self.metrics = MetricLog(NoMirror())
        self.steps = self.steps or LocalSteps(self.scratch / "steps")
        self.written: dict[str, Any] = {}
        self.out = SimpleNamespace(
            add_directory=self.parts.__setitem__,
            write_json=self.written.__setitem__,
            write_table=self.written.__setitem__,
            write_bytes=self.written.__setitem__,
        )

    @property
    def rows(self) -> list[dict[str, float]]:
        return self.metrics.rows

    def show(self, done: int, total: int, what: str) -> None:
        assert done <= total

    def progress(self, done: int, total: int, what: str) -> None:
        self.show(done, total, what)

    def stopping(self) -> bool:
        return len(self.rows) >= self.stop_after


def save_model(directory: Path, **options: Any) -> Path:
    """A tiny Qwen3 with a tokenizer of its own; `options` are save_pretrained's."""
    import torch
    import transformers

    tokenizer = train_tokenizer([f"{a} + {b} = {a + b}" for a, b in ADDITIONS], 270)
    config = transformers.Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=64,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    transformers.Qwen3ForCausalLM(config).save_pretrained(directory, **options)
    tokenizer.save_pretrained(directory)
    return directory
