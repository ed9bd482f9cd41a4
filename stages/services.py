"""The processes an RL or evaluation stage keeps up: a trainer, a sampler, and the weights between them."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from k15.engines.channels import open_sender
from k15.engines.identity import model_identity
from k15.engines.megatron.checkpoint import Checkpoint, read_config
from k15.engines.service.client import RemoteSampler, RemoteTrainer
from k15.engines.service.messages import Needs
from k15.engines.service.pool import SamplerPool
from k15.engines.service.process import Service, launch_sampler, launch_trainer
from k15.engines.service.settings import NO_VERSION, SamplerSettings, TrainerSettings
from k15.engines.service.turns import Turns
from k15.engines.service.watch import Watch
from k15.recipes.rl import RlRecipe
from k15.records import TensorSpec
from k15.stage.context import StageContext
from stages import elsewhere
from stages.placement import Placement

log = logging.getLogger("stages.services")

MAX_NUM_SEQS = 512
MIN_KV_CACHE_BYTES = 64 << 20
KV_CACHE_SHARE = 0.25  # of the stage's declared memory, on CPU; on CUDA vLLM measures what is free
TRANSFER_S = 600.0
TRAINER_HUNG_S = 300.0  # without an answer of its process: a save of a large shard lets none through
BLOCK_TOKENS = 32  # of the sampler's cache


def sampler_settings(
    ctx: StageContext,
    model_dir: Path,
    *,
    max_tokens: int,
    precision: str,
    transport: str,
    version: int = 0,
    replicas: int = 1,
    host: str = "127.0.0.1",
    waits: bool = False,
) -> SamplerSettings:
    """One of `replicas`, sized for `max_tokens` within the stage's resources.

    ValueError where the model is too short, or cannot be cut as resources.sampler_tensor says.
    """
    config = read_config(model_dir)
    limit = int(config["max_position_embeddings"])
    if max_tokens > limit:
        raise ValueError(
            f"prompt and response may have {max_tokens} tokens, max_position_embeddings is {limit}; lower"
            f" max_response_tokens or activate a longer context"
        )
    refuse_uncut(config, ctx.job.resources.sampler_tensor)
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    width = 2 if precision == "bfloat16" else 4
    per_token = 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * head_dim * width
    wanted = per_token * (max_tokens + BLOCK_TOKENS) * MAX_NUM_SEQS
    replicas = max(1, replicas)
    most = int(ctx.job.resources.memory_gb * KV_CACHE_SHARE * 2**30 / replicas)
    return SamplerSettings.parse(
        {
            "model_dir": str(model_dir),
            "version": version,
            "waits": waits,
            "device": device(ctx),
            "dtype": precision,
            "threads": max(1, ctx.job.resources.cores // replicas),
            "max_model_len": max_tokens,
            "max_num_seqs": MAX_NUM_SEQS,
            "kv_cache_bytes": max(MIN_KV_CACHE_BYTES, min(wanted, most)),
            "memory_share": ctx.job.resources.sampler_memory_share,
            "tensor": ctx.job.resources.sampler_tensor,
            "transport": transport,
            "host": host,
        },
        where="sampler settings",
    )


def refuse_uncut(config: Mapping[str, Any], tensor: int) -> None:
    """ValueError where `tensor` processes cannot share the model by its heads and vocabulary."""
    for name in ("num_attention_heads", "num_key_value_heads"):
        if config[name] % tensor:
            raise ValueError(
                f"resources.sampler_tensor = {tensor} does not divide the model's {name} = {config[name]}"
            )


def device(ctx: StageContext) -> str:
    """Where a stage's engines run, by what it declared."""
    return "cuda" if ctx.job.resources.gpus else "cpu"


def trainer_settings(ctx: StageContext, recipe: RlRecipe, sampler: SamplerSettings) -> TrainerSettings:
    """The trainer of a policy that `sampler` samples from."""
    resources = ctx.job.resources
    return TrainerSettings.parse(
        {
            "model_dir": sampler.model_dir,
            "device": sampler.device,
            "threads": resources.cores,
            "layout": resources.layout.resolved(),
            "max_tokens_per_microbatch": recipe.update.max_tokens_per_microbatch,
            "seed": recipe.seed,
            "precision": recipe.precision,
            "recompute": recipe.recompute,
            "transport": sampler.transport,
            "host": sampler.host,
        },
        where="trainer settings",
    )


