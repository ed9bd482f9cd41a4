"""Megatron's Adam, reset as the method asks, and the buffers it takes gradients from."""

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.optimizer import MegatronOptimizer, OptimizerConfig, get_megatron_optimizer
from megatron.core.transformer.module import Float16Module

from k15.engines.megatron.loss_model import LossModel
from k15.recipes.supervised import Adam


def wrap(module: LossModel) -> DistributedDataParallel:
    """The model with fp32 buffers for its gradients, which are summed over data-parallel ranks."""
    config = module.config
    buckets = DistributedDataParallelConfig(
        use_distributed_optimizer=False, overlap_grad_reduce=False, grad_reduce_in_fp32=True
    )
    return DistributedDataParallel(config, buckets, Float16Module(config, module) if config.bf16 else module)


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
    for part in inner(optimizer):
        if isinstance(part, torch.optim.AdamW):  # TransformerEngine's is fused by itself
            for group in part.param_groups:
                group["fused"] = True  # one pass over the memory instead of eight
    return optimizer


def inner(optimizer: MegatronOptimizer) -> list[torch.optim.Optimizer]:
    """The optimizers that hold moments, inside Megatron's."""
    return [part.optimizer for part in getattr(optimizer, "chained_optimizers", [optimizer])]


def reset(optimizer: MegatronOptimizer, adam: Adam, *, weight_decay: float = 0.0) -> None:
    """Forget every moment and step count, and take new values. Norms and biases never decay."""
    for part in getattr(optimizer, "chained_optimizers", [optimizer]):
        part.optimizer.state.clear()
        part.config.clip_grad = adam.clip_gradient_norm
    for group in optimizer.param_groups:
        group.pop("step", None)  # TransformerEngine's Adam counts here
        group["betas"] = (adam.adam_beta1, adam.adam_beta2)
        group["eps"] = adam.adam_epsilon
        group["weight_decay"] = weight_decay * group["wd_mult"]


def step(optimizer: MegatronOptimizer, lr: float) -> float:
    """One update at rate `lr`; the gradient's norm before clipping."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    _, norm, _ = optimizer.step()
    return float(norm)
