"""Rejection sampling, without an engine."""

from collections.abc import Iterator, Sequence

import pytest

from k15.loops.paths import PROMPTS_AT_ONCE, Found, demonstrations, figures, find_paths, select
from k15.recipes.paths import PathsRecipe
from k15.records import End, Part, Prompt, SampleRequest, Segment, Status, Verdict, WeightTicket

pytestmark = pytest.mark.engine


def prompt(number: int) -> Prompt:
    return Prompt(f"p{number}", (Part("text", f"question {number}"),), str(number), "count", 0.0, "math")


class Parrot:
    """A sampler whose sample j to prompt i is the tokens [i] * (j + 1); the last one is cut."""

    version = 0

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.seeds: list[int] = []

    def sample(
        self, requests: Sequence[SampleRequest], *, deadline_s: float
    ) -> Iterator[tuple[int, list[Segment]]]:
        self.calls.append(len(requests))
        self.seeds += [r.seed + sample for r in requests for sample in range(r.num_samples)]
        for index, request in reversed(list(enumerate(requests))):
            yield (
                index,
                [
                    Segment(
                        0,
                        request.prompt_token_ids[-1:] * (sample + 1),
                        (),
                        End.LENGTH if sample == request.num_samples - 1 else End.STOP,
                    )
                    for sample in range(request.num_samples)
                ],
            )

    def update(self, ticket: WeightTicket, *, deadline_s: float) -> None:
        raise AssertionError("the weights stay")


def judge_even(one: Prompt, response: str) -> Verdict:
    """Even prompts are solved by every response, odd ones by none, the seventh is not judged."""
    if one.id == "p7":
        return Verdict(Status.UNJUDGED, "no answer")
    return Verdict(Status.WRONG if int(one.reference) % 2 else Status.CORRECT)


def found_of(
    number: int,
    recipe: PathsRecipe,
    sampler: Parrot,
    lots: list[list[Found]] | None = None,
) -> tuple[list[Found], list[Prompt]]:
    """What is found; `lots` are those committed before, and grow by those committed now."""
    lots = [] if lots is None else lots

    def commit(at: int, lot: Sequence[Found]) -> None:
        assert at == len(lots)
        lots.append(list(lot))

    prompts = [prompt(n) for n in range(number)]
    found = find_paths(
        sampler,
        prompts,
        recipe,
        encode=lambda one: (1000, int(one.reference)),
        decode=lambda ids: " ".join(map(str, ids)),
        judge=judge_even,
        done=list(lots),
        commit=commit,
        progress=lambda done, total, what: None,
    )
    return list(found), prompts


@pytest.mark.parametrize(("keep", "kept"), [("longest", ["2 2 2"]), ("shortest", ["2"])])
def test_verified_paths_become_demonstrations(keep: str, kept: list[str]) -> None:
    recipe = PathsRecipe.parse({"samples_per_prompt": 4, "keep": keep}, where="test")
    found, prompts = found_of(4, recipe, Parrot())
    rows = demonstrations(found, prompts)
    assert [row.prompt for row in rows] == ["question 0", "question 2"]
    assert [row.response for row in rows][1:] == kept
    assert {(row.style, row.task) for row in rows} == {("path", "count")}


def test_all_of_them_but_those_cut_and_those_too_short() -> None:
    recipe = PathsRecipe(samples_per_prompt=4, keep="all", min_tokens=2)
    found, prompts = found_of(3, recipe, Parrot())
    assert [row.response for row in demonstrations(found, prompts)] == ["0 0", "0 0 0", "2 2", "2 2 2"]
    assert [one.sample for one in found if one.cut] == [3, 3, 3]


def test_what_was_found_is_counted() -> None:
    recipe = PathsRecipe(samples_per_prompt=3)
    found, prompts = found_of(8, recipe, Parrot())
    counted = figures(found, prompts)
    assert counted == {
        "prompts": 8.0,
        "prompts_solved": 4.0,
        "responses": 24.0,
        "correct": 8.0,
        "unjudged": 2.0,
        "cut": 8.0,
        "kept": 4.0,
        "kept_tokens_mean": 2.0,
    }


def test_prompts_go_to_the_sampler_in_lots_with_a_seed_each() -> None:
    sampler = Parrot()
    found, _ = found_of(PROMPTS_AT_ONCE + 10, PathsRecipe(samples_per_prompt=2), sampler)
    assert sampler.calls == [PROMPTS_AT_ONCE, 10]
    assert [one.prompt_id for one in found[::2]] == [f"p{n}" for n in range(PROMPTS_AT_ONCE + 10)]


def test_no_two_responses_share_a_seed() -> None:
    sampler = Parrot()
    found_of(PROMPTS_AT_ONCE + 10, PathsRecipe(samples_per_prompt=3, seed=7), sampler)
    assert len(set(sampler.seeds)) == 3 * (PROMPTS_AT_ONCE + 10)


@pytest.mark.parametrize("num_done", [0, 1, 2, 3])
def test_committed_lots_are_not_sampled_again(num_done: int) -> None:
    number, recipe = 2 * PROMPTS_AT_ONCE + 10, PathsRecipe(samples_per_prompt=2)
    lots: list[list[Found]] = []
    undisturbed, _ = found_of(number, recipe, Parrot(), lots)
    sampler = Parrot()
    resumed, _ = found_of(number, recipe, sampler, lots[:num_done])
    assert resumed == undisturbed
    assert len(sampler.calls) == 3 - num_done


def test_the_same_response_is_kept_once_and_of_equals_the_first() -> None:
    def one(sample: int, response: str) -> Found:
        return Found("p", sample, Status.CORRECT, False, len(response), response)

    responses = [one(0, "ab"), one(1, "ab"), one(2, "cd"), one(3, "e")]
    assert [f.sample for f in select(responses, keep="all", min_tokens=0) if f.kept] == [0, 2, 3]
    assert [f.sample for f in select(responses, keep="longest", min_tokens=0) if f.kept] == [0]
    assert [f.sample for f in select(responses, keep="shortest", min_tokens=0) if f.kept] == [3]
    assert [f.sample for f in select(responses, keep="shortest", min_tokens=2) if f.kept] == [0]


def test_nothing_to_keep_is_refused() -> None:
    found, prompts = found_of(2, PathsRecipe(samples_per_prompt=2, min_tokens=9), Parrot())
    with pytest.raises(ValueError, match="no path to keep: 1 of 4 responses are correct; raise"):
        demonstrations(found, prompts)
