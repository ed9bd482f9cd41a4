"""Hugging Face directories of safetensors: read tensor by tensor, written shard by shard."""

import errno
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

INDEX = "model.safetensors.index.json"
SHARD_BYTES = 2 * 1024**3  # at most
SHARDS = 16  # at least, of a model that is in memory while it is written
LEAST_BYTES = 8 * 1024**2  # smaller shards would spare nothing worth a file
COMPANIONS = (".json", ".jinja", ".md", ".model", ".tiktoken", ".txt")  # config, tokenizer, template, card


def shard_bytes_of(total_bytes: int) -> int:
    """The size of a shard that adds little to a model of `total_bytes` in memory."""
    return max(LEAST_BYTES, min(SHARD_BYTES, total_bytes // SHARDS))


class Checkpoint:
    """The tensors of a directory; one is in memory at a time."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._files = _locate(directory)

    @property
    def names(self) -> set[str]:
        """Every tensor's name."""
        return set(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one tensor, which is not read."""
        with safe_open(self._files[name], "pt") as file:
            return tuple(file.get_slice(name).get_shape())

    def copy(self, directory: Path) -> None:
        """The files as they are, in `directory`: config, weights and their index, and what goes with them.

        Pickles, other formats' weights, and whatever is none of COMPANIONS stay behind.
        """
        directory.mkdir(parents=True)
        shards = {path.name for path in self._files.values()}
        for path in sorted(self.directory.iterdir()):
            is_index = path.name.endswith(".index.json")
            is_companion = path.suffix in COMPANIONS and (path.name == INDEX or not is_index)
            if path.name in shards or (path.is_file() and is_companion):
                shutil.copyfile(path, directory / path.name)

    def tensor(self, name: str, *, cut: int | None = None, part: int = 0, parts: int = 1) -> Tensor:
        """One tensor, or one of its equal `parts` along dimension `cut`, read without the others.

        ValueError names a file that is broken, or a tensor that does not divide.
        """
        path = self._files[name]
        try:
            with safe_open(path, "pt") as file:
                if cut is None or parts == 1:
                    return file.get_tensor(name)
                whole = file.get_slice(name)
                size, rest = divmod(whole.get_shape()[cut], parts)
                if not rest:
                    kept = slice(part * size, (part + 1) * size)
                    return whole[(slice(None),) * cut + (kept,)]
        except SafetensorError as error:
            raise ValueError(f"{path}: tensor {name}: {error}") from None
        raise ValueError(f"{path}: {name}: dimension {cut} of {whole.get_shape()} does not divide by {parts}")


def read_config(directory: Path) -> dict[str, Any]:
    """The config.json of a model directory; ValueError names it where it is missing or broken."""
    path = directory / "config.json"
    if not path.is_file():
        raise ValueError(f"{path}: no such file; a model is a directory of config.json and safetensors")
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path}: it holds {type(config).__name__}, not an object of fields")
    return config


def save(
    directory: Path,
    tensors: Iterable[tuple[str, Tensor]],
    *,
    config: dict[str, Any],
    companions: Path,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write config, weights and the tokenizer's files of `companions`; a shard at most is held in memory."""
    directory.mkdir(parents=True, exist_ok=True)
    for path in sorted(companions.iterdir()):
        if path.is_file() and path.name != "config.json" and not _holds_weights(path.name):
            shutil.copyfile(path, directory / path.name)
    (directory / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    save_shards(directory, tensors, shard_bytes)


def save_shards(
    directory: Path, tensors: Iterable[tuple[str, Tensor]], shard_bytes: int = SHARD_BYTES
) -> None:
    """One model.safetensors where all fits in a shard, else model-0000x-of-0000y with an index."""
    drafts: list[list[str]] = []
    total = 0
    for number, shard in enumerate(_shards(tensors, shard_bytes)):
        drafts.append(list(shard))
        total += sum(t.numel() * t.element_size() for t in shard.values())
        _write(directory / f"draft-{number}.safetensors", shard)
    names = [f"model-{n + 1:05d}-of-{len(drafts):05d}.safetensors" for n in range(len(drafts))]
    if len(names) == 1:
        names = ["model.safetensors"]
    for number, name in enumerate(names):
        (directory / f"draft-{number}.safetensors").rename(directory / name)
    if len(names) > 1:
        weight_map = {tensor: name for name, held in zip(names, drafts, strict=True) for tensor in held}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (directory / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def _write(path: Path, shard: dict[str, Tensor]) -> None:
    """One shard; OSError ENOSPC where the disk is full, which safetensors reports in words of its own."""
    try:
        save_file(shard, path, metadata={"format": "pt"})
    except SafetensorError as error:
        if shutil.disk_usage(path.parent).free < sum(t.numel() * t.element_size() for t in shard.values()):
            raise OSError(errno.ENOSPC, f"no space left for a shard ({error})", str(path)) from None
        raise


def _shards(tensors: Iterable[tuple[str, Tensor]], shard_bytes: int) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    held = 0
    for name, tensor in tensors:
        size = tensor.numel() * tensor.element_size()
        if shard and held + size > shard_bytes:
            yield shard
            shard, held = {}, 0
        shard[name] = (
            tensor.detach().contiguous().cpu().clone()
        )  # views share storage, which safetensors refuses
        held += size
    yield shard


def _locate(directory: Path) -> dict[str, Path]:
    index = directory / INDEX
    if index.is_file():
        return _locate_shards(directory, index)
    single = directory / "model.safetensors"
    if not single.is_file():
        raise ValueError(
            f"{directory}: neither {INDEX} nor model.safetensors; pickled weights (.bin) are not read: "
            "write them as safetensors where you trust them, with from_pretrained and save_pretrained"
        )
    try:
        with safe_open(single, "pt") as file:
            return dict.fromkeys(file.keys(), single)
    except SafetensorError as error:
        raise ValueError(f"{single}: {error}") from None


def _locate_shards(directory: Path, index: Path) -> dict[str, Path]:
    """Where the index says each tensor is; ValueError names a shard that is missing, cut off or another's."""
    try:
        files = {name: directory / file for name, file in json.loads(index.read_text())["weight_map"].items()}
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{index}: not an index of shards: {type(error).__name__} {error}") from None
    for shard in sorted(set(files.values())):
        if not shard.is_file():
            raise ValueError(f"{shard}: no such file, but {INDEX} names it; fetch the model again")
        try:
            with safe_open(shard, "pt") as file:
                named = {name for name, path in files.items() if path == shard}
                lacks, extra = named - set(file.keys()), set(file.keys()) - named
        except SafetensorError as error:
            raise ValueError(f"{shard}: {error}; fetch the model again") from None
        if lacks:
            raise ValueError(f"{shard}: lacks {min(lacks)}, which {INDEX} says it has; fetch the model again")
        if extra:
            raise ValueError(f"{shard}: has {min(extra)}, which {INDEX} does not say; fetch the model again")
    return files


def _holds_weights(name: str) -> bool:
    return name == INDEX or name.endswith((".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack"))
