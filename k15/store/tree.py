"""The Merkle tree of an artifact: lineage from manifests alone, and verification of every byte upstream."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from k15.store.artifact import Artifact, Store, manifest_path
from k15.store.manifest import CorruptArtifact, InputRef, Manifest, table_digest


@dataclass(frozen=True)
class Lineage:
    """An artifact or raw file and what it was made from. `manifest` is None for raw files and lost stages."""

    role: str  # in the consumer; "" at the root
    ref: InputRef
    uri: str
    manifest: Manifest | None
    inputs: tuple["Lineage", ...]

    def resolved(self) -> dict[str, Any]:
        """As plain JSON values, inputs nested."""
        return {
            "role": self.role,
            "uri": self.uri,
            "ref": self.ref.resolved(),
            "manifest": self.manifest.resolved() if self.manifest else None,
            "inputs": [below.resolved() for below in self.inputs],
        }


@dataclass(frozen=True)
class Problem:
    """One thing that is not as its digest says."""

    uri: str
    what: str


def lineage(store: Store, ref: InputRef) -> Lineage:
    """The tree from an artifact back to the raw data."""
    known: dict[str, Manifest | None] = {}

    def grow(role: str, ref: InputRef) -> Lineage:
        if ref.raw:
            return Lineage(role, ref, store.objects.uri(f"raw/{ref.key}"), None, ())
        if ref.key not in known:
            known[ref.key] = store.manifest(ref.key)
        manifest = known[ref.key]
        inputs = manifest.inputs.items() if manifest else ()
        below = tuple(grow(role, ref) for role, ref in sorted(inputs))
        return Lineage(role, ref, store.uri(ref.key, ref.part), manifest, below)

    return grow("", ref)


def render(tree: Lineage) -> str:
    """The tree as text, one artifact a line; a stage already shown is not unfolded again."""
    lines: list[str] = []
    seen: set[str] = set()

    def draw(node: Lineage, lead: str, below: str) -> None:
        again = bool(node.inputs) and node.ref.key in seen
        seen.add(node.ref.key)
        lines.append(lead + _line(node) + (" (inputs above)" if again else ""))
        for number, child in enumerate(() if again else node.inputs):
            last = number == len(node.inputs) - 1
            draw(child, below + ("└─ " if last else "├─ "), below + ("   " if last else "│  "))

    draw(tree, "", "")
    return "\n".join(lines)


def verify(
    store: Store,
    ref: InputRef,
    progress: Callable[[int, int], None] | None = None,
    *,
    also: Iterable[InputRef] = (),
) -> list[Problem]:
    """Everything upstream of an artifact, itself included, hashed again; progress(done, total) in bytes.

    `also` are other artifacts to do the same with; what they share is read once.
    Checked: every manifest's own checksum, its digest and its key, every input's digest against its producer,
    and the bytes of every file and raw file. An empty list means that all is as committed.
    """
    problems: list[Problem] = []
    artifacts = _upstream(store, [ref, *also], problems)
    total = sum(entry.size for artifact in artifacts for entry in artifact.files)
    done = 0
    for artifact in artifacts:
        for entry in artifact.files:
            try:
                artifact.verify(entry)
            except CorruptArtifact as error:
                problems.append(Problem(artifact.uri, str(error)))
            done += entry.size
            if progress is not None:
                progress(done, total)
    return problems


def _upstream(store: Store, roots: Iterable[InputRef], problems: list[Problem]) -> list[Artifact]:
    """Every artifact `roots` were made from, each once; what is wrong with manifests goes to `problems`."""
    artifacts: list[Artifact] = []
    manifests: dict[str, Manifest | None] = {}
    raw_done: set[str] = set()
    waiting = list(roots)
    while waiting:
        ref = waiting.pop()
        if ref.raw:
            if ref.key not in raw_done:
                raw_done.add(ref.key)
                artifacts += _opened(store, ref, problems)
            continue
        if ref.key not in manifests:
            manifests[ref.key] = manifest = _manifest(store, ref.key, problems)
            if manifest is not None:
                waiting += manifest.inputs.values()
                whole = InputRef(key=ref.key, digest=manifest.part_digest(""))
                artifacts += _opened(store, whole, problems)
        known = manifests[ref.key]
        if known is not None and known.part_digest(ref.part) != ref.digest:
            what = f"its digest is {known.part_digest(ref.part)}, its consumer read {ref.digest}"
            problems.append(Problem(store.uri(ref.key, ref.part), what))
    return artifacts


def _manifest(store: Store, key: str, problems: list[Problem]) -> Manifest | None:
    uri = store.objects.uri(manifest_path(key))
    try:
        manifest = store.manifest(key)
    except CorruptArtifact as error:
        problems.append(Problem(uri, str(error)))
        return None
    if manifest is None:
        problems.append(Problem(uri, "a consumer names it and it is gone"))
    elif manifest.digest != table_digest(manifest.files):
        problems.append(Problem(uri, "its digest does not fit its table of files"))
    elif manifest.expected_key() != key:
        problems.append(Problem(uri, "its key does not fit its recipe and inputs"))
    return manifest


def _opened(store: Store, ref: InputRef, problems: list[Problem]) -> list[Artifact]:
    try:
        return [store.open(ref)]
    except ValueError as error:
        problems.append(Problem(store.objects.uri(ref.key), str(error)))
        return []


def _line(node: Lineage) -> str:
    role = f"{node.role} = " if node.role else ""
    digest = node.ref.digest.removeprefix("sha256:")[:12]
    if node.manifest is None:
        what = "raw file" if node.ref.raw else "LOST"
        return f"{role}{what}  {node.uri}  sha256:{digest}"
    manifest, provenance = node.manifest, node.manifest.provenance
    part = f":{node.ref.part}" if node.ref.part else ""
    commit = provenance.commit[:12] or "unknown"
    dirty = "+changes" if provenance.dirty else ""
    return (
        f"{role}{manifest.node}{part} ({manifest.kind} v{manifest.version})  {node.uri}"
        f"  sha256:{digest}  commit {commit}{dirty}"
    )
