"""The tensors of SmolLM2-135M with random values, in one layout; and a replica in a process of its own.

`python weights_of_135m.py TRANSPORT` prints the address of a registered buffer, then reads tickets from
standard input, one JSON list a line, takes each and prints the seconds it moved bytes, checked them and read
them once more into memory of its own.
"""

import dataclasses
import json
import sys
import time

import torch

from k15.engines.channels import open_receiver
from k15.engines.weights import layout_bytes, tensor_bytes
from k15.records import TensorSpec, WeightSource, WeightTicket

HOST, TIMEOUT_S = "127.0.0.1", 30
LAYERS, HIDDEN, INNER, KEYS, VOCABULARY = 30, 576, 1536, 192, 49_152


def layout() -> list[TensorSpec]:
    """In Hugging Face's names, bf16, output layer tied."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    for number in range(LAYERS):
        layer = f"model.layers.{number}"
        for name, rows in (("q_proj", HIDDEN), ("k_proj", KEYS), ("v_proj", KEYS), ("o_proj", HIDDEN)):
            shapes[f"{layer}.self_attn.{name}.weight"] = (rows, HIDDEN)
        shapes |= {f"{layer}.mlp.{name}.weight": (INNER, HIDDEN) for name in ("gate_proj", "up_proj")}
        shapes[f"{layer}.mlp.down_proj.weight"] = (HIDDEN, INNER)
        shapes |= {f"{layer}.{name}_layernorm.weight": (HIDDEN,) for name in ("input", "post_attention")}
    shapes["model.norm.weight"] = (HIDDEN,)
    specs: list[TensorSpec] = []
    for name, shape in shapes.items():
        offset = specs[-1].offset + tensor_bytes(specs[-1]) if specs else 0
        specs.append(TensorSpec(name, "bfloat16", shape, offset))
    return specs


def tensors(seed: int) -> list[tuple[str, torch.Tensor]]:
    """Random values for `layout`."""
    torch.manual_seed(seed)
    return [(spec.name, torch.randn(spec.shape).bfloat16()) for spec in layout()]


def ticket_of(line: str) -> WeightTicket:
    """What `json.dumps(dataclasses.asdict(ticket))` said."""
    fields = json.loads(line)
    return WeightTicket(**{**fields, "source": WeightSource(**fields["source"])})


def main() -> None:
    """Be the replica."""
    num_bytes = layout_bytes(layout())
    receiver = open_receiver(sys.argv[1], num_bytes, host=HOST, timeout_s=TIMEOUT_S)
    own = torch.zeros(num_bytes, dtype=torch.uint8)
    source = receiver.source()
    print(json.dumps(source and dataclasses.asdict(source)), flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        with receiver.take(ticket_of(line), deadline_s=600) as payload:
            taken = time.perf_counter()
            own.copy_(torch.frombuffer(payload, dtype=torch.uint8))
            copied = time.perf_counter()
        seconds = receiver.seconds  # type: ignore[attr-defined]
        answer = {"take_s": taken - started, "copy_s": copied - taken}
        print(json.dumps({**answer, "move_s": seconds.move, "checksum_s": seconds.checksum}), flush=True)


if __name__ == "__main__":
    main()
