"""What a layout computes, measured the same way by one process and by each rank of torchrun.

    torchrun … -m tests.engines.megatron.layouts CASES.json

CASES.json lists cases: model, layout, output, max_tokens. Rank 0 writes each case's tensors and figures.
"""

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from k15.engines.megatron import parallel
from k15.engines.megatron.model import load
from k15.engines.megatron.parallel import mappings, parallel_state
from k15.engines.megatron.trainer import MegatronTrainer
from k15.loops.supervised import Heldout
from k15.recipes.pipeline import Layout
from k15.recipes.rl import PolicyUpdate
from k15.recipes.supervised import Optimizer
from k15.records import Group
from k15.records import Sequence as Row

ROOT = Path(__file__).parents[3]
VOCABULARY = 96  # of the models compared: divides
LENGTHS = (13, 90, 20, 7, 70, 20, 33, 5, 40)
RATE = 0.3  # of policy updates
LIMIT = 150  # tokens of a microbatch: several, of several rows each


def some_rows(lengths: Sequence[int] = LENGTHS) -> list[Row]:
    """Rows of these lengths; the last ones of three quarters of the tokens are in the loss."""
    generator = torch.Generator().manual_seed(3)
    rows = []
    for length in lengths:
        tokens = torch.randint(VOCABULARY, (length,), generator=generator).tolist()
        asked = 1 + length // 4
        rows.append(Row(tuple(tokens), (False,) * asked + (True,) * (length - asked)))
    return rows


def some_groups(rows: list[Row]) -> list[Group]:
    """Groups of three neighbours with rewards, and log-probs a sampler might have sent."""
    return [
        Group(
            str(n),
            tuple(rows[n : n + 3]),
            (1.0, 0.0, float(n == 3)),
            tuple(tuple(-1.0 - 0.01 * k for k in range(sum(row.in_loss))) for row in rows[n : n + 3]),
        )
        for n in range(0, len(rows) - 2, 3)
    ]


def measure(
    model: Path,
    output: Path,
    *,
    layout: Layout,
    lengths: Sequence[int] = LENGTHS,
    max_tokens: int = LIMIT,
    resume: Path | None = None,
) -> None:
    """The weights as loaded, logits, log-probs, a supervised step's gradient, and those after an update.

    Then a step from a state: of `resume`, or of one made and saved here.
    """
    trainer = MegatronTrainer(model, threads=1, max_tokens_per_microbatch=max_tokens, layout=layout)
    trainer.save(output / "start")
    rows = some_rows(lengths)
    tensors, figures = _first_step(trainer, rows)
    settings = policy_settings({"minibatches": 2}, max_tokens)
    stats = trainer.policy_update(some_groups(rows), settings=settings, lr=RATE)
    figures |= {
        "policy_loss": stats.loss,
        "policy_norm": stats.gradient_norm,
        "mismatch_mean": stats.mismatch_mean,
        "mismatch_max": stats.mismatch_max,
        **stats.extra,
        "num_parameters": trainer.num_parameters,
    }
    trainer.save(output / "model")
    figures |= _go_on(trainer, rows, output, resume)
    if dist.get_rank() == 0:
        save_file(tensors, output / "measured.safetensors")
        (output / "figures.json").write_text(json.dumps(figures))


def measure_step(
    model: Path,
    output: Path,
    *,
    layout: Layout,
    lengths: Sequence[int] = LENGTHS,
    max_tokens: int = LIMIT,
    **how: Any,
) -> None:
    """Logits, log-probs and gradient of a supervised step alone; `how` is MegatronTrainer's."""
    trainer = MegatronTrainer(model, threads=1, max_tokens_per_microbatch=max_tokens, layout=layout, **how)
    tensors, _ = _first_step(trainer, some_rows(lengths))
    if dist.get_rank() == 0:
        save_file(tensors, output / "measured.safetensors")


