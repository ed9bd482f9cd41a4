"""What a sandbox service is told at start."""

import os
from typing import Literal

from pydantic import Field

from k15.config import Config


class SandboxSettings(Config):
    """The sandbox service."""

    isolation: Literal["crun", "bubblewrap"] = Field(
        "crun", description="bubblewrap is weaker (no cgroups, one user) and is said in every result"
    )
    slots: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1, description="cases at once")
    queue: int = Field(256, ge=1, description="jobs admitted at once; more are told to come again")
    memory_mb: int = Field(1024, ge=64, description="of a slot; the most a case may ask for")
    processes: int = Field(64, ge=4, description="of a slot")
    cores_per_slot: float = Field(1.0, gt=0)
    orders_per_slot: int = Field(20_000, ge=1, description="cases after which a slot is replaced")
    port: int = Field(0, ge=0, le=65535, description="on loopback; 0: a free one")
