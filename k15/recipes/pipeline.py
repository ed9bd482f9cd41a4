"""A pipeline: named stages, what each reads, its recipe, and what it may use of the machine."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from k15.config import Config


class Layout(Config):
    """How many processes train one model, and what each of them holds."""

    tensor: int = Field(1, ge=1, description="ranks that share every matrix, by heads and columns")
    pipeline: int = Field(1, ge=1, description="stages of consecutive layers")
    context: int = Field(1, ge=1, description="ranks that share the tokens of every row")
    data: int = Field(1, ge=1, description="replicas, each with its share of the microbatches")
    sequence: bool = Field(
        False, description="with tensor > 1: its ranks also share the tokens between their matrices"
    )

    @property
    def world(self) -> int:
        """How many processes that makes."""
        return self.tensor * self.pipeline * self.context * self.data

    def __str__(self) -> str:
        sizes = {"tensor": self.tensor, "pipeline": self.pipeline, "context": self.context, "data": self.data}
        parts = [f"{name}={size}" for name, size in sizes.items() if size > 1]
        return " ".join([*parts, *(["sequence"] if self.sequence else [])]) or "one process"


class Resources(Config):
    """What a stage may use. Never part of a stage key: changing it reruns nothing."""

    cores: int = Field(1, ge=1, description="CPU cores; independent stages share the machine's within this")
    memory_gb: float = Field(4.0, gt=0)
    gpus: int = Field(0, ge=0)
    infiniband: bool = Field(False, description="a container gets the host's InfiniBand devices")
    layout: Layout = Layout()
    replicas: int = Field(
        1,
        ge=0,
        description="samplers an RL stage starts, which share its cores; any may die and is replaced. 0: "
        "those of `samplers` and `etcd` alone",
    )
    samplers: tuple[str, ...] = Field(
        (), description="of an RL stage, on other hosts: http://host:port of each `python -m stages.replica`"
    )
    etcd: str = Field(
        "", description="http://host:2379 of an etcd that lists such samplers; they may come late"
    )
    sampler_pool: str = Field("default", description="of those in etcd; a pool serves one run at a time")
    isolation: Literal["crun", "bubblewrap"] = Field(
        "crun",
        description="around programs that are judged; bubblewrap is weaker, but needs no root",
    )
    sampler_tensor: int = Field(
        1, ge=1, description="processes that share one sampler's model, on GPUs one on each"
    )
    sampler_memory_share: float = Field(
        0.85, gt=0, lt=1, description="of a GPU's memory that a sampler takes, for weights and cache"
    )
    gpus_shared: bool = Field(
        False,
        description="trainer and samplers of an RL stage take turns on the same devices: the trainer's memory"
        " goes to the host while samplers start, roll out and end",
    )
    retries: int = Field(1, ge=0, description="times a faulted stage (exit code 1) is started again")
    timeout_s: float = Field(7200.0, gt=0)
    checkpoint_every_steps: int = Field(
        0,
        ge=0,
        description="of supervised stages, to go on from after a kill; 0: every 300 s, or every 20 times "
        "what a save takes where that is longer",
    )
    checkpoint_every_rounds: int = Field(
        1, ge=1, description="of RL stages, their weights; a resume makes up the updates in between"
    )
    peak_tflops: float = Field(
        0.0, ge=0, description="of one device at the run's precision; MFU is logged then"
    )
    profile: bool = Field(
        False, description="trace some steps of a supervised stage into part `profile` of its artifact"
    )

    @property
    def samples_elsewhere(self) -> bool:
        """Whether samplers are found on other hosts."""
        return bool(self.samplers or self.etcd)

    @model_validator(mode="after")
    def _someone_samples(self) -> Self:
        if not self.replicas and not self.samples_elsewhere:
            raise ValueError(
                "replicas = 0 leaves no sampler: name some in samplers, or an etcd that lists them"
            )
        if self.gpus_shared and self.samples_elsewhere:
            raise ValueError(
                "gpus_shared: samplers take turns with the trainer on this host's devices; leave samplers and"
                " etcd out, or gpus_shared"
            )
        return self

    @model_validator(mode="after")
    def _a_gpu_each(self) -> Self:
        if self.gpus and self.layout.world > self.gpus:
            raise ValueError(
                f"the layout ({self.layout}) is for {self.layout.world} GPUs, and gpus = {self.gpus}: "
                "no two processes share one"
            )
        return self


class Node(Config):
    """One stage of a pipeline.

    `inputs` maps a role to a producer: "node" for its whole artifact or "node:part" for one folder of it.
    `files` maps a role to a local file, which enters the store by its content; `license` is theirs, recorded
    and never part of a stage key.
    """

    kind: str
    inputs: dict[str, str] = {}
    files: dict[str, str] = {}
    license: str = Field("", description="of what `files` brings, for the audit: an SPDX name, or a sentence")
    recipe: dict[str, Any] = {}
    resources: Resources = Resources()

    @model_validator(mode="after")
    def _a_license_of_something(self) -> Self:
        if self.license and not self.files:
            raise ValueError("license: says under what `files` may be used, and there are none; remove it")
        return self


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
