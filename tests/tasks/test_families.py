"""Every family: its gold answers pass its own scorer, its steps are right, its labels are labels."""

from itertools import islice
from random import Random

import pytest

from k15.ports import RewardPorts
from k15.records import Status
from k15.rewards import judging
from k15.tasks.corpus import prompt
from k15.tasks.demonstrations import STYLES
from k15.tasks.families import FAMILIES, licenses, problems
from k15.tasks.problem import Problem

pytestmark = pytest.mark.engine
PARAMS = {
    "chain_sum": {"min_terms": 2, "max_terms": 4, "min_digits": 1, "max_digits": 3},
    "gcd": {"max_numbers": 3, "max_value": 200},
    "leg_counting": {"min_animals": 1, "max_animals": 5},
}

judge = judging({"reasoning_gym"}, RewardPorts())


def drawn(name: str, count: int = 300) -> list[Problem]:
    return list(islice(problems(name, PARAMS[name], 7), count))


def test_every_family_is_checked() -> None:
    assert set(PARAMS) == set(FAMILIES)


@pytest.mark.parametrize("name", PARAMS)
@pytest.mark.parametrize("style", ["direct", "short", "reflective", "checked"])
def test_gold_answers_are_correct_in_every_style(name: str, style: str) -> None:
    random = Random(0)
    for problem in drawn(name, 60):
        response = STYLES[style](problem, random)
        assert judge(prompt(problem), response).status is Status.CORRECT, response


@pytest.mark.parametrize("name", PARAMS)
def test_a_wrong_answer_is_wrong(name: str) -> None:
    for problem in drawn(name, 60):
        assert judge(prompt(problem), f"#### {int(problem.answer) + 1}").status is Status.WRONG
        assert judge(prompt(problem), problem.answer).status is Status.WRONG  # nothing stated


@pytest.mark.parametrize("name", PARAMS)
def test_steps_hold_and_their_checks_tell_slips(name: str) -> None:
    for problem in drawn(name):
        assert problem.steps
        for step in problem.steps:
            assert eval(step.left) == step.value
            assert eval(step.check().partition(" = ")[0].replace("--", "+")) == step.target
            assert not step.check(step.value + 1).endswith(f"= {step.target}")


@pytest.mark.parametrize("name", PARAMS)
def test_difficulty_is_a_label_that_tells_problems_apart(name: str) -> None:
    labels = [problem.difficulty for problem in drawn(name)]
    assert 0.0 <= min(labels) < 0.3
    assert 0.7 < max(labels) <= 1.0
    assert len(set(labels)) >= 4


def test_longer_sums_are_labelled_harder() -> None:
    easy = islice(
        problems("chain_sum", {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}, 0), 200
    )
    hard = islice(
        problems("chain_sum", {"min_terms": 4, "max_terms": 4, "min_digits": 2, "max_digits": 2}, 0), 200
    )
    assert sum(p.difficulty for p in easy) < 0.5 * sum(p.difficulty for p in hard)


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("chain_summ", {}, "families.chain_summ: no such family"),
        ("chain_sum", {"max_term": 3}, "families.chain_sum.params: unknown"),
        ("chain_sum", {"min_terms": 5, "max_terms": 2}, "families.chain_sum.params: max_terms"),
    ],
)
def test_bad_families_are_refused_by_name(name: str, params: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        next(problems(name, params, 0))


def test_generated_questions_have_a_licence():
    (generator, terms), *_ = licenses().items()
    assert generator.startswith("reasoning-gym ") and terms == "Apache-2.0"
