"""Megatron on CUDA: bf16 with TransformerEngine. Needs a GPU, and an environment with CUDA wheels:

python -m pytest tests/gpu/test_megatron_cuda.py -m gpu
"""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("default"),
]


def test_log_probs_are_near_hugging_faces_in_bf16(cuda_model: Path) -> None:
    import transformers

    from k15.engines.megatron.trainer import MegatronTrainer
    from k15.records import Sequence

    reference = transformers.AutoModelForCausalLM.from_pretrained(cuda_model, dtype=torch.float32)
    rows = [
        Sequence(tuple((11 * n + 7 * t) % 512 for t in range(length)), (False,) + (True,) * (length - 1))
        for n, length in enumerate((40, 9, 100))
    ]
    got = MegatronTrainer(
        cuda_model, threads=1, max_tokens_per_microbatch=1024, precision="bfloat16"
    ).logprobs(rows)
    for row, values in zip(rows, got, strict=True):
        tokens = torch.tensor(row.token_ids)[None]
        with torch.no_grad():
            logprobs = reference(tokens[:, :-1]).logits[0].log_softmax(-1)
        expected = logprobs.gather(1, tokens[0, 1:, None])[:, 0]
        assert float((torch.tensor(values) - expected).abs().mean()) < 0.05


def test_loading_and_saving_keeps_every_bf16_weight(cuda_model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from k15.engines.megatron.trainer import MegatronTrainer

    MegatronTrainer(cuda_model, threads=1, max_tokens_per_microbatch=1024, precision="bfloat16").save(
        tmp_path / "out"
    )
    before, after = (load_file(path / "model.safetensors") for path in (cuda_model, tmp_path / "out"))
    assert set(before) == set(after)
    assert all(torch.equal(before[name].bfloat16(), after[name]) for name in before)


def test_supervised_steps_and_a_policy_update_train(cuda_model: Path) -> None:
    from k15.engines.megatron.trainer import MegatronTrainer
    from k15.recipes.rl import PolicyUpdate
    from k15.recipes.supervised import Optimizer
    from k15.records import Group, Sequence

    trainer = MegatronTrainer(cuda_model, threads=1, max_tokens_per_microbatch=512, precision="bfloat16")
    rows = [
        Sequence(tuple((5 * n + t) % 512 for t in range(20 + n)), (False,) * 5 + (True,) * (15 + n))
        for n in range(32)
    ]
    trainer.reset_optimizer(Optimizer())
    losses = [trainer.supervised_step(rows, lr=1e-3)["loss"] for _ in range(20)]
    assert losses[-1] < 0.7 * losses[0]
    groups = [Group(str(n), tuple(rows[n : n + 4]), (1.0, 0.0, 0.0, 1.0)) for n in range(0, 32, 4)]
    for objective in ("omd", "rest", "grpo"):
        settings = PolicyUpdate.parse({"objective": objective, "minibatches": 2}, where="update")
        stats = trainer.policy_update(groups, settings=settings, lr=1e-4)
        assert stats.num_updates == 4
        assert stats.gradient_norm > 0
        assert stats.extra["rho_max"] > stats.extra["rho_mean"] > 0
