"""Rejection sampling: many responses to each prompt, judged; the verified ones are demonstrations."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from k15.loops.seeds import response_seed
from k15.loops.whole import whole_responses
from k15.ports import Reward, Sampler
from k15.recipes.paths import PathsRecipe
from k15.records import End, Prompt, SampleRequest, Segment, Status
from k15.rewards import judge_all
from k15.store.tables import Demonstration

PROMPTS_AT_ONCE = 256
DEADLINE_S = 7200.0
STYLE = "path"


@dataclass(frozen=True, slots=True)
class Found:
    """One sampled response; `kept` where it became a demonstration."""

    prompt_id: str
    sample: int
    status: Status
    cut: bool  # by the largest response length: never judged, never kept
    tokens: int
    response: str
    kept: bool = False


def find_paths(
    sampler: Sampler,
    prompts: Sequence[Prompt],
    recipe: PathsRecipe,
    *,
    encode: Callable[[Prompt], tuple[int, ...]],
    decode: Callable[[Sequence[int]], str],
    judge: Reward,
    done: Sequence[Sequence[Found]] = (),
    commit: Callable[[int, Sequence[Found]], None],
    progress: Callable[[int, int, str], None],
) -> Iterator[Found]:
    """Every response of every prompt, in the prompts' order, with those kept that `recipe` asks for.

    Prompts go to the sampler in lots. `done` are the lots that an earlier process committed, the first ones;
    `commit` makes the next one durable under its number.
    """
    for number, first in enumerate(range(0, len(prompts), PROMPTS_AT_ONCE)):
        progress(first, len(prompts), "prompts")
        if number < len(done):
            yield from done[number]
            continue
        some = prompts[first : first + PROMPTS_AT_ONCE]
        requests = [
            SampleRequest(
                prompt_token_ids=encode(prompt),
                max_tokens=recipe.max_response_tokens,
                num_samples=recipe.samples_per_prompt,
                temperature=recipe.temperature,
                seed=response_seed(recipe.seed, (first + place) * recipe.samples_per_prompt),
                want_logprobs=False,
            )
            for place, prompt in enumerate(some)
        ]
        answers = whole_responses(sampler, requests, deadline_s=DEADLINE_S)
        lot: list[Found] = []
        for prompt, segments in zip(some, answers, strict=True):
            judged = _judged(prompt, segments, decode, judge)
            lot += select(judged, keep=recipe.keep, min_tokens=recipe.min_tokens)
        commit(number, lot)
        yield from lot
    progress(len(prompts), len(prompts), "prompts")


def select(responses: Sequence[Found], *, keep: str, min_tokens: int) -> list[Found]:
    """One prompt's responses with `kept` set: verified, long enough, none twice; of equals the first."""
    seen: set[str] = set()
    verified: list[Found] = []
    for found in responses:
        if found.status is Status.CORRECT and found.tokens >= min_tokens and found.response not in seen:
            seen.add(found.response)
            verified.append(found)
    if verified and keep != "all":
        best = max if keep == "longest" else min
        verified = [best(verified, key=lambda found: found.tokens)]
    chosen = {found.sample for found in verified}
    return [replace(found, kept=found.sample in chosen) for found in responses]


def demonstrations(found: Sequence[Found], prompts: Sequence[Prompt]) -> list[Demonstration]:
    """The kept responses, each to its prompt as it is posed; ValueError where none was kept."""
    posed = {prompt.id: prompt for prompt in prompts}
    kept = [
        Demonstration(posed[one.prompt_id].text, one.response, STYLE, posed[one.prompt_id].task)
        for one in found
        if one.kept
    ]
    if not kept:
        correct = sum(one.status is Status.CORRECT for one in found)
        raise ValueError(
            f"no path to keep: {correct} of {len(found)} responses are correct; raise samples_per_prompt or "
            "max_response_tokens, lower min_tokens, or take a model that solves some of the prompts"
        )
    return kept


def figures(found: Sequence[Found], prompts: Sequence[Prompt]) -> dict[str, float]:
    """What was sampled, verified and kept."""
    kept = [one for one in found if one.kept]
    solved = [
        any(one.status is Status.CORRECT for one in group)
        for _, group in groupby(found, key=lambda one: one.prompt_id)
    ]
    return {
        "prompts": float(len(prompts)),
        "prompts_solved": float(sum(solved)),
        "responses": float(len(found)),
        "correct": float(sum(one.status is Status.CORRECT for one in found)),
        "unjudged": float(sum(one.status is Status.UNJUDGED for one in found)),
        "cut": float(sum(one.cut for one in found)),
        "kept": float(len(kept)),
        "kept_tokens_mean": sum(one.tokens for one in kept) / max(1, len(kept)),
    }


def _judged(
    prompt: Prompt, segments: Sequence[Segment], decode: Callable[[Sequence[int]], str], judge: Reward
) -> list[Found]:
    """A prompt's responses, each judged where it ended by itself."""
    responses = [decode(segment.token_ids) for segment in segments]
    cut = [segment.end is not End.STOP for segment in segments]
    verdicts = iter(
        judge_all(judge, [(prompt, text) for text, short in zip(responses, cut, strict=True) if not short])
    )
    return [
        Found(
            prompt.id,
            sample,
            Status.WRONG if cut[sample] else next(verdicts).status,
            cut[sample],
            len(segment.token_ids),
            responses[sample],
        )
        for sample, segment in enumerate(segments)
    ]
