"""The frozen base of every configuration, and TOML in and out of it."""

import json
import tomllib
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError


class Config(BaseModel):
    """A frozen record parsed once: unknown keys and wrong types are errors that name the field."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @classmethod
    def parse(cls, values: dict[str, Any], *, where: str) -> Self:
        """Validate `values` (as TOML or JSON gives them); ValueError names `where` and each field."""
        try:
            return cls.model_validate_json(json.dumps(values))
        except ValidationError as error:
            raise ValueError(_explain(error, where)) from None

    def resolved(self) -> dict[str, Any]:
        """Every field, defaults included, as plain JSON values."""
        return self.model_dump(mode="json")


def load_toml(path: Path) -> dict[str, Any]:
    """The table in a TOML file; ValueError says what is wrong with the file."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; pass a TOML recipe such as recipes/tiny/pipeline.toml")
    try:
        return tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: not valid TOML: {error}") from None


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`base` with `over` laid on top, table by table; neither argument is changed."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            value = merge(old, value)
        merged[key] = value
    return merged


def parse_override(text: str) -> dict[str, Any]:
    """`a.b.c=VALUE` as a nested table; VALUE is TOML (a bare word that is no TOML stays a string)."""
    path, separator, value = text.partition("=")
    if not separator or not path.strip():
        raise ValueError(f"--set {text}: write it as table.field=value, for example nodes.rl.recipe.tau=0.2")
    leaf: Any
    try:
        leaf = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        leaf = value
    table: dict[str, Any] = {}
    *parents, last = path.strip().split(".")
    inner = table
    for part in parents:
        inner = inner.setdefault(part, {})
    inner[last] = leaf
    return table


def _explain(error: ValidationError, where: str) -> str:
    lines = []
    for problem in error.errors():
        field = ".".join(str(part) for part in problem["loc"]) or "(whole)"
        hint = (
            "unknown key; remove it or correct its name"
            if problem["type"] == "extra_forbidden"
            else problem["msg"].removeprefix("Value error, ")
        )
        lines.append(f"{where}: {field}: {hint}")
    return "\n".join(lines)
