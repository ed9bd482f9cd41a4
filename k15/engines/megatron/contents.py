"""What a checkpoint of an architecture holds: every tensor's name and shape, and whether one is so."""

import torch

from k15.engines.megatron import mapping
from k15.engines.megatron.architecture import Architecture
from k15.engines.megatron.checkpoint import Checkpoint

IGNORED = "rotary_emb.inv_freq"  # old checkpoints store this constant
BIASES = frozenset({"self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"})
HEAD_NORMS = frozenset({"self_attn.q_norm.weight", "self_attn.k_norm.weight"})
OF_ONE_FAMILY = {"qwen2": BIASES, "qwen3": HEAD_NORMS}


def shapes(arch: Architecture) -> dict[str, tuple[int, ...]]:
    """Of every Hugging Face tensor by its name, in HF order; a tied output layer is not among them."""
    absent = (BIASES | HEAD_NORMS) - OF_ONE_FAMILY.get(arch.family, frozenset())
    layer = _layer(arch)
    found: dict[str, tuple[int, ...]] = {mapping.EMBEDDING: (arch.vocab_size, arch.hidden_size)}
    for number in range(arch.num_layers):
        for row in mapping.LAYER:
            names = [name for name in row.hugging_face if name not in absent]
            found |= {f"model.layers.{number}.{name}": layer[name] for name in names}
    found[mapping.NORM] = (arch.hidden_size,)
    if not arch.tied:
        found[mapping.OUTPUT] = (arch.vocab_size, arch.hidden_size)
    return found


def refuse_misfit(source: Checkpoint, arch: Architecture) -> None:
    """ValueError says what `source` lacks, has too much, or has in another shape than config.json asks."""
    present = {name for name in source.names if not name.endswith(IGNORED)}
    if arch.tied and mapping.OUTPUT in present:
        if not torch.equal(source.tensor(mapping.OUTPUT), source.tensor(mapping.EMBEDDING)):
            raise ValueError(
                f"{source.directory}: config.json ties the output layer, but {mapping.OUTPUT} differs"
            )
        present.remove(mapping.OUTPUT)
    expected = shapes(arch)
    mapping.check_names(expected, present, where=str(source.directory))
    for name, shape in expected.items():
        if (found := source.shape(name)) != shape:
            raise ValueError(f"{source.directory}: {name} is {found}, config.json asks for {shape}")


def _layer(arch: Architecture) -> dict[str, tuple[int, ...]]:
    hidden, inner, dim = arch.hidden_size, arch.intermediate_size, arch.head_dim
    queries, groups = arch.num_heads * dim, arch.num_groups * dim
    return {
        "input_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (queries, hidden),
        "self_attn.k_proj.weight": (groups, hidden),
        "self_attn.v_proj.weight": (groups, hidden),
        "self_attn.q_proj.bias": (queries,),
        "self_attn.k_proj.bias": (groups,),
        "self_attn.v_proj.bias": (groups,),
        "self_attn.q_norm.weight": (dim,),
        "self_attn.k_norm.weight": (dim,),
        "self_attn.o_proj.weight": (hidden, queries),
        "post_attention_layernorm.weight": (hidden,),
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
    }
