"""A trainer that was interrupted goes on as the one that was not, to the bit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from k15.engines.megatron import model, state
from k15.engines.megatron.trainer import MegatronTrainer
from k15.recipes.supervised import Optimizer
from k15.records import Sequence as Row
from tests.engines.megatron.conftest import MakeModel

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore::DeprecationWarning:megatron")]
ADAM = Optimizer(weight_decay=0.1)


def batch(step: int) -> list[Row]:
    """Rows of unlike lengths, other ones each step."""
    return [
        Row(tuple((7 * n + 3 * t + step) % 101 for t in range(6 + 5 * n)), (False,) + (True,) * (5 + 5 * n))
        for n in range(5)
    ]


def new_trainer(directory: Path) -> MegatronTrainer:
    trainer = MegatronTrainer(directory, threads=1, max_tokens_per_microbatch=48)
    trainer.reset_optimizer(ADAM)
    return trainer


def train(trainer: MegatronTrainer, first: int, last: int) -> list[dict[str, float]]:
    return [trainer.supervised_step(batch(step), lr=1e-2 / (1 + step)) for step in range(first, last)]


def weights(trainer: MegatronTrainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.tensors()}


@pytest.mark.parametrize(
    ("family", "tied", "at"), [("qwen3", True, 2), ("qwen2", False, 1), ("llama", True, 0)]
)
def test_going_on_from_a_state_is_not_to_be_told_from_never_stopping(
    make_model: MakeModel, tmp_path: Path, family: str, tied: bool, at: int
) -> None:
    directory, _ = make_model(family, tied=tied)
    whole = new_trainer(directory)
    figures = train(whole, 0, 5)
    stopped = new_trainer(directory)
    train(stopped, 0, at)
    stopped.save_state(tmp_path / "state")
    resumed = new_trainer(make_model(family, tied=tied, seed=1)[0])  # its own weights are to go
    train(resumed, 0, 3)  # and its moments and count of updates
    resumed.load_state(tmp_path / "state")
    assert train(resumed, at, 5) == figures[at:]
    ends = weights(whole), weights(resumed)
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_it_is_safetensors_under_hugging_face_names(make_model: MakeModel, tmp_path: Path) -> None:
    directory, reference = make_model("qwen2", tied=False)
    trainer = new_trainer(directory)
    train(trainer, 0, 2)
    trainer.save_state(tmp_path)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".json", ".safetensors"}
    for part in ("weights", "exp_avg", "exp_avg_sq"):
        held = load_file(tmp_path / part / "model.safetensors")
        assert {name: t.shape for name, t in held.items()} == {
            name: p.shape for name, p in reference.named_parameters()
        }
        assert {t.dtype for t in held.values()} == {torch.float32}
    described = json.loads((tmp_path / "state.json").read_text())
    assert (described["updates"], described["config"]["model_type"]) == (2, "qwen2")


def test_moments_are_those_of_torchs_adam(make_model: MakeModel, tmp_path: Path) -> None:
    """What lies under a name belongs to that tensor: the layouts of QKV and MLP are undone."""
    directory, reference = make_model("qwen3", tied=False)
    trainer = new_trainer(directory)
    (row,) = rows = batch(0)[1:2]
    tokens = torch.tensor([row.token_ids])
    logits = reference(tokens[:, :-1]).logits
    torch.nn.functional.cross_entropy(logits[0], tokens[0, 1:]).backward()
    trainer.reset_optimizer(ADAM.model_copy(update={"clip_gradient_norm": 1e9}))
    trainer.supervised_step(rows, lr=1e-3)
    trainer.save_state(tmp_path)
    with safe_open(tmp_path / "exp_avg" / "model.safetensors", "pt") as moments:
        for name, parameter in reference.named_parameters():
            assert parameter.grad is not None
            expected = (1 - ADAM.adam_beta1) * parameter.grad
            assert torch.allclose(moments.get_tensor(name), expected, atol=1e-6), name


def test_damaged_and_foreign_states_are_refused(make_model: MakeModel, tmp_path: Path) -> None:
    directory, _ = make_model()
    trainer = new_trainer(directory)
    train(trainer, 0, 1)
    trainer.save_state(tmp_path / "state")
    with pytest.raises(ValueError, match=r"another model; its config.json differs in .*'model_type'"):
        new_trainer(make_model("llama")[0]).load_state(tmp_path / "state")
    with pytest.raises(ValueError, match="not a trainer's state"):
        trainer.load_state(directory)
    shard = tmp_path / "state" / "exp_avg" / "model.safetensors"
    data = shard.read_bytes()
    shard.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="exp_avg/model.safetensors"):
        trainer.load_state(tmp_path / "state")
    shard.unlink()
    with pytest.raises(ValueError, match="exp_avg"):
        trainer.load_state(tmp_path / "state")
    described = tmp_path / "state" / "state.json"
    described.write_text(described.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(ValueError, match="format 2; this version reads 1"):
        trainer.load_state(tmp_path / "state")
    described.write_text("{")
    with pytest.raises(ValueError, match="state.json: not a trainer's state"):
        trainer.load_state(tmp_path / "state")


def mixed(directory: Path) -> tuple[model.Model, Any, Any]:
    """A bf16 model, wrapped, whose optimizer holds fp32 masters, as Megatron builds them."""
    from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
    from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer

    loaded = model.load(directory)
    loaded.module.bfloat16()
    loaded.module.config.bf16 = True
    buckets = DistributedDataParallelConfig(grad_reduce_in_fp32=True)
    wrapped = DistributedDataParallel(loaded.module.config, buckets, loaded.module)
    config = OptimizerConfig(optimizer="adam", lr=1e-3, bf16=True, params_dtype=torch.bfloat16, clip_grad=1.0)
    return loaded, wrapped, get_megatron_optimizer(config, [wrapped])


def mixed_steps(held: tuple[model.Model, Any, Any], *seeds: int) -> None:
    """Updates by gradients of nobody's making: only the optimizer is looked at."""
    loaded, wrapped, adam = held
    for seed in seeds:
        wrapped.zero_grad_buffer()
        torch.manual_seed(seed)
        for parameter in loaded.module.parameters():
            parameter.main_grad.copy_(torch.randn(parameter.shape))
        adam.step()


def test_bf16_keeps_its_fp32_masters(make_model: MakeModel, tmp_path: Path) -> None:
    directory, _ = make_model()
    new_trainer(directory)  # the process group
    whole, stopped, resumed = mixed(directory), mixed(directory), mixed(directory)
    mixed_steps(whole, 1, 2, 3, 4)
    mixed_steps(stopped, 1, 2)
    state.save(tmp_path, stopped[0], stopped[2])
    mixed_steps(resumed, 5)
    state.load(tmp_path, resumed[0], resumed[2])
    assert all(
        torch.equal(a, b)
        for a, b in zip(stopped[0].module.parameters(), resumed[0].module.parameters(), strict=True)
    )
    mixed_steps(resumed, 3, 4)
    for a, b in zip(whole[0].module.parameters(), resumed[0].module.parameters(), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a.main_param, b.main_param)
        assert a.main_param.dtype == torch.float32
