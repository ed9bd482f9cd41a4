"""The digest of a stage's own code: the modules it imports or starts by name, read statically.

Comments, docstrings and layout do not count. Left out: recipes, whose every value is in the stage key, and
the machinery that stores, mirrors and starts stages, which does not make their results.
"""

import ast
import hashlib
import re
from functools import lru_cache
from pathlib import Path

PACKAGES = ("k15", "stages")
STARTED = re.compile(r"stages(\.\w+)+")  # the whole of a string: a service, started as `python -m stages.…`
LEFT_OUT = ("k15.cli", "k15.recipes", "k15.report", "k15.stage", "k15.store")
COUNTED = ("k15.store.tables",)


def code_digest(root: Path, kind: str) -> str:
    """The digest over the import closure of `root`/stages/<kind>.py; "" where there is no such file."""
    return module_digest(root, f"stages.{kind}")


def module_digest(root: Path, name: str) -> str:
    """The digest over the import closure of one module; "" where there is no such file."""
    found = closure(root, name)
    if name not in found:
        return ""
    digest = hashlib.sha256()
    for module, path in sorted(found.items()):
        digest.update(f"{module}\0{_read(path, path.stat().st_mtime_ns)[0]}\0".encode())
    return f"sha256:{digest.hexdigest()}"


def source_digest(root: Path) -> str:
    """The digest over every Python file of the library and the stages: what an image of them holds."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.relative_to(root)}\0{content}\0".encode())
    return f"sha256:{digest.hexdigest()}"


def closure(root: Path, module: str) -> dict[str, Path]:
    """Every counted project module that `module` imports or starts, directly or not, with its file."""
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _file(root, name)
        if path is None or name in found or _left_out(name):
            continue
        found[name] = path
        waiting += _read(path, path.stat().st_mtime_ns)[1]
    return found


def _left_out(module: str) -> bool:
    return module not in COUNTED and any(module == room or module.startswith(f"{room}.") for room in LEFT_OUT)


def _file(root: Path, module: str) -> Path | None:
    if module.partition(".")[0] not in PACKAGES:
        return None
    base = root.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


@lru_cache(maxsize=4096)
def _read(path: Path, modified_ns: int) -> tuple[str, tuple[str, ...]]:  # noqa: ARG001 (part of the cache's key)
    """A file's code without comments and docstrings, and the modules it may import or start."""
    tree = ast.parse(path.read_bytes(), filename=str(path))
    imported: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            imported += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and STARTED.fullmatch(node.value):
            imported.append(node.value)
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = node.body[ast.get_docstring(node, clean=False) is not None :]
    return ast.dump(tree), tuple(imported)