@contextmanager
def policy_services(
    ctx: StageContext, recipe: RlRecipe, model_dir: Path, *, version: int, max_tokens: int
) -> Iterator[tuple[RemoteTrainer, SamplerPool | Turns]]:
    """A trainer and samplers of the same weights, connected; all started at once, all ended on leaving.

    Samplers on other hosts join with the first update; they stay. With resources.gpus_shared trainer and
    samplers take turns on the same devices.
    """
    shared = ctx.job.resources.gpus_shared
    settings = sampler_settings(
        ctx,
        model_dir,
        max_tokens=max_tokens,
        precision=recipe.precision,
        transport=recipe.transport,
        version=NO_VERSION if shared else version,
        replicas=ctx.job.resources.replicas,
        host=elsewhere.own_address(ctx.job.resources, recipe),
        waits=shared,
    )
    training = trainer_settings(ctx, recipe, settings)
    needs = Needs(model_identity(model_dir), recipe.precision, max_tokens)
    found = elsewhere.found(ctx.job.resources, needs, version=version)
    placement = Placement(ctx.job.resources, os.environ)
    with ExitStack() as stack:
        names = (f"sampler-{number}" for number in count())

        def launched() -> tuple[str, RemoteSampler]:
            name = next(names)
            log_path = ctx.scratch / f"{name}.log"
            service = placement.started(
                lambda gpus: launch_sampler(settings, log_path=log_path, variables=gpus)
            )
            return name, RemoteSampler(stack.enter_context(service), version=settings.version, needs=needs)

        replicas = dict(launched() for _ in range(ctx.job.resources.replicas))
        service = stack.enter_context(launch_trainer(training, log_path=ctx.scratch / "trainer.log"))
        service.wait_ready()
        trainer = RemoteTrainer(service, deadline_s=ctx.job.resources.timeout_s)
        watch = Watch(TRAINER_HUNG_S, lambda name, error: log.error("%s=silent error=%s", name, error))
        watch.add("trainer", trainer)
        stack.callback(watch.close)
        if shared:
            yield trainer, Turns(trainer, launched, replicas, version=version, capacity=MAX_NUM_SEQS)
            return
        for replica in replicas.values():
            replica.wait()
        pool = SamplerPool(
            replicas,
            trainer.layout(),
            version=version,
            capacity=settings.max_num_seqs,
            replacement=launched,
            found=found,
        )
        stack.callback(pool.close)
        log.info(
            "services=ready replicas=%d transport=%s version=%d", len(replicas), recipe.transport, version
        )
        yield trainer, pool


class ModelServer:
    """One sampler for several models: new weights in place where only those differ, else a new process."""

    def __init__(self, ctx: StageContext, *, max_tokens: int, precision: str) -> None:
        self._ctx, self._max_tokens, self._precision = ctx, max_tokens, precision
        self._service: Service | None = None
        self._config: dict[str, Any] = {}
        self._version = 0

    def serve(self, model_dir: Path) -> RemoteSampler:
        """A sampler that holds the weights in `model_dir`."""
        config = read_config(model_dir)
        if self._service is not None and config == self._config:
            return self._replace_weights(self._service, model_dir)
        self.close()
        settings = sampler_settings(
            self._ctx,
            model_dir,
            max_tokens=self._max_tokens,
            precision=self._precision,
            transport="shared_memory",
        )
        self._service = launch_sampler(settings, log_path=self._ctx.scratch / "sampler.log").wait_ready()
        self._config, self._version = config, 0
        return RemoteSampler(self._service)

    def _replace_weights(self, service: Service, model_dir: Path) -> RemoteSampler:
        checkpoint = Checkpoint(model_dir)
        layout = checkpoint_layout(checkpoint)
        sampler = RemoteSampler(service, version=self._version)
        self._version += 1
        sampler.open_channel(layout)
        sender = open_sender("shared_memory", layout, host="127.0.0.1", timeout_s=60)
        try:
            tensors = ((spec.name, checkpoint.tensor(spec.name)) for spec in layout)
            sampler.update(sender.send(tensors, self._version, deadline_s=TRANSFER_S), deadline_s=TRANSFER_S)
        finally:
            sender.close()
        return sampler

    def close(self) -> None:
        """End the sampler."""
        if self._service is not None:
            self._service.stop()
            self._service = None


def checkpoint_layout(checkpoint: Checkpoint) -> list[TensorSpec]:
    """The tensors of a checkpoint one after another, by name."""
    specs, offset = [], 0
    for name in sorted(checkpoint.names):
        tensor = checkpoint.tensor(name)
        specs.append(TensorSpec(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), offset))
        offset += tensor.numel() * tensor.element_size()
    return specs


def longest(sequences: Sequence[Sequence[int]]) -> int:
    """Tokens of the longest sequence; ValueError where there is none."""
    if not sequences:
        raise ValueError("there are no prompts; check the data stage's num_train and num_heldout")
    return max(len(sequence) for sequence in sequences)
