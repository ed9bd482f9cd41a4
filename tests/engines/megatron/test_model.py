"""Megatron's model against Hugging Face's, and the way there and back."""

import json
from itertools import pairwise
from math import prod
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from k15.engines.megatron import architecture, checkpoint, contents, mapping, parallel
from k15.engines.megatron.batch import Share, pack
from k15.engines.megatron.loss_model import logprobs
from k15.engines.megatron.model import load
from k15.recipes.pipeline import Layout
from k15.records import Sequence as Row
from tests.engines.megatron.conftest import VOCABULARY, MakeModel

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore::DeprecationWarning:megatron")]
FAMILIES = ("llama", "qwen2", "qwen3")


@pytest.fixture(autouse=True)
def _started() -> None:
    torch.set_num_threads(1)
    parallel.start(0)


def rows(*lengths: int) -> list[Row]:
    generator = torch.Generator().manual_seed(1)
    out = []
    for length in lengths:
        tokens = torch.randint(VOCABULARY, (length,), generator=generator).tolist()
        out.append(Row(tuple(tokens), (False,) + (True,) * (length - 1)))
    return out


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_logits_are_hugging_faces(make_model: MakeModel, family: str) -> None:
    directory, reference = make_model(family)
    module = load(directory).module
    tokens = torch.randint(VOCABULARY, (2, 48))
    positions = torch.arange(48).expand(2, 48)
    expected = reference(tokens).logits
    assert float((module(tokens, positions, None) - expected).abs().max()) < 1e-4
    assert float(expected.abs().max()) > 1


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_packed_rows_do_not_see_each_other(make_model: MakeModel, family: str) -> None:
    directory, reference = make_model(family)
    module = load(directory).module
    batch = rows(13, 200, 20, 2, 90, 20)
    packed = pack(batch, range(len(batch)), cuda=False)
    together = logprobs(module, packed)
    for place, index in enumerate(packed.indices):
        tokens = torch.tensor(batch[index].token_ids)[None]
        alone = reference(tokens[:, :-1]).logits[0].log_softmax(-1).gather(1, tokens[0, 1:, None])[:, 0]
        assert float((together[packed.row_T == place] - alone).abs().max()) < 1e-4


