"""The corpus: nothing held out is trained on, the same seed gives the same corpus, drops are counted."""

import dataclasses

import pytest

from k15.recipes.data import DataRecipe
from k15.tasks.corpus import Corpus, apportion, content, from_families, from_questions
from k15.tasks.problem import Problem

pytestmark = pytest.mark.engine
FAMILIES = {
    "chain_sum": {
        "weight": 2.0,
        "params": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2},
    },
    "gcd": {"params": {"max_value": 30}},
    "leg_counting": {"params": {"min_animals": 1, "max_animals": 2}},
}
SIZES = {"num_train": 400, "num_heldout": 100, "num_pretrain": 300, "num_sft": 250, "num_longcot": 250}


def recipe(**values: object) -> DataRecipe:
    return DataRecipe.parse({"families": FAMILIES, **SIZES, **values}, where="data")


def own(count: int, start: int = 0) -> list[Problem]:
    return [
        Problem(f"What is {n} plus 1?", str(n + 1), "questions", 0.0, "math", solution=f"{n}+1={n + 1}")
        for n in range(start, start + count)
    ]


def trained_on(corpus: Corpus) -> list[str]:
    """Every text that a stage trains on."""
    questions = [prompt.text for prompt in corpus.train]
    questions += [response.problem.question for response in (*corpus.sft, *corpus.longcot)]
    return [*questions, *corpus.pretrain]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_nothing_held_out_is_in_anything_trained_on(seed: int) -> None:
    corpus = from_families(recipe(seed=seed))
    texts = {content(text) for text in trained_on(corpus)}
    for prompt in corpus.heldout:
        assert content(prompt.text) not in texts
        assert not any(content(prompt.text) in text for text in texts)
    assert not {p.id for p in corpus.train} & {p.id for p in corpus.heldout}


def test_families_of_equal_weight_give_as_many_prompts_as_were_asked_for() -> None:
    equal = {name: {**family, "weight": 1.0} for name, family in FAMILIES.items()}
    corpus = from_families(recipe(families=equal))
    assert (len(corpus.heldout), len(corpus.train)) == (100, 400)
    assert apportion(1000, [1.0, 1.0, 1.0]) == [334, 333, 333]
    assert apportion(1, [0.2, 0.8]) == [0, 1]


def test_held_out_questions_of_a_users_file_are_taken_out_of_training() -> None:
    styles = {"sft_styles": {"given": 1.0}, "longcot_styles": {"direct": 1.0, "reflective": 1.0}}
    heldout = [*own(10, start=5), dataclasses.replace(own(1)[0], question="what  IS 0 plus 1?")]
    corpus = from_questions(own(40) + own(3), heldout, recipe(**styles, num_heldout=50))
    assert len(corpus.heldout) == 11
    assert len(corpus.train) == 40 - 11
    assert corpus.dropped == {"repeated": 3, "held_out": 11, "over_num_train": 0}
    texts = {content(text) for text in trained_on(corpus)}
    assert not any(content(prompt.text) in text for prompt in corpus.heldout for text in texts)


def test_without_a_held_out_file_some_are_set_aside() -> None:
    corpus = from_questions(own(60), None, recipe(sft_styles={"given": 1.0}, num_heldout=20))
    assert (len(corpus.heldout), len(corpus.train)) == (20, 40)
    assert not {p.text for p in corpus.train} & {p.text for p in corpus.heldout}


def test_prompts_are_distinct_and_in_the_given_shares() -> None:
    corpus = from_families(recipe())
    assert len({p.id for p in corpus.train}) == len(corpus.train) == 400
    assert [sum(p.task == name for p in corpus.heldout) for name in FAMILIES] == [50, 25, 25]
    assert (len(corpus.pretrain), len(corpus.sft), len(corpus.longcot)) == (300, 250, 250)


def test_styles_are_mixed_by_weight() -> None:
    styles = [r.style for r in from_families(recipe(num_longcot=2000)).longcot]
    assert abs(styles.count("direct") / len(styles) - 0.5) < 0.05
    assert set(styles) == {"direct", "reflective"}


def test_seeded() -> None:
    assert from_families(recipe(seed=3)) == from_families(recipe(seed=3))
    assert from_families(recipe(seed=3)).train != from_families(recipe(seed=4)).train


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"families": {}}, "families: none"),
        ({"sft_styles": {"shrt": 1.0}}, "sft_styles: no style"),
        ({"longcot_styles": {}}, "longcot_styles: give at least one"),
        ({"sft_styles": {"given": 1.0}}, "style given: task"),
        ({"num_train": 30_000}, r"families\.\w+: only \d+ different problems"),
    ],
)
def test_bad_recipes_are_refused_by_field(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_families(recipe(**values))


def test_a_file_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="3 lines leave 0 to train on"):
        from_questions(own(3), None, recipe())
