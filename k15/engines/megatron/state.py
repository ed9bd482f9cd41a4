"""A trainer's whole state on disk, so that training goes on as if it had not been interrupted.

    state.json        how many updates Adam has made, and the config.json of the model
    weights/          fp32: the master weights where the model itself is bf16
    exp_avg/          Adam's first moment   } absent before the first update
    exp_avg_sq/       Adam's second moment  }

Each folder holds sharded safetensors under Hugging Face's names, so any layout of processes can read what
another wrote, by the same table that loads a model.
"""

import json
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.optimizer import MegatronOptimizer
from torch import Tensor

from k15.engines.megatron import checkpoint
from k15.engines.megatron import optimizer as adam
from k15.engines.megatron.model import Model

FORMAT = 1
STATE = "state.json"
WEIGHTS = "weights"
MOMENTS = ("exp_avg", "exp_avg_sq")


def save(directory: Path, model: Model, optimizer: MegatronOptimizer) -> None:
    """Write the state to an empty directory; under several processes all call it and the first writes."""
    masters = _masters(model)
    held = {part: _moment(part, masters, optimizer) for part in MOMENTS}
    updates = _updates(optimizer)
    parts = {WEIGHTS: masters, **(held if updates else {})}
    shard_bytes = checkpoint.shard_bytes_of(torch.float32.itemsize * model.num_parameters)
    for part, values in parts.items():
        tensors = model.named(values)
        if dist.get_rank() == 0:
            (directory / part).mkdir(parents=True)
            checkpoint.save_shards(directory / part, tensors, shard_bytes)
        else:
            deque(tensors, maxlen=0)  # other ranks hand over their parts while they go through it
    if dist.get_rank() == 0:
        state = {"format": FORMAT, "updates": updates, "config": model.arch.config}
        (directory / STATE).write_text(json.dumps(state, indent=1, sort_keys=True) + "\n")


@torch.no_grad()
def load(directory: Path, model: Model, optimizer: MegatronOptimizer) -> None:
    """Take the state of `directory`, which any layout may have written, to the bit.

    ValueError where it is not of this model, where it is not whole, or where a file is damaged.
    """
    updates = _read(directory / STATE, model.arch.config)
    masters = _masters(model)
    model.take(checkpoint.Checkpoint(directory / WEIGHTS), masters)
    for parameter in model.module.parameters():
        master = _master(parameter)
        if master is not parameter:
            parameter.copy_(master)
    inners = adam.inner(optimizer)
    for inner in inners:
        inner.state.clear()
    if not updates:
        return
    moments = {part: {name: torch.zeros_like(t) for name, t in masters.items()} for part in MOMENTS}
    for part, values in moments.items():
        model.take(checkpoint.Checkpoint(directory / part), values)
    names = {id(tensor): name for name, tensor in masters.items()}
    for inner in inners:
        for group in inner.param_groups:
            for master in group["params"]:
                name = names[id(master)]
                inner.state[master].update({part: moments[part][name] for part in MOMENTS})
                _count(inner, group, master, updates)


def _masters(model: Model) -> dict[str, Tensor]:
    """The fp32 tensor Adam updates for each parameter, by Megatron's name: its master, or the parameter."""
    return {name: _master(parameter) for name, parameter in model.parameters().items()}


def _master(parameter: Tensor) -> Tensor:
    return getattr(parameter, "main_param", parameter)  # set by Megatron's mixed-precision optimizer


def _moment(part: str, masters: Mapping[str, Tensor], optimizer: MegatronOptimizer) -> dict[str, Tensor]:
    known = {id(master): held for inner in adam.inner(optimizer) for master, held in inner.state.items()}
    return {name: known[id(master)][part] for name, master in masters.items() if id(master) in known}


def _updates(optimizer: MegatronOptimizer) -> int:
    """How many updates Adam has made since it was last reset; the same for every parameter."""
    counts = {
        int(held["step"]) for one in adam.inner(optimizer) for held in one.state.values() if "step" in held
    }
    counts |= {int(g["step"]) for inner in adam.inner(optimizer) for g in inner.param_groups if "step" in g}
    if len(counts) > 1:
        raise ValueError(f"the optimizer counts {sorted(counts)} updates of different parameters")
    return counts.pop() if counts else 0


def _count(inner: torch.optim.Optimizer, group: dict[str, Any], master: Tensor, updates: int) -> None:
    if isinstance(inner, torch.optim.Adam):  # counts for each parameter; TransformerEngine's for each group
        device = master.device if group.get("fused") else torch.device("cpu")
        inner.state[master]["step"] = torch.tensor(float(updates), device=device)
    else:
        group["step"] = updates


def _read(path: Path, config: dict[str, Any]) -> int:
    """The number of updates; ValueError where the state is not one of a model of this config.json."""
    try:
        state = json.loads(path.read_text())
        updates, theirs = int(state["updates"]), dict(state["config"])
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; this is not a trainer's state") from None
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a trainer's state ({error!r})") from None
    if state.get("format") != FORMAT:
        raise ValueError(f"{path}: format {state.get('format')}; this version reads {FORMAT}")
    differing = sorted(n for n in config.keys() | theirs.keys() if config.get(n) != theirs.get(n))
    if differing:
        raise ValueError(f"{path}: the state of another model; its config.json differs in {differing}")
    return updates