@torch.no_grad()
def test_rows_of_one_length_need_no_padding(make_model: MakeModel) -> None:
    directory, _ = make_model()
    module = load(directory).module
    batch = rows(30, 30, 30)
    packed = pack(batch, range(3), cuda=False)
    assert packed.layout.blocks[0].keys.slots_T is None
    alone = torch.cat([logprobs(module, pack(batch, [n], cuda=False)) for n in range(3)])
    assert float((logprobs(module, packed) - alone).abs().max()) < 1e-5


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_round_trip_is_equal_to_the_bit(
    make_model: MakeModel, tmp_path: Path, family: str, tied: bool
) -> None:
    directory, _ = make_model(family, tied=tied)
    load(directory).save(tmp_path / "out")
    before, after = (load_file(path / "model.safetensors") for path in (directory, tmp_path / "out"))
    assert set(before) == set(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert (mapping.OUTPUT in after) is not tied
    configs = [json.loads((path / "config.json").read_text()) for path in (directory, tmp_path / "out")]
    assert configs[0] == configs[1]
    assert (tmp_path / "out" / "tokenizer.json").read_text() == '{"kept": "as it was"}'


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_names_and_shapes_are_those_of_hugging_face(make_model: MakeModel, family: str, tied: bool) -> None:
    directory, reference = make_model(family, tied=tied)
    held = {name: tuple(t.shape) for name, t in load_file(directory / "model.safetensors").items()}
    expected = contents.shapes(architecture.read(directory))
    assert expected == held
    assert list(expected) == [name for name, _ in load(directory).tensors()]
    assert sum(map(prod, expected.values())) == reference.num_parameters()


def test_shards_and_their_index_read_like_one_file(make_model: MakeModel, tmp_path: Path) -> None:
    directory, _ = make_model()
    loaded = load(directory)
    sharded = tmp_path / "sharded"
    checkpoint.save(
        sharded, loaded.tensors(), config=loaded.arch.config, companions=directory, shard_bytes=50_000
    )
    files = sorted(path.name for path in sharded.glob("*.safetensors"))
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    index = json.loads((sharded / checkpoint.INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(t.numel() * 4 for _, t in loaded.tensors())
    again = dict(load(sharded).tensors())
    assert all(torch.equal(tensor, again[name]) for name, tensor in loaded.tensors())


def test_a_shard_is_a_small_part_of_the_model_and_no_tiny_file() -> None:
    gib = 2**30
    assert [checkpoint.shard_bytes_of(int(size * gib)) / gib for size in (131, 32, 1)] == [2, 2, 1 / 16]
    assert checkpoint.shard_bytes_of(3_000_000) > 3_000_000


@torch.no_grad()
def test_a_new_rope_base_is_used_and_written(make_model: MakeModel, tmp_path: Path) -> None:
    import transformers

    directory, reference = make_model()
    changed = load(directory, rope_base=1e6, max_positions=1024)
    changed.save(tmp_path / "out")
    written = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert written.config.max_position_embeddings == 1024
    tokens, positions = torch.randint(VOCABULARY, (1, 64)), torch.arange(64)[None]
    got = changed.module(tokens, positions, None)
    assert float((got - written(tokens).logits).abs().max()) < 1e-4
    assert float((got - reference(tokens).logits).abs().max()) > 1e-2


def test_errors_name_what_a_checkpoint_lacks_and_has_too_much(make_model: MakeModel) -> None:
    directory, _ = make_model()
    path = directory / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.9.mlp.up_proj.weight"] = tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, path)
    with pytest.raises(ValueError, match=r"lacks 1 tensors: model\.layers\.1\.mlp\.up_proj.*9\.mlp\.up_proj"):
        load(directory)


def test_a_wrong_shape_is_named(make_model: MakeModel) -> None:
    directory, _ = make_model()
    path = directory / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"] = torch.ones(3)
    save_file(tensors, path)
    with pytest.raises(ValueError, match=r"model\.norm\.weight is \(3,\), config\.json asks for \(64,\)"):
        load(directory)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_type", "gpt2"),
        ("attention_bias", True),
        ("use_sliding_window", True),
        ("hidden_act", "gelu"),
        ("rope_scaling", {"rope_type": "yarn", "factor": 4.0}),  # beside the rope_parameters of the file
        ("rope_scaling", {"factor": 4.0}),
        ("rope_scaling", "linear"),
        ("rope_parameters", {"rope_type": "default", "rope_theta": 1e4, "attention_factor": 2.0}),
        ("rope_parameters", {"rope_type": "default", "partial_rotary_factor": 0.5}),
        ("rope_parameters", {"rope_type": "default", "rope_theta": "large"}),
        ("rope_theta", 5e5),  # and another one in rope_parameters
        ("hidden_size", "x"),
        ("hidden_size", 64.0),
        ("num_attention_heads", 0),
        ("num_attention_heads", 3),
        ("num_key_value_heads", -1),
        ("head_dim", True),
        ("rms_norm_eps", None),
        ("rms_norm_eps", 0),
        ("max_position_embeddings", None),
        ("tie_word_embeddings", "false"),
        ("vocab_size", []),
        ("layer_types", 7),
    ],
)
def test_what_the_config_asks_for_and_is_not_built_is_refused(
    make_model: MakeModel, field: str, value: object
) -> None:
    directory, _ = make_model()
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, field: value}))
    with pytest.raises(ValueError, match=rf"config\.json: .*({field}|rope_theta)"):
        load(directory)


