"""What a pipeline will do: parse and check it, resolve its jobs, say what is done, what will run and why."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from k15.config import load_toml, merge, parse_override
from k15.recipes import KINDS, Node, Pipeline, producers
from k15.store import raw
from k15.store.artifact import Store
from k15.store.code import code_digest
from k15.store.job import Context, Job
from k15.store.manifest import InputRef, Manifest

State = Literal["done", "will run", "decided later"]


@dataclass(frozen=True)
class Change:
    """One difference from the newest finished run of the same node."""

    field: str
    before: Any
    after: Any


@dataclass(frozen=True)
class PlanRow:
    """What will become of one node. `key` is "" while producers in `waits_for` are not done."""

    node: str
    kind: str
    key: str
    status: State
    waits_for: tuple[str, ...]
    code_changed: bool
    changed: tuple[Change, ...]


def load_pipeline(
    path: Path, overrides: Sequence[str] = (), root: Path | None = None, *, with_files: bool = True
) -> Pipeline:
    """A pipeline file with `--set` overrides, every node's kind, recipe, roles and files checked.

    Files are relative to `root` (the work directory) / files_root; they may be absent without `with_files`.
    ValueError lists each wrong field as nodes.<x>.…
    """
    values = load_toml(path)
    for text in overrides:
        values = merge(values, parse_override(text))
    pipeline = Pipeline.parse(values, where=str(path))
    pipeline.order()
    folder = (root or Path.cwd()) / pipeline.files_root
    problems = [
        problem
        for name, node in pipeline.nodes.items()
        for problem in _problems(name, node, folder if with_files else None)
    ]
    if problems:
        raise ValueError("\n".join(f"{path}: {problem}" for problem in problems))
    return pipeline


def input_files(store: Store, pipeline: Pipeline, root: Path, *, ingest: bool) -> dict[str, InputRef]:
    """Every local file or folder a pipeline names, by the path given; with `ingest` they enter the store."""
    names = sorted({name for node in pipeline.nodes.values() for name in node.files.values()})
    folder = root / pipeline.files_root
    return {n: store.ingest(folder / n) if ingest else raw.reference(folder / n) for n in names}


def resolve_job(
    store: Store,
    pipeline: Pipeline,
    name: str,
    manifests: Mapping[str, Manifest],
    files: Mapping[str, InputRef],
    *,
    context: Context | None = None,
    strict_root: Path | None = None,
) -> Job:
    """The job of node `name`, from the manifests of its producers (by node) and `input_files`.

    With `strict_root` (a checkout) a result of other code does not count: the code's digest enters the key.
    ValueError names an input whose part its producer does not have.
    """
    node = pipeline.nodes[name]
    recipe_type = KINDS[node.kind]
    inputs = {role: files[path] for role, path in node.files.items()}
    for role, source in node.inputs.items():
        producer, _, part = source.partition(":")
        manifest = manifests[producer]
        if not manifest.part(part):
            parts = sorted({entry.path.rpartition("/")[0] for entry in manifest.files} - {""})
            raise ValueError(f"nodes.{name}.inputs.{role}: {producer} has no part {part!r}; it has {parts}")
        inputs[role] = manifest.ref(part)
    job = Job(
        node=name,
        kind=node.kind,
        version=recipe_type.version,
        recipe=recipe_type.parse(node.recipe, where=f"nodes.{name}.recipe").resolved(),
        inputs=inputs,
        resources=node.resources,
        context=context or Context(),
        licenses={role: node.license for role in node.files if node.license},
    )
    if strict_root is not None:
        done = store.manifest(job.key)
        code = code_digest(strict_root, node.kind)
        if done is not None and done.provenance.code_digest != code:
            return job.model_copy(update={"code": code})
    return job


def plan(store: Store, pipeline: Pipeline, root: Path, *, strict: bool = False) -> list[PlanRow]:
    """What a run would do, node by node, producers first. Reads only."""
    everything = store.manifests()
    by_key = {manifest.key: manifest for manifest in everything}
    files = input_files(store, pipeline, root, ingest=False)
    done: dict[str, Manifest] = {}
    rows = []
    for name in pipeline.order():
        node = pipeline.nodes[name]
        waits_for = tuple(sorted(producers(node) - set(done)))
        manifest, key = None, ""
        if not waits_for:
            job = resolve_job(store, pipeline, name, done, files, strict_root=root if strict else None)
            key = job.key
            manifest = by_key.get(key)
        if manifest is not None:
            done[name] = manifest
        newest = _newest(everything, name, node.kind)
        rows.append(
            PlanRow(
                node=name,
                kind=node.kind,
                key=key,
                status="done" if manifest else "decided later" if waits_for else "will run",
                waits_for=waits_for,
                code_changed=_code_changed(manifest or newest, root, node.kind),
                changed=() if manifest or newest is None else _changes(newest, node, done, files),
            )
        )
    return rows


@dataclass(frozen=True)
class Explanation:
    """Why a node is done or will run: its plan, and the finished run it was compared with ("" for none)."""

    row: PlanRow
    against_key: str
    reasons: tuple[str, ...]

    def resolved(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def why(store: Store, pipeline: Pipeline, node: str, root: Path | None = None) -> Explanation:
    """Which recipe fields, inputs or version of a node differ from its newest finished run."""
    if node not in pipeline.nodes:
        raise ValueError(f"{node}: no such node; the pipeline has {sorted(pipeline.nodes)}")
    rows = {row.node: row for row in plan(store, pipeline, root or Path.cwd())}
    row = rows[node]
    newest = _newest(store.manifests(), node, row.kind)
    if row.status == "done":
        reasons = [f"done: the same kind, version, recipe and inputs gave {store.uri(row.key)}"]
    elif newest is None:
        reasons = [f"{node} never finished in this store"]
    else:
        reasons = [f"{change.field}: {change.before!r} → {change.after!r}" for change in row.changed]
    for producer in row.waits_for:
        state = rows[producer].status
        reasons.append(f"inputs: {producer} {'will run' if state == 'will run' else 'waits itself'}")
    if row.code_changed:
        reasons.append(f"the code of {row.kind} changed and its version ({KINDS[row.kind].version}) did not")
    return Explanation(row, newest.key if newest else "", tuple(reasons))


def _problems(name: str, node: Node, root: Path | None) -> list[str]:
    where = f"nodes.{name}"
    recipe_type = KINDS.get(node.kind)
    if recipe_type is None:
        return [f"{where}.kind: unknown kind {node.kind!r}; one of {sorted(KINDS)}"]
    problems = []
    roles = [*node.inputs, *node.files]
    try:
        recipe = recipe_type.parse(node.recipe, where=f"{where}.recipe")
        problems += [f"{where}.{problem}" for problem in recipe.role_problems(roles)]
    except ValueError as error:
        lines = str(error).split("\n")
        problems += [line.replace(f"{where}.recipe: ", f"{where}.recipe.", 1) for line in lines]
    allowed = [*recipe_type.roles, *recipe_type.optional_roles]
    for role in recipe_type.roles:
        if role not in roles:
            problems.append(f"{where}.inputs.{role}: missing; {node.kind} needs {list(recipe_type.roles)}")
    for role in roles:
        if not any(fnmatchcase(role, pattern) for pattern in allowed):
            problems.append(f"{where}.inputs.{role}: unknown role; {node.kind} has {allowed}")
    for role, file in node.files.items():
        if role in node.inputs:
            problems.append(f"{where}.files.{role}: also in inputs; give the role one source")
        if root is not None and not (root / file).exists():
            problems.append(
                f"{where}.files.{role}: no such file: {root / file}; correct it, or set files_root"
            )
    return problems


def _newest(manifests: list[Manifest], node: str, kind: str) -> Manifest | None:
    same = [manifest for manifest in manifests if manifest.node == node and manifest.kind == kind]
    return same[-1] if same else None


def _code_changed(manifest: Manifest | None, root: Path, kind: str) -> bool:
    if manifest is None or manifest.version != KINDS[kind].version or not manifest.provenance.code_digest:
        return False
    return code_digest(root, kind) not in ("", manifest.provenance.code_digest)


def _changes(
    old: Manifest, node: Node, done: Mapping[str, Manifest], files: Mapping[str, InputRef]
) -> tuple[Change, ...]:
    recipe_type = KINDS[node.kind]
    before = _flat(old.recipe, "recipe")
    after = _flat(recipe_type.parse(node.recipe, where="recipe").resolved(), "recipe")
    before |= {"version": old.version}
    after |= {"version": recipe_type.version}
    before |= {f"inputs.{role}": ref.digest for role, ref in old.inputs.items()}
    for role, path in node.files.items():
        after[f"inputs.{role}"] = files[path].digest
    for role, source in node.inputs.items():
        producer, _, part = source.partition(":")
        field = f"inputs.{role}"
        # A producer that has yet to run leaves its input open: that is no change of this node's own.
        after[field] = done[producer].part_digest(part) if producer in done else before.get(field)
    names = sorted(before.keys() | after.keys())
    return tuple(Change(n, before.get(n), after.get(n)) for n in names if before.get(n) != after.get(n))


def _flat(value: Any, path: str) -> dict[str, Any]:
    if isinstance(value, dict) and value:
        leaves = (_flat(item, f"{path}.{key}") for key, item in value.items())
        return {name: leaf for part in leaves for name, leaf in part.items()}
    return {path: value}
