"""What the two service processes are told at start. Light: read without torch."""

from typing import Literal

from pydantic import Field

from k15.config import Config
from k15.recipes.pipeline import Layout

Transport = Literal["shared_memory", "tcp", "rdma"]
TOKEN_VARIABLE = "K15_SERVICE_TOKEN"
NO_VERSION = -1  # of the weights: a trainer is to send some
WATCH_VARIABLE = "K15_WATCH_STDIN"  # "1": standard input is a pipe that the parent holds open


class SamplerSettings(Config):
    """The rollout service."""

    model_dir: str
    version: int = Field(
        0, ge=-1, description="policy version of the weights in model_dir; -1: of none, a trainer sends them"
    )
    listen: str = Field("127.0.0.1", description="address of this host that it serves on")
    port: int = Field(0, ge=0, lt=65536, description="0: one that is free")
    waits: bool = Field(False, description="import everything, and build the engine when `begin` is called")
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"
    threads: int = Field(1, ge=1)
    max_model_len: int = Field(512, ge=2)
    max_num_seqs: int = Field(512, ge=1)
    kv_cache_bytes: int = Field(1 << 28, ge=1 << 20, description="on CPU")
    memory_share: float = Field(0.85, gt=0, lt=1, description="of each GPU, for weights and cache")
    tensor: int = Field(1, ge=1, description="processes that share the model, on CUDA with a GPU each")
    transport: Transport = "shared_memory"
    host: str = Field("127.0.0.1", description="this host as the trainer reaches it; tcp and rdma")
    transfer_timeout_s: int = Field(30, ge=5, description="when a silent peer is given up; tcp and rdma")


class TrainerSettings(Config):
    """The training service."""

    model_dir: str
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = Field(1, ge=1)
    layout: Layout = Layout()
    max_tokens_per_microbatch: int = Field(16384, ge=8)
    seed: int = 0
    precision: Literal["float32", "bfloat16"] = "float32"
    recompute: bool = False
    transport: Transport = "shared_memory"
    host: str = Field("127.0.0.1", description="this host as the sampler reaches it; tcp and rdma")
    transfer_timeout_s: int = Field(30, ge=5, description="when a silent peer is given up; tcp and rdma")
