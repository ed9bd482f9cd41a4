"""The rollout service: vLLM behind HTTP. Started by k15.engines.service.process.Service."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from k15.engines.service.main import run_service
from k15.engines.service.messages import ChannelCall, Opened, SampleCall, UpdateCall
from k15.engines.service.server import Endpoint
from k15.engines.service.settings import SamplerSettings
from k15.records import SamplePart

if TYPE_CHECKING:
    from k15.engines.vllm.engine import VllmSampler


@dataclass(frozen=True, slots=True)
class SamplerService:
    """The sampler's calls as endpoints."""

    sampler: "VllmSampler"
    settings: SamplerSettings

    def endpoints(self) -> dict[str, Endpoint]:
        """Each call under its name."""
        return {
            "sample": Endpoint(SampleCall, self._sample, streams=True),
            "channel": Endpoint(ChannelCall, self._channel),
            "update": Endpoint(UpdateCall, self._update),
        }

    def _sample(self, call: SampleCall) -> Iterator[SamplePart | None]:
        for part in self.sampler.stream(call.requests, deadline_s=call.deadline_s):
            yield part if part.answers or part.stats else None

    def _channel(self, call: ChannelCall) -> Opened:
        from k15.engines.channels import open_receiver  # noqa: PLC0415  see run_service
        from k15.engines.weights import layout_bytes  # noqa: PLC0415

        settings = self.settings
        receiver = open_receiver(
            settings.transport,
            layout_bytes(call.layout),
            host=settings.host,
            timeout_s=settings.transfer_timeout_s,
        )
        self.sampler.attach(receiver, call.layout)
        return Opened(self.sampler.copy)

    def _update(self, call: UpdateCall) -> Opened:
        self.sampler.update(call.ticket, deadline_s=call.deadline_s)
        return Opened(self.sampler.copy)


@contextmanager
def build(settings: SamplerSettings) -> Iterator[dict[str, Endpoint]]:
    """The endpoints of the engine that `settings` describe; its weight channel is given up at the end."""
    from k15.engines.vllm.engine import VllmSampler  # noqa: PLC0415  see run_service
    from k15.engines.vllm.ledger import VARIABLE, TokenLedger  # noqa: PLC0415

    folder = os.environ.get(VARIABLE)
    sampler = VllmSampler(
        Path(settings.model_dir),
        device=settings.device,
        dtype=settings.dtype,
        max_model_len=settings.max_model_len,
        max_num_seqs=settings.max_num_seqs,
        kv_cache_bytes=settings.kv_cache_bytes,
        version=settings.version,
        ledger=TokenLedger(Path(folder)) if folder else None,
    )
    try:
        yield SamplerService(sampler, settings).endpoints()
    finally:
        sampler.close()


if __name__ == "__main__":
    run_service(__doc__, SamplerSettings, build)