def test_a_config_that_is_no_object_is_refused(make_model: MakeModel) -> None:
    directory, _ = make_model()
    (directory / "config.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"config\.json: it holds list"):
        load(directory)


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.json: no such file"):
        load(tmp_path / "nowhere")


def test_a_tied_checkpoint_may_repeat_its_output_layer_but_not_change_it(make_model: MakeModel) -> None:
    directory, _ = make_model()
    path = directory / "model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, mapping.OUTPUT: tensors[mapping.EMBEDDING].clone()}, path)
    load(directory)
    save_file({**tensors, mapping.OUTPUT: tensors[mapping.EMBEDDING] + 1}, path)
    with pytest.raises(ValueError, match=r"lm_head\.weight differs"):
        load(directory)


def test_transformer_engines_names_map_to_the_same_tensors(make_model: MakeModel) -> None:
    directory, _ = make_model()
    loaded = load(directory)
    local = [name for name, _ in loaded.module.named_parameters()]
    fused = [
        name.replace("input_layernorm.weight", "self_attention.linear_qkv.layer_norm_weight").replace(
            "pre_mlp_layernorm.weight", "mlp.linear_fc1.layer_norm_weight"
        )
        for name in local
    ]
    assert fused != local
    assert [row for _, row in mapping.rows(fused, 2)] == [row for _, row in mapping.rows(local, 2)]
    with pytest.raises(ValueError, match=r"decoder\.layers\.0\.router\.weight"):
        mapping.rows([*local, "decoder.layers.0.router.weight"], 2)


def test_layout_of_query_groups() -> None:
    """Megatron keeps a group's queries, key and value together."""
    heads = (2, 2, 3)
    q, k, v = torch.arange(12.0), 100 + torch.arange(6.0), 200 + torch.arange(6.0)
    joined = mapping.join("qkv", [q, k, v], heads)
    assert joined[:12].tolist() == [0, 1, 2, 3, 4, 5, 100, 101, 102, 200, 201, 202]
    assert all(torch.equal(a, b) for a, b in zip(mapping.split("qkv", joined, heads), (q, k, v), strict=True))


def test_a_layout_for_more_processes_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(tensor=2\) is for 2 processes, and there are 1"):
        parallel.start(0, Layout(tensor=2))
    with pytest.raises(ValueError, match="set tensor > 1"):
        parallel.start(0, Layout(sequence=True))


def test_a_layout_that_does_not_divide_the_model_is_refused(make_model: MakeModel) -> None:
    arch = architecture.read(make_model()[0])
    with pytest.raises(ValueError, match=r"2 query groups .* tensor=4; 101 tokens of the vocabulary"):
        architecture.refuse_undivided(arch, Layout(tensor=4))
    with pytest.raises(ValueError, match=r"2 layers by pipeline=3"):
        architecture.refuse_undivided(arch, Layout(pipeline=3))


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("multiple", [1, 2, 4])
def test_shares_are_the_rows_once_and_divide(size: int, multiple: int) -> None:
    batch = rows(3, 200, 90, 17, 40)
    whole = pack(batch, range(5), cuda=False)
    shares = [pack(batch, range(5), cuda=False, share=Share(n, size, multiple)) for n in range(size)]
    assert len({len(share.tokens_T) for share in shares}) == 1
    assert all(len(share.tokens_T) % multiple == 0 for share in shares)
    found = sorted(
        place
        for share in shares
        for place in zip(
            *(x[share.in_loss_T].tolist() for x in (share.row_T, share.positions_T, share.labels_T)),
            strict=True,
        )
    )
    assert found == list(
        zip(*(x.tolist() for x in (whole.row_T, whole.positions_T, whole.labels_T)), strict=True)
    )
    order = torch.cat([share.row_T * 1000 + share.positions_T for share in shares])
    if size > 1:
        assert order[shares[0].layout.gathered_F].diff().gt(0).all()


def test_values_of_loss_tokens_reach_the_rank_that_holds_them() -> None:
    batch = [Row((5,) * n, (False,) * (n // 2) + (True,) * (n - n // 2)) for n in (9, 4, 30)]
    values = [[float(100 * n + k) for k in range(sum(row.in_loss))] for n, row in enumerate(batch)]
    for rank in range(2):
        packed = pack(batch, range(3), cuda=False, share=Share(rank, 2))
        got = packed.of_loss_tokens([values[index] for index in packed.indices])
        wanted = [
            100.0 * index + int(position) + 1 - len(batch[index].token_ids) // 2
            for index, position, on in zip(
                torch.tensor(packed.indices)[packed.row_T].tolist(),
                packed.positions_T,
                packed.in_loss_T,
                strict=True,
            )
            if on
        ]
        assert got.tolist() == wanted


def test_blocks_follow_each_other() -> None:
    packed = pack(rows(3, 200, 90, 17, 40), range(5), cuda=False)
    blocks = [block.keys for block in packed.layout.blocks]
    assert blocks[0].start == 0
    assert blocks[-1].end == len(packed.tokens_T)
    assert all(a.end == b.start for a, b in pairwise(blocks))
