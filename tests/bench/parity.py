# environment: engine
"""Every layout against Hugging Face transformers, a row at a time: logits, and a supervised step's gradient.

    make bench NAME=parity

Layout × family × packing (several rows of mixed lengths in a microbatch, or one row), fp32 on CPU, random
models with untidy norms and biases; Llama's output layer is untied. Prints max |Δlogit| and the largest
‖Δgradient‖ / ‖gradient‖ of any tensor; writes out/bench/parity.json.
"""

import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file

from tests.engines.megatron.layouts import VOCABULARY, run_ranks, some_rows

LIMIT = 1e-4  # of both figures
LAYOUTS: dict[int, list[dict[str, Any]]] = {  # by number of processes
    1: [{}],
    2: [
        {"tensor": 2},
        {"tensor": 2, "sequence": True},
        {"pipeline": 2},
        {"context": 2},
        {"data": 2},
    ],
    4: [
        {"tensor": 2, "pipeline": 2},
        {"tensor": 2, "sequence": True, "context": 2},
        {"pipeline": 2, "context": 2},
        {"context": 4},
        {"context": 2, "data": 2},
    ],
}
FAMILIES = {
    "llama": (transformers.LlamaConfig, False),
    "qwen2": (transformers.Qwen2Config, True),
    "qwen3": (transformers.Qwen3Config, True),
}
PACKINGS = {  # row lengths, tokens of a microbatch
    "packed": ((13, 90, 20, 7, 70, 20, 33, 5, 40), 150),
    "alone": ((60, 60, 60, 60), 60),
}


def main() -> int:
    """Measure, print the table, write the figures; 1 where one is over the limit."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for family in FAMILIES:
            make_model(work, family)
        rows = [row for world in LAYOUTS for row in measure(work, world)]
    worst = {
        "max_logit_diff": max(row["logit_diff"] for row in rows),
        "max_gradient_diff": max(row["gradient_diff"] for row in rows),
    }
    print("worst  " + "  ".join(f"{name}={value:.2e}" for name, value in worst.items()))
    flat = worst | {
        f"{row['layout']} {row['family']} {row['packing']} {name}".replace(" ", "_"): row[name]
        for row in rows
        for name in ("logit_diff", "gradient_diff")
    }
    target = Path.cwd() / "out/bench/parity.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(flat, indent=1))
    return 0 if max(worst.values()) <= LIMIT else 1


def make_model(work: Path, family: str) -> None:
    """A random model on disk, and for each packing its logits and gradient by transformers."""
    kind, tied = FAMILIES[family]
    config = kind(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=256,
        tie_word_embeddings=tied,
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(work / family)
    for packing, (lengths, _) in PACKINGS.items():
        model.zero_grad()
        torch.save(reference(model, lengths), work / f"{family}-{packing}.pt")


def reference(model: Any, lengths: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Logits of every token, and the gradient of the mean cross-entropy of the tokens in the loss."""
    rows = some_rows(lengths)
    loss_tokens = sum(sum(row.in_loss) for row in rows)
    logits = []
    for row in rows:
        tokens = torch.tensor(row.token_ids)[None]
        logits.append(model(tokens[:, :-1]).logits[0])
        logprobs = logits[-1].log_softmax(-1).gather(1, tokens[0, 1:, None])[:, 0]
        (-logprobs[torch.tensor(row.in_loss[1:])].sum() / loss_tokens).backward()
    out = {f"gradient.{name}": p.grad.clone() for name, p in model.named_parameters()}
    return out | {"logits": torch.cat(logits).detach()}


def measure(work: Path, world: int) -> list[dict[str, Any]]:
    """A row for every case of so many processes, printed as it is known."""
    cases: list[dict[str, Any]] = [
        {
            "kind": "measure_step",
            "model": str(work / family),
            "layout": layout,
            "output": str(work / f"{world}-{number}-{family}-{packing}"),
            "lengths": lengths,
            "max_tokens": max_tokens,
        }
        for number, layout in enumerate(LAYOUTS[world])
        for family in FAMILIES
        for packing, (lengths, max_tokens) in PACKINGS.items()
    ]
    run_ranks(cases, world, work)
    rows = []
    for case in cases:
        found = load_file(Path(case["output"]) / "measured.safetensors")
        _, _, family, packing = Path(case["output"]).name.split("-")
        wanted = torch.load(work / f"{family}-{packing}.pt")
        gradients = [name for name in wanted if name.startswith("gradient.")]
        row = {
            "layout": " ".join(f"{k}={v}" for k, v in case["layout"].items()) or "one process",
            "family": family,
            "packing": packing,
            "logit_diff": float((found["logits"] - wanted["logits"]).abs().max()),
            "gradient_diff": max(
                float((found[name] - wanted[name]).norm() / wanted[name].norm()) for name in gradients
            ),
        }
        print(
            f"{row['layout']:<28} {family:<6} {packing:<7} "
            f"logit {row['logit_diff']:.1e}  gradient {row['gradient_diff']:.1e}",
            flush=True,
        )
        rows.append(row)
    return rows


if __name__ == "__main__":
    sys.exit(main())
