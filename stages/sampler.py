"""The rollout service: vLLM behind HTTP. Started by k15.engines.service.process.Service."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from k15.engines.identity import model_identity
from k15.engines.service.holder import Holder
from k15.engines.service.main import run_service
from k15.engines.service.messages import (
    ChannelCall,
    Empty,
    Health,
    HealthCall,
    Needs,
    Opened,
    SampleCall,
    UpdateCall,
)
from k15.engines.service.server import Endpoint
from k15.engines.service.settings import SamplerSettings
from k15.records import SamplePart

if TYPE_CHECKING:
    from k15.engines.vllm.engine import VllmSampler


class SamplerService:
    """The sampler's calls as endpoints, for one session at a time."""

    def __init__(self, settings: SamplerSettings, build: "Callable[[SamplerSettings], VllmSampler]") -> None:
        self._settings, self._build = settings, build
        self._engine: VllmSampler | None = None
        self._holder = Holder()
        self._step_began: float | None = None  # of the engine, if it is at one

    @property
    def _sampler(self) -> "VllmSampler":
        """The engine; ValueError before `begin`."""
        if self._engine is None:
            raise ValueError("the engine has not been built: call begin")
        return self._engine

    def begin(self) -> Empty:
        """Build the engine, once."""
        if self._engine is None:
            self._engine = self._build(self._settings)
        return Empty()

    def close(self) -> None:
        """Give up the weight channel, and the engine's other processes."""
        if self._engine is not None:
            self._engine.close()

    def endpoints(self) -> dict[str, Endpoint]:
        """Each call under its name."""
        return {
            "begin": Endpoint(Empty, lambda _: self.begin()),
            "sample": Endpoint(SampleCall, self._sample, streams=True),
            "channel": Endpoint(ChannelCall, self._channel),
            "update": Endpoint(UpdateCall, self._update),
            "health": Endpoint(HealthCall, self._health, direct=True),
            "release": Endpoint(HealthCall, self._release, direct=True),
        }

    def _sample(self, call: SampleCall) -> Iterator[SamplePart | None]:
        self._holder.check(call.session)
        parts = self._sampler.stream(call.requests, deadline_s=call.deadline_s)
        try:
            while (part := self._stepped(parts)) is not None:
                yield part if part.answers or part.stats else None
        finally:
            parts.close()

    def _stepped(self, parts: Iterator[SamplePart]) -> SamplePart | None:
        self._step_began = time.monotonic()
        try:
            return next(parts, None)
        finally:
            self._step_began = None

    def _channel(self, call: ChannelCall) -> Opened:
        from k15.engines.channels import open_receiver  # noqa: PLC0415  see run_service
        from k15.engines.weights import layout_bytes  # noqa: PLC0415

        settings = self._settings
        if call.needs is not None:
            check_needs(call.needs, settings)
        self._holder.take(call.session)
        receiver = open_receiver(
            settings.transport,
            layout_bytes(call.layout),
            host=settings.host,
            timeout_s=settings.transfer_timeout_s,
        )
        self._sampler.attach(receiver, call.layout)
        return Opened(self._sampler.copy)

    def _update(self, call: UpdateCall) -> Opened:
        self._holder.check(call.session)
        self._sampler.update(call.ticket, deadline_s=call.deadline_s)
        return Opened(self._sampler.copy)

    def _health(self, call: HealthCall) -> Health:
        self._holder.heard(call.session)
        began = self._step_began
        return Health(0.0 if began is None else time.monotonic() - began)

    def _release(self, call: HealthCall) -> Empty:
        self._holder.release(call.session)
        return Empty()


def check_needs(needs: Needs, settings: SamplerSettings) -> None:
    """ValueError where a trainer's responses cannot be sampled here as it expects them."""
    if needs.model != model_identity(Path(settings.model_dir)):
        raise ValueError(
            f"{settings.model_dir} is not the trainer's model: config or tokenizer differ; start the sampler"
            " from the model that the RL stage starts from"
        )
    if needs.precision != settings.dtype:
        raise ValueError(f"the trainer's precision is {needs.precision}, the sampler's {settings.dtype}")
    if needs.max_tokens > settings.max_model_len:
        raise ValueError(
            f"prompts and responses have up to {needs.max_tokens} tokens, the sampler's max_model_len is"
            f" {settings.max_model_len}; start it with a larger one"
        )


def engine(settings: SamplerSettings) -> "VllmSampler":
    """The engine that `settings` describe."""
    from k15.engines.vllm.engine import VllmSampler  # noqa: PLC0415  see run_service
    from k15.engines.vllm.ledger import VARIABLE, TokenLedger  # noqa: PLC0415

    folder = os.environ.get(VARIABLE)
    return VllmSampler(
        Path(settings.model_dir),
        device=settings.device,
        dtype=settings.dtype,
        max_model_len=settings.max_model_len,
        max_num_seqs=settings.max_num_seqs,
        kv_cache_bytes=settings.kv_cache_bytes,
        memory_share=settings.memory_share,
        tensor=settings.tensor,
        version=settings.version,
        ledger=TokenLedger(Path(folder)) if folder else None,
    )


@contextmanager
def build(settings: SamplerSettings) -> Iterator[dict[str, Endpoint]]:
    """The endpoints of an engine; one that waits has imported it, and has not touched its device."""
    from k15.engines.vllm.engine import prepare  # noqa: PLC0415  see run_service

    service = SamplerService(settings, engine)
    if settings.waits:
        prepare(Path(settings.model_dir), device=settings.device)
    else:
        service.begin()
    try:
        yield service.endpoints()
    finally:
        service.close()


if __name__ == "__main__":
    run_service(__doc__, SamplerSettings, build)
