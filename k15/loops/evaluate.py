"""Reward evaluation: every model on the same held-out prompts, sampled and greedy, paired by prompt."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import fmean
from typing import Any

from k15.algo.estimates import majority, pass_at_k
from k15.algo.intervals import mean_interval, paired_interval
from k15.loops.figures import shortened
from k15.loops.seeds import response_seed
from k15.loops.voting import answer_classes
from k15.loops.whole import whole_responses
from k15.ports import Reward, Sampler
from k15.recipes.evaluate import EvaluateRecipe
from k15.records import End, Prompt, SampleRequest, Segment, Status
from k15.rewards import AT_ONCE, judge_all

GREEDY = -1
DEADLINE_S = 7200.0


@dataclass(frozen=True)
class Outcome:
    """One judged response; `sample` is GREEDY for the greedy one."""

    prompt_id: str
    task: str
    sample: int
    status: Status
    tokens: int
    response: str
    answer: int | None = None  # of a sample: equal ones state equal answers, as k15.loops.voting numbers them


def answer_prompts(
    sampler: Sampler,
    prompts: Sequence[Prompt],
    recipe: EvaluateRecipe,
    *,
    encode: Callable[[Prompt], tuple[int, ...]],
    decode: Callable[[Sequence[int]], str],
    judge: Reward,
) -> list[Outcome]:
    """Samples and one greedy response of a model for every prompt, judged."""
    tokens = [encode(prompt) for prompt in prompts]
    sampled = [
        SampleRequest(
            ids,
            recipe.max_response_tokens,
            recipe.samples_per_prompt,
            (),
            recipe.temperature,
            response_seed(recipe.seed, i * recipe.samples_per_prompt),
            False,
        )
        for i, ids in enumerate(tokens)
    ]
    greedy = [SampleRequest(ids, recipe.max_response_tokens, 1, (), 0.0, 0, False) for ids in tokens]
    outcomes: list[Outcome] = []
    for requests, first in ((sampled, 0), (greedy, GREEDY)):
        answers = whole_responses(sampler, requests, deadline_s=DEADLINE_S)
        rows = [
            (prompt, first + place, segment)
            for prompt, segments in zip(prompts, answers, strict=True)
            for place, segment in enumerate(segments)
        ]
        outcomes += _outcomes(rows, decode, judge)
        if first != GREEDY:
            outcomes = _with_answers(rows, outcomes, judge)
    return outcomes


def _outcomes(
    rows: Sequence[tuple[Prompt, int, Segment]], decode: Callable[[Sequence[int]], str], judge: Reward
) -> list[Outcome]:
    """Every response with its verdict; one that was cut states no final answer, so it is wrong."""
    texts = [decode(segment.token_ids) for _, _, segment in rows]
    ended = [segment.end is End.STOP for _, _, segment in rows]
    responses = [(row[0], text) for row, text, whole in zip(rows, texts, ended, strict=True) if whole]
    verdicts = iter(judge_all(judge, responses))
    return [
        Outcome(
            prompt.id,
            prompt.task,
            sample,
            next(verdicts).status if whole else Status.WRONG,
            len(segment.token_ids),
            text,
        )
        for (prompt, sample, segment), text, whole in zip(rows, texts, ended, strict=True)
    ]


def _with_answers(
    rows: Sequence[tuple[Prompt, int, Segment]], outcomes: Sequence[Outcome], judge: Reward
) -> list[Outcome]:
    """The samples with their answers numbered within each prompt; one that was cut states none."""
    of_prompt: dict[str, list[int]] = {}
    for place, outcome in enumerate(outcomes):
        of_prompt.setdefault(outcome.prompt_id, []).append(place)

    def numbered(places: list[int]) -> list[int | None]:
        texts = [outcomes[n].response if rows[n][2].end is End.STOP else "" for n in places]
        return answer_classes(rows[places[0]][0], texts, [outcomes[n].status for n in places], judge)

    answered = list(outcomes)
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="vote") as threads:
        for places, answers in zip(
            of_prompt.values(), threads.map(numbered, of_prompt.values()), strict=True
        ):
            for place, answer in zip(places, answers, strict=True):
                answered[place] = replace(outcomes[place], answer=answer)
    return answered


def summarize(outcomes: Mapping[str, Sequence[Outcome]], recipe: EvaluateRecipe) -> dict[str, Any]:
    """Figures per model with intervals, and every pair of models compared by prompt."""
    models = [_model_figures(name, rows, recipe) for name, rows in outcomes.items()]
    pairs = [_pair_figures(first, second, outcomes, recipe) for first, second in combinations(outcomes, 2)]
    return {"models": models, "pairs": pairs}


def _model_figures(name: str, outcomes: Sequence[Outcome], recipe: EvaluateRecipe) -> dict[str, Any]:
    figures: dict[str, Any] = {"name": name}
    passed, tokens, greedy = _passed(outcomes), _tokens(outcomes), _greedy(outcomes)
    for key, values in (("sampled", passed), ("greedy", greedy), ("tokens", tokens)):
        figures |= _interval(key, list(values.values()), recipe)
    tasks = {row.prompt_id: row.task for row in outcomes}
    by_task: dict[str, list[float]] = {}
    for prompt_id, value in passed.items():
        by_task.setdefault(tasks[prompt_id], []).append(value)
    figures["by_task"] = {task: fmean(values) for task, values in sorted(by_task.items())}
    figures |= _of_samples(outcomes, recipe)
    figures["n"] = len(passed)
    figures["unjudged"] = sum(row.status is Status.UNJUDGED for row in outcomes)
    return figures


def _of_samples(outcomes: Sequence[Outcome], recipe: EvaluateRecipe) -> dict[str, Any]:
    """pass@k for k = 1, 2, 4, … and all samples, over the prompts with k judged ones; majority@k of all.

    avg@k is `sampled`, which is pass@1 too. `majority_ties` counts prompts without a single winner.
    """
    judged: dict[str, list[Outcome]] = {}
    for row in outcomes:
        if row.sample != GREEDY and row.status is not Status.UNJUDGED:
            judged.setdefault(row.prompt_id, []).append(row)
    counts = [(len(rows), sum(row.status is Status.CORRECT for row in rows)) for rows in judged.values()]
    at = []
    for k in samples_drawn(recipe.samples_per_prompt):
        values = [pass_at_k(n, c, k) for n, c in counts if n >= k]
        if values:
            at.append({"k": k, "n": len(values)} | _interval("pass", values, recipe))
    votes = [
        majority([row.answer for row in rows], [row.status is Status.CORRECT for row in rows])
        for rows in judged.values()
    ]
    ties = sum(vote.num_tied > 1 for vote in votes)
    scores = _interval("majority", [vote.score for vote in votes], recipe)
    return {"pass_at": at, **scores, "majority_ties": ties}


def samples_drawn(num_samples: int) -> list[int]:
    """1, 2, 4, … and `num_samples`."""
    return sorted({num_samples, *(2**power for power in range(num_samples.bit_length()))})


def _interval(name: str, values: Sequence[float], recipe: EvaluateRecipe) -> dict[str, float]:
    interval = mean_interval(values, draws=recipe.bootstrap_draws, seed=recipe.seed)
    return {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _pair_figures(
    first: str, second: str, outcomes: Mapping[str, Sequence[Outcome]], recipe: EvaluateRecipe
) -> dict[str, Any]:
    figures: dict[str, Any] = {"first": first, "second": second}
    for key, of in (("sampled", _passed), ("tokens", _tokens)):
        ones, others = of(outcomes[first]), of(outcomes[second])
        common = [prompt_id for prompt_id in ones if prompt_id in others]
        interval = paired_interval(
            [ones[i] for i in common],
            [others[i] for i in common],
            draws=recipe.bootstrap_draws,
            seed=recipe.seed,
        )
        figures |= {
            f"{key}_difference": interval.mean,
            f"{key}_low": interval.low,
            f"{key}_high": interval.high,
        }
    return figures


def _passed(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Share of correct among each prompt's judged samples; a prompt without one is left out."""
    scores: dict[str, list[float]] = {}
    for row in outcomes:
        if row.sample != GREEDY and row.status is not Status.UNJUDGED:
            scores.setdefault(row.prompt_id, []).append(float(row.status is Status.CORRECT))
    return {prompt_id: fmean(values) for prompt_id, values in scores.items()}


def _tokens(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Mean tokens of each prompt's samples."""
    lengths: dict[str, list[int]] = {}
    for row in outcomes:
        if row.sample != GREEDY:
            lengths.setdefault(row.prompt_id, []).append(row.tokens)
    return {prompt_id: fmean(values) for prompt_id, values in lengths.items()}


def _greedy(outcomes: Sequence[Outcome]) -> dict[str, float]:
    return {
        row.prompt_id: float(row.status is Status.CORRECT)
        for row in outcomes
        if row.sample == GREEDY and row.status is not Status.UNJUDGED
    }


def shown_trajectories(
    outcomes: Mapping[str, Sequence[Outcome]], prompts: Sequence[Prompt], *, count: int
) -> list[dict[str, Any]]:
    """The first sample of every model for a few prompts, side by side."""
    shown = []
    for prompt in prompts[:count]:
        responses = {
            name: {"response": row.response, "status": str(row.status), "tokens": row.tokens}
            for name, rows in outcomes.items()
            for row in rows
            if row.prompt_id == prompt.id and row.sample == 0
        }
        shown.append(
            {
                "prompt": prompt.text,
                "reference": shortened(prompt.reference),
                "task": prompt.task,
                "responses": responses,
            }
        )
    return shown
