"""Megatron's Adam, reset as the method asks."""

from dataclasses import dataclass

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer, OptimizerConfig, get_megatron_optimizer


@dataclass(frozen=True, slots=True)
class Adam:
    """The values of one optimizer run."""

    beta1: float
    beta2: float
    epsilon: float
    clip_gradient_norm: float
    weight_decay: float = 0.0


def build(model: DistributedDataParallel, *, precision: torch.dtype) -> MegatronOptimizer:
    """Adam over the model's parameters; with fp32 master weights and moments where they are bf16."""
    config = OptimizerConfig(
        optimizer="adam",
        lr=0.0,
        min_lr=0.0,
        weight_decay=0.0,
        params_dtype=precision,
        bf16=precision == torch.bfloat16,
        use_distributed_optimizer=False,
        clip_grad=1.0,
    )
    optimizer = get_megatron_optimizer(config, [model])
    for part in getattr(optimizer, "chained_optimizers", [optimizer]):
        if isinstance(part.optimizer, torch.optim.AdamW):  # TransformerEngine's is fused by itself
            for group in part.optimizer.param_groups:
                group["fused"] = True  # one pass over the memory instead of eight
    return optimizer


def reset(optimizer: MegatronOptimizer, adam: Adam) -> None:
    """Forget every moment and step count, and take new values. Norms and biases never decay."""
    for part in getattr(optimizer, "chained_optimizers", [optimizer]):
        part.optimizer.state.clear()
        part.config.clip_grad = adam.clip_gradient_norm
    for group in optimizer.param_groups:
        group.pop("step", None)  # TransformerEngine's Adam counts here
        group["betas"] = (adam.beta1, adam.beta2)
        group["eps"] = adam.epsilon
        group["weight_decay"] = adam.weight_decay * group["wd_mult"]


def step(optimizer: MegatronOptimizer, lr: float) -> float:
    """One update at rate `lr`; the gradient's norm before clipping."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    _, norm, _ = optimizer.step()
    return float(norm)