def measure_policy(
    model: Path,
    output: Path,
    *,
    layout: Layout,
    update: dict[str, Any],
    lengths: Sequence[int] = LENGTHS,
    max_tokens: int = LIMIT,
    lr: float = RATE,
) -> None:
    """The gradient of an iteration's last update, with `policy_settings(update)`, and its figures."""
    trainer = MegatronTrainer(model, threads=1, max_tokens_per_microbatch=max_tokens, layout=layout)
    settings = policy_settings(update, max_tokens)
    stats = trainer.policy_update(some_groups(some_rows(lengths)), settings=settings, lr=lr)
    gradients = _gradients(trainer)
    if dist.get_rank() == 0:
        save_file(gradients, output / "measured.safetensors")
        (output / "figures.json").write_text(json.dumps({"loss": stats.loss, **stats.extra}))


def measure_heldout(
    model: Path, output: Path, *, layout: Layout, lengths: Sequence[int] = LENGTHS, max_tokens: int = LIMIT
) -> None:
    """The held-out loss as each rank has it, and how many tokens went through its part of the model."""
    trainer = MegatronTrainer(model, threads=1, max_tokens_per_microbatch=max_tokens, layout=layout)
    tokens = 0

    def count(module: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        nonlocal tokens
        tokens += given[0].numel()

    trainer._wrapped.register_forward_pre_hook(count)
    loss = Heldout(some_rows(lengths), every_steps=1).loss(trainer, 0)
    found = {"loss": loss, "tokens": tokens}
    (output / f"heldout-{dist.get_rank()}.json").write_text(json.dumps(found))


def policy_settings(update: dict[str, Any], max_tokens: int = LIMIT) -> PolicyUpdate:
    """`update` with an Adam whose steps are nearly proportional to gradients: tiny ones would be noise."""
    plain = {"adam_epsilon": 1.0, "clip_gradient_norm": 1e6, "max_tokens_per_microbatch": max_tokens}
    return PolicyUpdate.parse({**plain, **update}, where="update")


def round_trip(model: Path, output: Path, *, layout: Layout, precision: str) -> None:
    """Load and write."""
    trainer = MegatronTrainer(
        model, threads=1, max_tokens_per_microbatch=LIMIT, layout=layout, precision=precision
    )
    trainer.save(output / "start")


def peak(model: Path, output: Path, *, layout: Layout, small: str) -> None:
    """Memory this rank takes at most, more than for a `small` model, to load and write one, in bytes."""
    parallel.start(0, layout)
    _through(Path(small), output / "small", layout)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = _resident("VmRSS")
    _through(model, output / "large", layout)
    taken = _resident("VmHWM") - before
    (output / f"peak-{dist.get_rank()}.json").write_text(json.dumps(taken))


def _through(model: Path, output: Path, layout: Layout) -> None:
    load(model, layout=layout).save(output)


def _resident(field: str) -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in status if line.startswith(field + ":"))


