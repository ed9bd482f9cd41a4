"""The trainer against METHOD.md's formula taken literally on Hugging Face's model, and its invariants."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from k15.engines.megatron.trainer import MegatronTrainer
from k15.recipes.rl import PolicyUpdate
from k15.recipes.supervised import Optimizer
from k15.records import Group
from k15.records import Sequence as Row
from tests.engines.megatron.conftest import VOCABULARY, MakeModel
from tests.engines.megatron.literal import literal_update, token_logprobs

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore::DeprecationWarning:megatron")]
RATE = 0.3
OMD: dict[str, Any] = {"objective": "omd", "tau": 0.2}
GRPO: dict[str, Any] = {"objective": "grpo", "kl_weight": 0.2}
REST: dict[str, Any] = {"objective": "rest"}
# With so large an epsilon Adam's step is nearly proportional to the gradient, so weights can be compared.
SETTINGS: dict[str, Any] = {
    "first_step_scale": 0.5,
    "inner_steps": 3,
    "adam_epsilon": 1.0,
    "clip_gradient_norm": 1e6,
    "drop_uniform_groups": False,
}


def trainer_of(directory: Path, *, max_tokens: int = 4096) -> MegatronTrainer:
    return MegatronTrainer(directory, threads=1, max_tokens_per_microbatch=max_tokens)


def weights_of(trainer: MegatronTrainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.tensors()}


def some_rows(number: int, seed: int = 0) -> list[Row]:
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(number):
        asked, answered = (int(n) for n in torch.randint(3, 20, (2,), generator=generator))
        tokens = torch.randint(VOCABULARY, (asked + answered,), generator=generator).tolist()
        rows.append(Row(tuple(tokens), (False,) * asked + (True,) * answered))
    return rows


def some_groups(rewards: Sequence[Sequence[float]]) -> list[Group]:
    return [
        Group(f"p{number}", tuple(some_rows(len(scores), number)), tuple(scores))
        for number, scores in enumerate(rewards)
    ]


REWARDS = ([1.0, 0.0, 0.0, 1.0], [0.0, 1.5, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [1.0, 0.0, -0.5])


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max(float((a[name] - b[name]).detach().abs().max()) for name in a)


@pytest.mark.parametrize(
    ("values", "max_tokens"),
    [
        (OMD, 4096),
        (OMD, 40),
        (OMD | {"minibatches": 2}, 60),
        (OMD | {"baseline": "log_partition"}, 4096),
        (GRPO | {"minibatches": 2}, 60),
        (REST | {"minibatches": 2}, 60),
    ],
)
def test_policy_update_is_the_objective_taken_literally(
    make_model: MakeModel, values: dict[str, Any], max_tokens: int
) -> None:
    directory, reference = make_model()
    trainer, groups = trainer_of(directory), some_groups(REWARDS)
    start = weights_of(trainer)
    settings = PolicyUpdate(**SETTINGS, **values, max_tokens_per_microbatch=max_tokens)
    stats = trainer.policy_update(groups, settings=settings, lr=RATE)
    got = weights_of(trainer)
    expected = literal_update(reference, groups, settings, lr=RATE).weights
    moved = distance(got, start)
    assert moved > 0.01
    assert distance(got, expected) < 1e-3 * moved
    assert stats.num_updates == 3 * settings.minibatches
    assert stats.extra["rho_max"] > stats.extra["rho_mean"] > 0.05  # τ had something to act on


def test_the_test_above_tells_the_wrong_version_apart(make_model: MakeModel) -> None:
    groups, settings = some_groups(REWARDS), PolicyUpdate(**SETTINGS, **OMD)
    right = literal_update(make_model()[1], groups, settings, lr=RATE).weights
    wrong = literal_update(make_model()[1], groups, settings, lr=RATE, square_tokens=True).weights
    assert distance(right, wrong) > 0.01 * distance(right, dict(make_model()[1].named_parameters()))


def test_dropping_uniform_groups_is_exact_in_the_first_update_only(make_model: MakeModel) -> None:
    directory, _ = make_model()
    groups = some_groups(REWARDS)
    after: dict[tuple[int, bool], dict[str, torch.Tensor]] = {}
    for steps in (1, 3):
        for drop in (True, False):
            trainer = trainer_of(directory)
            settings = PolicyUpdate(**SETTINGS | OMD | {"inner_steps": steps, "drop_uniform_groups": drop})
            stats = trainer.policy_update(groups, settings=settings, lr=RATE)
            assert stats.extra["num_groups_kept"] == (3 if drop else 4)
            after[steps, drop] = weights_of(trainer)
    assert distance(after[1, True], after[1, False]) < 1e-6
    assert distance(after[3, True], after[3, False]) > 1e-5


@pytest.mark.parametrize(("values", "kept"), [(OMD, 3), (GRPO, 3), (REST, 4)])
def test_groups_that_teach_nothing_are_dropped(
    make_model: MakeModel, values: dict[str, Any], kept: int
) -> None:
    """Equal rewards; for rest no success: it fits those that all succeeded."""
    trainer = trainer_of(make_model()[0])
    groups = some_groups([*REWARDS, [0.0, 0.0]])
    stats = trainer.policy_update(groups, settings=PolicyUpdate(**values), lr=1e-9)
    assert stats.extra["num_groups_kept"] == kept


def test_nothing_to_learn_from_changes_nothing(make_model: MakeModel) -> None:
    trainer = trainer_of(make_model()[0])
    start = weights_of(trainer)
    stats = trainer.policy_update(some_groups([[1.0, 1.0]]), settings=PolicyUpdate(), lr=RATE)
    assert (stats.num_updates, stats.num_tokens, stats.mismatch_max) == (0, 0, 0.0)
    assert distance(weights_of(trainer), start) == 0.0


def test_mismatch_compares_the_same_tokens(make_model: MakeModel) -> None:
    trainer = trainer_of(make_model()[0])
    groups = some_groups(REWARDS)
    sampled = [Group(g.prompt_id, g.sequences, g.rewards, _rows_of(trainer, g)) for g in groups]
    settings = PolicyUpdate(minibatches=2, max_tokens_per_microbatch=50, drop_uniform_groups=False)
    exact = trainer.policy_update(sampled, settings=settings, lr=1e-9)
    assert exact.mismatch_max < 1e-5
    assert exact.extra["mismatch_outside"] == 0.0
    tokens = sum(len(row) for g in sampled for row in g.logprobs)
    off = [
        Group(g.prompt_id, g.sequences, g.rewards, tuple((row[0] + 0.5, *row[1:]) for row in g.logprobs))
        for g in sampled
    ]
    rows = sum(len(g.sequences) for g in off)
    stats = trainer.policy_update(off, settings=settings, lr=1e-9)
    assert stats.mismatch_mean == pytest.approx(0.5 * rows / tokens, abs=1e-4)
    assert stats.mismatch_max == pytest.approx(0.5, abs=1e-4)
    assert stats.extra["mismatch_outside"] == pytest.approx(rows / tokens)


def test_tokens_that_an_older_policy_sampled_are_not_compared(make_model: MakeModel) -> None:
    trainer = trainer_of(make_model()[0])
    groups = some_groups(REWARDS)
    older = [
        Group(
            g.prompt_id, g.sequences, g.rewards, tuple((math.nan, *row[1:]) for row in _rows_of(trainer, g))
        )
        for g in groups
    ]
    stats = trainer.policy_update(older, settings=PolicyUpdate(), lr=1e-9)
    assert stats.mismatch_max < 1e-5
    assert math.isfinite(stats.mismatch_mean)


def _rows_of(trainer: MegatronTrainer, group: Group) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in trainer.logprobs(group.sequences))


def test_a_group_whose_parts_do_not_match_is_refused(make_model: MakeModel) -> None:
    trainer = trainer_of(make_model()[0])
    rows = tuple(some_rows(2))
    for group in (Group("odd", rows, (1.0,)), Group("odd", rows, (1.0, 0.0), ((0.0,), (0.0,)))):
        with pytest.raises(ValueError, match="group odd"):
            trainer.policy_update([group], settings=PolicyUpdate(), lr=RATE)


def test_an_update_remembers_nothing_of_what_came_before(make_model: MakeModel, tmp_path: Path) -> None:
    """The optimizer is reset: a trainer that has a past and one loaded from its weights do the same."""
    veteran = trainer_of(make_model()[0])
    veteran.reset_optimizer(Optimizer())
    for seed in range(3):
        veteran.supervised_step(some_rows(8, seed), lr=1e-3)
    veteran.save(tmp_path / "saved")
    recruit = trainer_of(tmp_path / "saved")
    for trainer in (veteran, recruit):
        trainer.policy_update(some_groups(REWARDS), settings=PolicyUpdate(), lr=1e-3)
    assert distance(weights_of(veteran), weights_of(recruit)) == 0.0


def test_supervised_steps_fit_and_are_the_same_for_the_same_seed(make_model: MakeModel) -> None:
    directory, _ = make_model(noise=0.0)
    ends = []
    for _ in range(2):
        trainer = trainer_of(directory)
        trainer.reset_optimizer(Optimizer(weight_decay=0.0))
        losses = [trainer.supervised_step(some_rows(16), lr=3e-3)["loss"] for _ in range(20)]
        assert losses[-1] < 0.7 * losses[0]
        ends.append(weights_of(trainer))
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_microbatches_do_not_change_a_supervised_step(make_model: MakeModel) -> None:
    directory, reference = make_model()
    rows = some_rows(12)
    whole, split = trainer_of(directory), trainer_of(directory, max_tokens=40)
    with torch.no_grad():
        expected = -torch.cat([token_logprobs(reference, row) for row in rows]).mean()
    for trainer in (whole, split):
        trainer.reset_optimizer(Optimizer(adam_epsilon=1.0))
        values = trainer.supervised_step(rows, lr=0.1)
        assert values["loss"] == pytest.approx(float(expected), abs=1e-4)
        assert values["num_tokens"] == sum(len(row.token_ids) - 1 for row in rows)
    assert distance(weights_of(whole), weights_of(split)) < 1e-6


def test_flops_follow_the_tokens_and_those_in_the_loss(make_model: MakeModel) -> None:
    trainer = trainer_of(make_model()[0])
    tokens = tuple(range(20))
    whole, answer = Row(tokens, (False,) + (True,) * 19), Row(tokens, (False,) * 10 + (True,) * 10)
    assert trainer.flops([whole, answer]) == trainer.flops([whole]) + trainer.flops([answer])
    assert trainer.flops([whole]) - trainer.flops([answer]) == 9 * 6 * 64 * VOCABULARY


def test_norms_do_not_decay_and_matrices_do(make_model: MakeModel) -> None:
    trainer = trainer_of(make_model()[0])
    start = weights_of(trainer)
    trainer.reset_optimizer(Optimizer(weight_decay=1.0, adam_epsilon=1e6))
    trainer.supervised_step(some_rows(4), lr=0.1)
    end = weights_of(trainer)
    assert torch.allclose(end["model.norm.weight"], start["model.norm.weight"], atol=1e-6)
    proj = "model.layers.0.mlp.down_proj.weight"
    assert torch.allclose(end[proj], 0.9 * start[proj], atol=1e-6)


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(make_model: MakeModel) -> None:
    trainer = trainer_of(make_model()[0])
    with torch.no_grad():
        dict(trainer.tensors())["model.norm.weight"].fill_(torch.inf)
    start = weights_of(trainer)
    with pytest.raises(FloatingPointError, match="the loss is nan"):
        trainer.supervised_step(some_rows(4), lr=0.1)
    assert (
        distance(
            {"a": weights_of(trainer)["model.embed_tokens.weight"]}, {"a": start["model.embed_tokens.weight"]}
        )
        == 0
    )


def test_rows_that_do_not_fit_are_refused(make_model: MakeModel) -> None:
    directory, _ = make_model()
    long = Row((1,) * 300, (False,) + (True,) * 299)
    with pytest.raises(ValueError, match="300 tokens; the model allows 256"):
        trainer_of(directory).supervised_step([long], lr=0.1)
    with pytest.raises(ValueError, match="never split"):
        trainer_of(directory, max_tokens=10).supervised_step(some_rows(9), lr=0.1)
    with pytest.raises(ValueError, match="no token in the loss"):
        trainer_of(directory).supervised_step([Row((1, 2), (False, False))], lr=0.1)


@pytest.mark.parametrize("tied", [True, False])
def test_layout_is_where_the_tensors_lie_and_save_writes_them(
    make_model: MakeModel, tmp_path: Path, tied: bool
) -> None:
    trainer = trainer_of(make_model(tied=tied)[0])
    layout, tensors = trainer.layout(), dict(trainer.tensors())
    assert [spec.name for spec in layout] == list(tensors)
    ends = [spec.offset + tensors[spec.name].numel() * 4 for spec in layout]
    assert [spec.offset for spec in layout] == [0, *ends[:-1]]
    assert all(spec.dtype == "float32" and spec.shape == tuple(tensors[spec.name].shape) for spec in layout)
    trainer.save(tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert set(written) == set(tensors)
    assert all(torch.equal(written[name], tensors[name]) for name in written)
