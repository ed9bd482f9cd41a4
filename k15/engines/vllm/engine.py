"""VllmSampler: ports.Sampler over vLLM's V1 engine in this process."""

import importlib
import json
import logging
import multiprocessing
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.models.registry import ModelRegistry, _LazyRegisteredModel, _RegisteredModel
from vllm.v1.engine.llm_engine import LLMEngine

from k15.engines.service.settings import NO_VERSION
from k15.engines.vllm.arguments import engine_arguments
from k15.engines.vllm.ledger import TokenLedger
from k15.engines.vllm.responses import Responses
from k15.engines.vllm.update import check_layout, tied_embeddings
from k15.engines.weights import refuse_older
from k15.ports import WeightReceiver
from k15.records import Answer, SamplePart, SampleRequest, SampleStats, TensorSpec, WeightSource, WeightTicket

WORKERS = {"cpu": "vllm.v1.worker.cpu_worker", "cuda": "vllm.v1.worker.gpu_worker"}

log = logging.getLogger(__name__)


class VllmSampler:
    """Samples responses with the log-probs the policy gave them, and takes new weights without a restart.

    A response's tokens depend on the weights, on the tokens before them and on its seed: noise comes from a
    hash of seed and position (k15.engines.vllm.noise). What else is in the batch or in the prefix cache, and
    which process samples, changes the last bits of logits only, and a token only where two are that close.

    The prefix cache holds keys and values of the weights at hand: it lives from call to call, so that a
    continued response finds its beginning there, and is emptied when weights change. Keys and values of older
    weights would give log-probs of a policy that never was, and eq. 3's ratio would be wrong.

    Log-probs are those of the model's own distribution (temperature 1), as the trainer computes them,
    whatever the temperature of a request.
    """

    def __init__(
        self,
        model_dir: Path,
        *,
        device: Literal["cpu", "cuda"] = "cpu",
        dtype: Literal["float32", "bfloat16"] = "float32",
        max_model_len: int,
        max_num_seqs: int,
        kv_cache_bytes: int,
        memory_share: float = 0.85,
        tensor: int = 1,
        version: int = 0,
        ledger: TokenLedger | None = None,
    ) -> None:
        """Serve the weights in `model_dir` as `version`; with NO_VERSION those that a trainer sends.

        None are read then. `tensor` processes share the model, on CUDA each with a GPU of its own, of which
        weights and cache take `memory_share`; on CPU the cache is `kv_cache_bytes`. The process needs
        vllm.environment's variables.
        """
        self._ledger = ledger
        self.version = version
        self._model_dir = model_dir
        self._tied = tied_embeddings(model_dir)
        self._stop_token_ids = stop_token_ids(model_dir)
        self._receiver: WeightReceiver | None = None
        self._layout: tuple[TensorSpec, ...] = ()
        self.stats = SampleStats()
        self._num_calls = 0
        self._running: dict[str, Responses] = {}
        self._checksum: int | None = None  # of the version that is served, where it came over the channel
        prepare(model_dir, device=device)
        arguments = engine_arguments(
            model_dir,
            device=device,
            dtype=dtype,
            max_model_len=max_model_len,
            max_num_seqs=max_num_seqs,
            kv_cache_bytes=kv_cache_bytes,
            memory_share=memory_share,
            tensor=tensor,
            load_weights=version != NO_VERSION,
        )
        self._engine: Any = LLMEngine.from_engine_args(EngineArgs(**arguments), enable_multiprocessing=False)
        self._engine_seeds = all(self._engine.collective_rpc("k15_seeds", args=(device,)))
        config = self._engine.vllm_config.model_config
        self._max_model_len: int = config.max_model_len
        self._vocab_size: int = config.get_vocab_size()

    def sample(self, requests: Sequence[SampleRequest], *, deadline_s: float) -> Iterator[Answer]:
        """The index of a request with its num_samples segments, each as soon as all of them ended.

        A segment that used up its max_tokens ends with End.BUDGET: whether that was also the largest response
        length is the caller's to know. One that ended by itself (End.STOP) includes the stop token; one that
        loops with a period up to max_period (k15.algo.repeats) ends with the token that shows it. At the
        deadline what still runs is ended with the tokens it has, and with End.BUDGET.
        ValueError names a request that cannot be sampled; nothing is sampled then.
        """
        for part in self.stream(requests, deadline_s=deadline_s):
            self.stats = part.stats or self.stats
            yield from part.answers

    def stream(
        self, requests: Sequence[SampleRequest], *, deadline_s: float
    ) -> Generator[SamplePart, None, None]:
        """`sample` by steps of the engine: what each step completed, often nothing.

        Streams that run at the same time share the engine's batch, and each other's steps.
        """
        end_s = time.monotonic() + deadline_s
        if self.version == NO_VERSION:
            raise ValueError("no weights yet: a trainer is to send a version first")
        for index, request in enumerate(requests):
            self._check(index, request)
        core = self._engine.engine_core
        self._num_calls += 1
        call = str(self._num_calls)
        responses = self._running[call] = Responses(
            requests, call=call, version=self.version, ledger=self._ledger
        )
        try:
            for request in responses.start(self._stop_token_ids, engine_seeds=self._engine_seeds):
                core.add_request(request)
            while responses.open and time.monotonic() < end_s:
                self._step()
                yield SamplePart(responses.take())
        finally:
            core.abort_requests(responses.open)
            del self._running[call]
        responses.cut()
        yield SamplePart(responses.take(), responses.stats())

    def _step(self) -> None:
        core, repeating = self._engine.engine_core, []
        for output in core.get_output().outputs:
            responses = self._running.get(output.request_id.partition("/")[0])
            if responses is not None and responses.add(output):
                repeating.append(output.request_id)
        if repeating:
            core.abort_requests(repeating)
        if self._ledger is not None:
            self._ledger.write()

    def attach(self, receiver: WeightReceiver, layout: Sequence[TensorSpec]) -> None:
        """Take weights from `receiver` from now on; ValueError where `layout` is not this model's.

        Those of another receiver, from a trainer before, are no version of this one's.
        """
        check_layout(layout, self._model_dir)
        if self._receiver is not None:
            self._receiver.close()
            self.version, self._checksum = NO_VERSION, None
        self._receiver, self._layout = receiver, tuple(layout)

    @property
    def copy(self) -> WeightSource | None:
        """Where other samplers may take the weights this one has taken; None: where it takes them itself."""
        return None if self._receiver is None else self._receiver.source()

    def update(self, ticket: WeightTicket, *, deadline_s: float) -> None:
        """Serve the weights of `ticket` from now on; the old ones stay where it raises one of these.

        ConnectionError: they could not be fetched or do not verify. TimeoutError: not by the deadline.
        ValueError: the version goes back, or names other weights than before, or responses are being sampled.
        """
        if self._receiver is None:
            raise ValueError("no weight channel: open one before sending weights")
        refuse_older(ticket, version=self.version, checksum=self._checksum)
        if self._running:
            raise ValueError(
                f"version {ticket.version}: responses are being sampled; new weights wait for the phase's end"
            )
        started = time.monotonic()
        with self._receiver.take(ticket, deadline_s=deadline_s):
            verified_s = time.monotonic() - started
            self._engine.collective_rpc("k15_load", args=(self._receiver.path, self._layout, self._tied))
        if not self._engine.reset_prefix_cache():
            raise RuntimeError("vLLM did not empty its prefix cache; it holds keys of the old weights")
        self.version, self._checksum = ticket.version, ticket.checksum
        total_s = time.monotonic() - started
        log.info("updated version=%d verified_s=%.3f total_s=%.3f", ticket.version, verified_s, total_s)

    def close(self) -> None:
        """Give up the weight channel, and end the engine's other processes: vLLM takes 6 s to let them go."""
        for process in multiprocessing.active_children():
            process.kill()
            process.join()
        if self._receiver is not None:
            self._receiver.close()
            self._receiver = None

    def _check(self, index: int, request: SampleRequest) -> None:
        tokens = (*request.prompt_token_ids, *request.prefix)
        where = f"request {index}"
        if not request.prompt_token_ids:
            raise ValueError(f"{where}: the prompt is empty")
        if min(tokens) < 0 or max(tokens) >= self._vocab_size:
            raise ValueError(f"{where}: token ids must lie in 0..{self._vocab_size - 1}")
        if request.num_samples < 1 or request.max_tokens < 1 or request.temperature < 0:
            raise ValueError(f"{where}: num_samples and max_tokens are at least 1, temperature at least 0")
        if request.temperature == 0 and request.num_samples > 1:
            raise ValueError(f"{where}: samples at temperature 0 are all the same; ask for 1")
        if len(tokens) + request.max_tokens > self._max_model_len:
            raise ValueError(
                f"{where}: {len(tokens)} tokens and {request.max_tokens} to sample exceed "
                f"max_model_len = {self._max_model_len}; raise it or shorten them"
            )


