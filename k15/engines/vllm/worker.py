"""What every process of a vLLM engine can do besides vLLM's own: it is mixed into vLLM's worker class.

An engine over several GPUs has a process for each (executor "mp"); with one (executor "uni") this runs in the
sampler's own. They are called by name, over LLMEngine.collective_rpc.
"""

import mmap
import os
from collections.abc import Sequence
from typing import Any

from k15.engines.vllm.noise import seeded_by_engine
from k15.engines.vllm.update import load_in_place
from k15.engines.weights import HEADER_BYTES, layout_bytes
from k15.records import TensorSpec

NAME = f"{__name__}.K15Worker"


class K15Worker:
    """vLLM refuses names that its worker has too, hence the prefix."""

    model_runner: Any
    vllm_config: Any

    def k15_seeds(self, device: str) -> bool:
        """Whether the engine draws by SamplingParams.seed itself, as noise.seeded_by_engine."""
        return seeded_by_engine(self.model_runner, self.vllm_config, device=device)

    def k15_load(self, path: str, layout: Sequence[TensorSpec], tied: bool) -> None:
        """Take the weights in slot `path`; each process takes its part of every tensor."""
        payload_bytes = layout_bytes(layout)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            size = HEADER_BYTES + payload_bytes
            memory = mmap.mmap(descriptor, size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
        finally:
            os.close(descriptor)
        load_in_place(self.model_runner, memoryview(memory)[HEADER_BYTES:], layout, tied=tied)
