"""The lineage of an artifact as a graph, from manifests alone; and as Mermaid text."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from k15.store.manifest import Manifest

RAW = "raw"


@dataclass(frozen=True)
class GraphNode:
    """A stage's artifact, or a raw file (kind "raw")."""

    key: str
    name: str
    kind: str
    digest: str


@dataclass(frozen=True)
class Edge:
    """`source` was read by `target` as `label` (a part, or else a role)."""

    source: str
    target: str
    label: str


@dataclass(frozen=True)
class Graph:
    """Nodes by key, producers before consumers, and who read what."""

    nodes: dict[str, GraphNode]
    edges: tuple[Edge, ...]


def upstream(manifests: Mapping[str, Manifest], roots: Iterable[str]) -> dict[str, Manifest]:
    """Every known manifest that `roots` were made from, themselves included, producers first."""
    found: dict[str, Manifest] = {}

    def visit(key: str) -> None:
        manifest = manifests.get(key)
        if manifest is None or key in found:
            return
        for ref in manifest.inputs.values():
            if not ref.raw:
                visit(ref.key)
        found[key] = manifest

    for root in roots:
        visit(root)
    return found


def graph_of(manifests: Mapping[str, Manifest]) -> Graph:
    """The graph of these manifests; raw files, and inputs whose manifest is missing, become nodes too."""
    nodes: dict[str, GraphNode] = {}
    edges: list[Edge] = []
    for manifest in manifests.values():
        for role, ref in manifest.inputs.items():
            if ref.raw:
                nodes.setdefault(ref.key, GraphNode(ref.key, role, RAW, f"sha256:{ref.key}"))
            elif ref.key not in manifests:
                nodes.setdefault(ref.key, GraphNode(ref.key, role, "missing", ref.digest))
            edge = Edge(ref.key, manifest.key, ref.part or role)
            if edge not in edges:
                edges.append(edge)
        nodes[manifest.key] = GraphNode(manifest.key, manifest.node, manifest.kind, manifest.digest)
    return Graph(nodes, tuple(edges))


def mermaid(graph: Graph) -> str:
    """The graph as a Mermaid flowchart: nodes with kind and digest, edges with what was read."""
    names = {key: f"n{index}" for index, key in enumerate(graph.nodes)}
    lines = ["flowchart LR"]
    for key, node in graph.nodes.items():
        left, right = ("[(", ")]") if node.kind in (RAW, "data") else ("[", "]")
        text = f"<b>{node.name}</b><br/>{node.kind}<br/>{short(node.digest)}"
        lines.append(f'  {names[key]}{left}"{text}"{right}')
    lines += [f'  {names[edge.source]} -- "{edge.label}" --> {names[edge.target]}' for edge in graph.edges]
    return "\n".join(lines) + "\n"


def short(digest: str, characters: int = 12) -> str:
    """The first hex digits of a digest, for people."""
    return digest.removeprefix("sha256:")[:characters]