def prepare(model_dir: Path, *, device: str) -> None:
    """Import what an engine for this model needs, without touching the device; safe to call again."""
    importlib.import_module(WORKERS[device])  # most of what building an engine imports
    if device == "cpu":
        _register_in_process(model_dir)
        torch.cpu._init_amx()  # type: ignore[no-untyped-call]  # without it bf16 attention dies with SIGILL on AMX


def _register_in_process(model_dir: Path) -> None:
    """Let vLLM look at the model's class here; it would start a process for that, 15 s on a new machine."""
    for name in json.loads((model_dir / "config.json").read_text()).get("architectures") or []:
        entry = ModelRegistry.models.get(name)
        if isinstance(entry, _LazyRegisteredModel):
            ModelRegistry.models[name] = _RegisteredModel.from_model_cls(entry.load_model_cls())


def stop_token_ids(model_dir: Path) -> list[int]:
    """The ids that end a response, of config.json and generation_config.json; ValueError without any."""
    found: set[int] = set()
    for name in ("config.json", "generation_config.json"):
        path = model_dir / name
        value = json.loads(path.read_text()).get("eos_token_id") if path.is_file() else None
        found.update(value if isinstance(value, list) else [] if value is None else [value])
    if not found:
        raise ValueError(f"{model_dir}/config.json: set eos_token_id; without it no response would end")
    return sorted(found)
