"""Evaluation: every figure against counting by hand, votes by the grader's equality."""

from statistics import fmean

import pytest

from k15.loops.evaluate import GREEDY, answer_prompts, samples_drawn, summarize
from k15.loops.voting import answer_classes
from k15.recipes.evaluate import EvaluateRecipe
from k15.records import End, Part, Prompt, SampleStats, Segment, Status, Verdict
from k15.rewards.answer import last_answer

pytestmark = pytest.mark.engine
# Samples of four prompts, then the greedy response; every reference is 1. "1.0" equals it and "2.0" equals 2.
SAID = {
    "clear": ["#### 1", "#### 1.0", "#### 2", "#### 3", "#### 1"],
    "outvoted": ["#### 2", "#### 2.0", "#### 1", "none", "#### 2"],
    "tied": ["#### 1", "#### 2", "#### 2.0", "#### 1.0", "#### 1"],
    "down": ["?", "#### 1", "#### 3", "cut #### 3", "cut #### 1"],
}
PROMPTS = [Prompt(name, (Part("text", name),), "1", "t", 0.0, "numbers") for name in SAID]


def judge(prompt: Prompt, response: str) -> Verdict:
    if response == "?":
        return Verdict(Status.UNJUDGED, "down")
    answer = last_answer(response)
    same = answer is not None and float(answer) == float(prompt.reference)
    return Verdict(Status.CORRECT if same else Status.WRONG)


class Scripted:
    """A sampler that says what SAID holds; a response's token is its place."""

    version = 0
    stats = SampleStats()

    def sample(self, requests, *, deadline_s):
        for index, request in enumerate(requests):
            greedy = request.temperature == 0
            places = [4] if greedy else range(request.num_samples)
            yield index, [self.segment(index, place) for place in places]

    def segment(self, index, place):
        said = SAID[PROMPTS[index].id][place]
        end = End.LENGTH if said.startswith("cut") else End.STOP
        return Segment(0, (index, place), (), end)

    def update(self, ticket, *, deadline_s): ...


@pytest.fixture(scope="module")
def recipe():
    return EvaluateRecipe(num_prompts=4, samples_per_prompt=4, bootstrap_draws=100)


@pytest.fixture(scope="module")
def outcomes(recipe):
    return answer_prompts(
        Scripted(),
        PROMPTS,
        recipe,
        encode=lambda prompt: (0,),
        decode=lambda ids: SAID[PROMPTS[ids[0]].id][ids[1]],
        judge=judge,
    )


def test_equal_answers_share_a_number_and_what_states_none_has_none(outcomes):
    numbers = {name: [row.answer for row in outcomes if row.prompt_id == name][:4] for name in SAID}
    assert numbers == {
        "clear": [0, 0, 1, 2],
        "outvoted": [1, 1, 0, None],
        "tied": [0, 1, 1, 0],
        "down": [None, 0, 1, None],
    }
    assert all(row.answer is None for row in outcomes if row.sample == GREEDY)


def test_figures_are_what_counting_gives(outcomes, recipe):
    (figures,) = summarize({"m": outcomes}, recipe)["models"]
    assert figures["n"] == 4 and figures["unjudged"] == 1
    assert figures["sampled"] == pytest.approx(fmean([2 / 4, 1 / 4, 2 / 4, 1 / 3]))
    assert figures["greedy"] == pytest.approx(fmean([1, 0, 1, 0]))
    assert figures["majority"] == pytest.approx(fmean([1, 0, 1 / 2, 1 / 2]))
    assert figures["majority_ties"] == 2
    assert figures["majority_low"] <= figures["majority"] <= figures["majority_high"]
    at = {row["k"]: (row["n"], row["pass"]) for row in figures["pass_at"]}
    assert at[1] == (4, pytest.approx(figures["sampled"]))
    assert at[2] == (4, pytest.approx(fmean([5 / 6, 3 / 6, 5 / 6, 2 / 3])))
    assert at[4] == (3, pytest.approx(1.0))  # one prompt has three judged samples


def test_ks_are_powers_of_two_and_all():
    assert [samples_drawn(n) for n in (1, 2, 6, 8)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8]]


def test_votes_are_cast_by_the_grader_not_by_spelling():
    wrong = [Status.WRONG] * 3
    assert answer_classes(PROMPTS[0], ["#### 2", "#### 2.00", "#### 7"], wrong, judge) == [1, 1, 2]
