"""The training service: Megatron behind HTTP. Started by k15.engines.service.process.Service."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from k15.engines.service.main import run_service
from k15.engines.service.messages import (
    Empty,
    Layout,
    PolicyCall,
    PublishCall,
    RowsCall,
    SaveCall,
    SupervisedCall,
)
from k15.engines.service.server import Endpoint
from k15.engines.service.settings import TrainerSettings
from k15.ports import WeightSender
from k15.recipes.rl import PolicyUpdate
from k15.records import UpdateStats, WeightTicket

if TYPE_CHECKING:
    from k15.engines.megatron.trainer import MegatronTrainer

log = logging.getLogger("stages.trainer")


class TrainerService:
    """The trainer's calls as endpoints, and its end of the weight channel."""

    def __init__(self, trainer: "MegatronTrainer", settings: TrainerSettings) -> None:
        self._trainer = trainer
        self._settings = settings
        self._sender: WeightSender | None = None
        self._away = False

    def endpoints(self) -> dict[str, Endpoint]:
        """Each call under its name."""
        return {
            "supervised_step": Endpoint(SupervisedCall, self._supervised_step),
            "policy_update": Endpoint(PolicyCall, self._policy_update),
            "logprobs": Endpoint(RowsCall, self._logprobs),
            "layout": Endpoint(Empty, lambda _: Layout(tuple(self._trainer.layout()))),
            "publish": Endpoint(PublishCall, self._publish),
            "save": Endpoint(SaveCall, self._save),
            "offload": Endpoint(Empty, self._offload),
            "onload": Endpoint(Empty, self._onload),
        }

    def close(self) -> None:
        """Give up the weight channel."""
        if self._sender is not None:
            self._sender.close()
            self._sender = None

    def _offload(self, _: Empty) -> Empty:
        log.info("offloaded bytes=%d", self._trainer.offload())
        self._away = True
        return Empty()

    def _onload(self, _: Empty) -> Empty:
        log.info("onloaded bytes=%d", self._trainer.onload())
        self._away = False
        return Empty()

    def _here(self) -> None:
        if self._away:
            raise ValueError("the trainer's weights are in host memory: onload first")

    def _supervised_step(self, call: SupervisedCall) -> dict[str, float]:
        self._here()
        return self._trainer.supervised_step(call.batch, lr=call.lr)

    def _policy_update(self, call: PolicyCall) -> UpdateStats:
        self._here()
        settings = PolicyUpdate.parse(call.settings, where="policy_update.settings")
        return self._trainer.policy_update(call.groups, settings=settings, lr=call.lr)

    def _logprobs(self, call: RowsCall) -> list[list[float]]:
        self._here()
        return self._trainer.logprobs(call.rows)

    def _publish(self, call: PublishCall) -> WeightTicket:
        from k15.engines.channels import open_sender  # noqa: PLC0415  see run_service

        self._here()
        settings = self._settings
        if self._sender is None:
            self._sender = open_sender(
                settings.transport,
                self._trainer.layout(),
                host=settings.host,
                timeout_s=settings.transfer_timeout_s,
            )
        return self._sender.send(self._trainer.tensors(), call.version, deadline_s=call.deadline_s)

    def _save(self, call: SaveCall) -> Empty:
        self._here()
        self._trainer.save(Path(call.directory))
        return Empty()


@contextmanager
def build(settings: TrainerSettings) -> Iterator[dict[str, Endpoint]]:
    """The endpoints of the engine that `settings` describe; its weight channel is given up at the end."""
    from k15.engines.megatron import ranks  # noqa: PLC0415  see run_service

    trainer = ranks.lead(
        Path(settings.model_dir),
        layout=settings.layout,
        env=os.environ,
        threads=settings.threads,
        max_tokens_per_microbatch=settings.max_tokens_per_microbatch,
        seed=settings.seed,
        precision=settings.precision,
        recompute=settings.recompute,
    )
    service = TrainerService(trainer, settings)
    try:
        yield service.endpoints()
    finally:
        service.close()
        if isinstance(trainer, ranks.LeadingTrainer):
            trainer.close()


if __name__ == "__main__":
    run_service(__doc__, TrainerSettings, build)
