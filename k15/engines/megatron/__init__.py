"""Megatron, imported quietly, and without torch's compiler where there is no GPU to compile for.

Its modules warn of TransformerEngine and Apex one by one, and decorate functions that only fused layers call:
on CPU these stay as they are, which halves the time to import.
"""

import warnings
from typing import Any

import torch


def _as_it_is(function: Any = None, **_: Any) -> Any:
    return function if function is not None else _as_it_is


_compile = torch.compile
try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not torch.cuda.is_available():
            torch.compile = _as_it_is
        import megatron.core.distributed
        import megatron.core.models.gpt.gpt_layer_specs
        import megatron.core.optimizer  # noqa: F401
finally:
    torch.compile = _compile
