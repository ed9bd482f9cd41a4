"""A pipeline: named stages, what each reads, its recipe, and what it may use of the machine."""

from typing import Any

from pydantic import Field

from k15.config import Config


class Resources(Config):
    """What a stage may use. Never part of a stage key: changing it reruns nothing."""

    cores: int = Field(1, ge=1, description="CPU cores; independent stages share the machine's within this")
    memory_gb: float = Field(4.0, gt=0)
    gpus: int = Field(0, ge=0)
    retries: int = Field(1, ge=0, description="times a faulted stage (exit code 1) is started again")
    timeout_s: float = Field(7200.0, gt=0)


class Node(Config):
    """One stage of a pipeline.

    `inputs` maps a role to a producer: "node" for its whole artifact or "node:part" for one folder of it.
    `files` maps a role to a local file, which enters the store by its content.
    """

    kind: str
    inputs: dict[str, str] = {}
    files: dict[str, str] = {}
    recipe: dict[str, Any] = {}
    resources: Resources = Resources()


class Pipeline(Config):
    """A pipeline recipe file."""

    name: str
    final: str = Field(description="the node whose model is registered and gets the alias champion")
    files_root: str = Field("", description="folder the nodes' files are in, if not the work directory")
    nodes: dict[str, Node]

    def order(self) -> list[str]:
        """Nodes, producers first; ValueError names an unknown producer or a cycle."""
        done: list[str] = []
        waiting = dict(self.nodes)
        for name, node in waiting.items():
            for role, source in node.inputs.items():
                if source.partition(":")[0] not in self.nodes:
                    raise ValueError(
                        f"nodes.{name}.inputs.{role}: no node named {source.partition(':')[0]!r}"
                    )
        if self.final not in self.nodes:
            raise ValueError(f"final: no node named {self.final!r}")
        while waiting:
            ready = [n for n, node in waiting.items() if producers(node) <= set(done)]
            if not ready:
                raise ValueError(f"nodes {sorted(waiting)} wait for each other in a circle")
            done += ready
            waiting = {n: node for n, node in waiting.items() if n not in done}
        return done


def producers(node: Node) -> set[str]:
    """The nodes a node reads from."""
    return {source.partition(":")[0] for source in node.inputs.values()}
