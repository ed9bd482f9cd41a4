"""New weights in a running vLLM model, in place."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open

from k15.engines.weights import views
from k15.records import TensorSpec

OUTPUT_LAYER = "lm_head.weight"


def checkpoint_shapes(model_dir: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor in a Hugging Face directory, from the files' headers."""
    files = sorted(model_dir.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{model_dir}: no safetensors files")
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            shapes |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    return shapes


def check_layout(layout: Sequence[TensorSpec], model_dir: Path) -> None:
    """ValueError where `layout` is not exactly the tensors of the model that is served.

    A tied output layer that the files repeat may be missing from the layout: it is the embedding.
    """
    expected = checkpoint_shapes(model_dir)
    given = {spec.name: tuple(spec.shape) for spec in layout}
    if tied_embeddings(model_dir) and OUTPUT_LAYER not in given:
        expected.pop(OUTPUT_LAYER, None)
    for name in sorted(expected.keys() ^ given.keys()):
        where = "the trainer's layout" if name in given else str(model_dir)
        raise ValueError(f"weights: {name} is only in {where}; trainer and sampler hold different models")
    for name, shape in given.items():
        if shape != expected[name]:
            ours = expected[name]
            raise ValueError(f"weights: {name} has shape {shape} in the trainer, {ours} in the sampler")


def tied_embeddings(model_dir: Path) -> bool:
    """Whether the model's output layer is its embedding."""
    return bool(json.loads((model_dir / "config.json").read_text()).get("tie_word_embeddings", False))


def load_in_place(runner: Any, buffer: memoryview, layout: Sequence[TensorSpec], *, tied: bool) -> None:
    """Give vLLM's model runner the weights in `buffer`; the model does not refer to the buffer afterwards.

    vLLM's reload leaves a tied output layer with the products it prepared from the old weights (it skips a
    tensor that is not in the checkpoint), so that layer is pointed at the embedding and prepared again.
    """
    runner.reload_weights(weights_iterator=views(buffer, layout))
    if tied:
        model = runner.get_model()
        model.lm_head.weight = model.model.embed_tokens.weight
        model.lm_head.quant_method.process_weights_after_loading(model.lm_head)