def _first_step(
    trainer: MegatronTrainer, rows: list[Row]
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    logits = all_logits(trainer, rows)
    logprobs = trainer.logprobs(rows)
    trainer.reset_optimizer(Optimizer(clip_gradient_norm=1e6))
    figures = trainer.supervised_step(rows, lr=0.0)
    tensors = _gradients(trainer)
    tensors["logits"] = logits
    tensors["logprobs"] = torch.tensor([value for row in logprobs for value in row])
    tensors["greedy"] = torch.tensor([float(hit) for row in trainer.greedy_matches(rows) for hit in row])
    return tensors, figures


def _gradients(trainer: MegatronTrainer) -> dict[str, torch.Tensor]:
    """What the last update had, by "gradient." and the HF name; on rank 0."""
    own = {name: parameter.main_grad for name, parameter in trainer._model.parameters().items()}
    return {f"gradient.{name}": tensor.clone() for name, tensor in trainer._model.named(own)}


def _go_on(trainer: MegatronTrainer, rows: list[Row], output: Path, resume: Path | None) -> dict[str, float]:
    # So large an epsilon makes Adam's steps proportional to gradients: else tiny ones count by their noise.
    trainer.reset_optimizer(Optimizer(adam_epsilon=1.0, clip_gradient_norm=1e6))
    if resume is None:
        trainer.supervised_step(rows, lr=1.0)
        resume = output / "state"
        trainer.save_state(resume)
    trainer.load_state(resume)
    trainer.save_state(output / "state-again")
    done = trainer.supervised_step(rows, lr=1.0)
    trainer.save(output / "resumed")
    return {"resumed_loss": done["loss"], "resumed_norm": done["gradient_norm"]}


@torch.no_grad()
def all_logits(trainer: MegatronTrainer, rows: list[Row]) -> torch.Tensor:
    """Logits of every token of every row but its last, [tokens, vocabulary], on every rank."""
    starts = torch.tensor([0, *(len(row.token_ids) - 1 for row in rows)]).cumsum(0)
    out = torch.zeros(int(starts[-1]), VOCABULARY)
    for packed in trainer._pack(rows, range(len(rows)), trainer._max_tokens):
        states = _through_the_pipeline(trainer, packed)
        if parallel.is_last_stage():
            logits_T = mappings.gather_from_tensor_model_parallel_region(states)[0]
            lengths_N = torch.tensor([len(rows[index].token_ids) - 1 for index in packed.indices])
            real_T = packed.positions_T < lengths_N[packed.row_T]
            places_T = starts[list(packed.indices)][packed.row_T] + packed.positions_T
            out[places_T[real_T]] = logits_T[real_T]
    return parallel.from_last_stage(parallel.sum_over_data(out, context=True))


def _through_the_pipeline(trainer: MegatronTrainer, packed: Any) -> torch.Tensor:
    """The model's output for a batch: each stage takes the states of the one before."""
    module = trainer._wrapped
    hidden = trainer._model.arch.hidden_size
    group = parallel_state.get_pipeline_model_parallel_group()
    if not parallel.is_first_stage():
        length = len(packed.tokens_T) // trainer._share.multiple
        states = torch.empty(length, 1, hidden)
        dist.recv(states, parallel_state.get_pipeline_model_parallel_prev_rank(), group=group)
        trainer._model.module.set_input_tensor(states)
    out = module(packed.tokens_T[None], packed.positions_T[None], None, packed_seq_params=packed.layout)
    if not parallel.is_last_stage():
        dist.send(out.contiguous(), parallel_state.get_pipeline_model_parallel_next_rank(), group=group)
    return out


def measured(output: Path) -> tuple[dict[str, torch.Tensor], dict[str, float], dict[str, torch.Tensor]]:
    """What `measure` wrote: tensors, figures, and the weights it ended with."""
    figures = json.loads((output / "figures.json").read_text())
    return load_file(output / "measured.safetensors"), figures, load_file(output / "model/model.safetensors")


def run_ranks(cases: list[dict[str, Any]], world: int, work: Path, **env: str) -> None:
    """Measure the cases, one after another, in `world` processes with more variables of environment."""
    listed = work / f"cases-{world}.json"
    listed.write_text(json.dumps(cases))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(world), "--standalone"),
            *("-m", "tests.engines.megatron.layouts", str(listed)),
        ],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": os.environ["PATH"], **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=570,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the ranks failed:\n{done.stdout[-5000:]}")


KINDS: dict[str, Any] = {
    "measure": measure,
    "measure_step": measure_step,
    "measure_policy": measure_policy,
    "measure_heldout": measure_heldout,
    "round_trip": round_trip,
    "peak": peak,
}

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for case in json.loads(Path(sys.argv[1]).read_text()):
        target = Path(case.pop("output"))
        target.mkdir(parents=True, exist_ok=True)
        layout = Layout.parse(case.pop("layout"), where="layout")
        if "resume" in case:
            case["resume"] = Path(case["resume"])
        kind = KINDS[case.pop("kind", "measure")]
        kind(Path(case.pop("model")), target, layout=layout, **case)
