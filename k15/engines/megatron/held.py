"""Which rank holds which parameter, by names that number the layers of all pipeline stages through."""

from dataclasses import dataclass

import torch

from k15.engines.megatron import mapping, parallel

LAYERS = "decoder.layers."


@dataclass(frozen=True, slots=True)
class Held:
    """Where a parameter is, and what each tensor-parallel rank of that stage holds of it."""

    stage: int
    shape: tuple[int, ...]


def parameters(module: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """This rank's parameters by their name in the whole model."""
    first = module.decoder.layers[0].layer_number - 1
    named = {}
    for name, parameter in module.named_parameters():
        number, _, rest = name.removeprefix(LAYERS).partition(".")
        named[f"{LAYERS}{int(number) + first}.{rest}" if name.startswith(LAYERS) else name] = parameter
    return named


def everywhere(module: torch.nn.Module, *, tied: bool) -> dict[str, Held]:
    """Every stage's parameters; a tied output layer is the first stage's embedding, not one of its own."""
    own = {name: Held(parallel.stage(), tuple(p.shape)) for name, p in parameters(module).items()}
    held: dict[str, Held] = {}
    for part in parallel.from_all_stages(own):
        held |= part
    if tied:
        held.pop(mapping.OUTPUT_LAYER, None)
    return held
