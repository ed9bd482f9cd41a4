"""Everything the stages train on, made from problems: prompts, demonstrations, pretraining text.

Held-out problems are set aside first; all else is made of the others: nothing trained on holds one.
Pure and seeded: the same recipe and the same problems give the same corpus.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from k15.recipes.data import DataRecipe, Family
from k15.records import Part, Prompt
from k15.tasks import families
from k15.tasks.demonstrations import STYLES
from k15.tasks.problem import Problem

PATIENCE = 2000  # repeats in a row after which a family counts as exhausted
BARE_LINES = 8
SEED_STRIDE = 10_000_019  # generators count on from their seed: the streams of two seeds must not meet


class Response(NamedTuple):
    """A problem answered in a style."""

    problem: Problem
    style: str
    text: str


@dataclass(frozen=True, slots=True)
class Split:
    """Problems whose questions all differ, and why others were dropped."""

    heldout: tuple[Problem, ...]
    train: tuple[Problem, ...]
    dropped: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Corpus:
    """What the parts of a data artifact hold."""

    heldout: tuple[Prompt, ...]
    train: tuple[Prompt, ...]
    pretrain: tuple[str, ...]
    sft: tuple[Response, ...]
    longcot: tuple[Response, ...]
    dropped: Mapping[str, int]


def from_families(recipe: DataRecipe) -> Corpus:
    """A corpus of reasoning-gym problems, each family with its share of both splits."""
    if not recipe.families:
        raise ValueError(
            f"families: none; name some of {sorted(families.FAMILIES)}, or give files = {{ questions = … }}"
        )
    weights = [family.weight for family in recipe.families.values()]
    shares = zip(apportion(recipe.num_heldout, weights), apportion(recipe.num_train, weights), strict=True)
    heldout: list[Problem] = []
    train: list[Problem] = []
    repeats = 0
    for (name, family), (num_heldout, num_train) in zip(recipe.families.items(), shares, strict=True):
        found, repeated = _distinct(name, family, recipe.seed, num_heldout + num_train)
        heldout += found[:num_heldout]
        train += found[num_heldout:]
        repeats += repeated
    shuffle = Random(f"{recipe.seed} order").shuffle
    shuffle(heldout)
    shuffle(train)
    return build(Split(tuple(heldout), tuple(train), {"repeated": repeats}), recipe)


def apportion(total: int, weights: Sequence[float]) -> list[int]:
    """`total` in whole shares by weight that add up to it: the largest remainders are rounded up."""
    exact = [total * weight / sum(weights) for weight in weights]
    shares = [int(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda place: shares[place] - exact[place])
    for place in by_remainder[: total - sum(shares)]:
        shares[place] += 1
    return shares


def from_questions(
    questions: Iterable[Problem], heldout_questions: Iterable[Problem] | None, recipe: DataRecipe
) -> Corpus:
    """A corpus of a user's own problems; without held-out ones, `num_heldout` of them are set aside."""
    seen: set[str] = set()
    given = list(questions)
    pool = list(_new(given, seen))
    dropped = {"repeated": len(given) - len(pool)}
    if heldout_questions is None:
        Random(f"{recipe.seed} order").shuffle(pool)
        heldout, train = pool[: recipe.num_heldout], pool[recipe.num_heldout :]
    else:
        heldout = list(_new(heldout_questions, set()))[: recipe.num_heldout]
        taken = {content(problem.question) for problem in heldout}
        train = [problem for problem in pool if content(problem.question) not in taken]
        dropped["held_out"] = len(pool) - len(train)
    if not train or not heldout:
        raise ValueError(
            f"questions: {len(given)} lines leave {len(train)} to train on and {len(heldout)} held out; "
            "give more lines, or lower num_heldout"
        )
    dropped["over_num_train"] = max(0, len(train) - recipe.num_train)
    return build(Split(tuple(heldout), tuple(train[: recipe.num_train]), dropped), recipe)


def build(split: Split, recipe: DataRecipe) -> Corpus:
    """Prompts of both sides; demonstrations and text of the training side only."""
    return Corpus(
        heldout=tuple(prompt(problem) for problem in split.heldout),
        train=tuple(prompt(problem) for problem in split.train),
        pretrain=_pretrain(split.train, recipe),
        sft=_responses(split.train, recipe.num_sft, recipe.sft_styles, recipe.seed, "sft_styles"),
        longcot=_responses(
            split.train, recipe.num_longcot, recipe.longcot_styles, recipe.seed, "longcot_styles"
        ),
        dropped=split.dropped,
    )


def prompt(problem: Problem) -> Prompt:
    """The problem as it is posed."""
    digest = hashlib.sha256(f"{problem.task}\n{content(problem.question)}".encode()).hexdigest()
    return Prompt(
        id=digest[:20],
        parts=(Part(kind="text", text=problem.question),),
        reference=problem.answer,
        task=problem.task,
        difficulty=problem.difficulty,
        reward=problem.reward,
        metadata=problem.metadata,
    )


def content(question: str) -> str:
    """What makes two questions the same: their words, whatever the case and the spaces between."""
    return " ".join(question.casefold().split())


def _new(problems: Iterable[Problem], seen: set[str]) -> Iterator[Problem]:
    """The problems whose questions are not in `seen`, which grows by them."""
    for problem in problems:
        key = content(problem.question)
        if key not in seen:
            seen.add(key)
            yield problem


def _distinct(name: str, family: Family, seed: int, count: int) -> tuple[list[Problem], int]:
    """`count` different problems in random order, and how many repeats were passed over."""
    found: dict[str, Problem] = {}
    drawn = last = 0
    for problem in families.problems(name, family.params, seed * SEED_STRIDE):
        drawn += 1
        if found.setdefault(content(problem.question), problem) is problem:
            last = drawn
        if len(found) == count:
            break
        if drawn - last > PATIENCE:
            raise ValueError(
                f"families.{name}: only {len(found)} different problems found, {count} wanted; "
                "widen its params, or lower its weight, num_train or num_heldout"
            )
    order = list(found.values())
    Random(f"{seed} {name}").shuffle(order)
    return order, drawn - len(found)


def _responses(
    problems: tuple[Problem, ...], count: int, styles: dict[str, float], seed: int, field: str
) -> tuple[Response, ...]:
    """Problems in turn, each answered in a style drawn by its weight."""
    if unknown := sorted(set(styles) - set(STYLES)):
        raise ValueError(f"{field}: no style {', '.join(unknown)}; there are {', '.join(sorted(STYLES))}")
    if not styles or min(styles.values()) < 0 or not sum(styles.values()):
        raise ValueError(f"{field}: give at least one style a weight above 0")
    random = Random(f"{seed} {field}")
    rows = []
    for number in range(count):
        problem = problems[number % len(problems)]
        style = random.choices(list(styles), list(styles.values()))[0]
        rows.append(Response(problem, style, STYLES[style](problem, random)))
    random.shuffle(rows)
    return tuple(rows)


def _pretrain(problems: tuple[Problem, ...], recipe: DataRecipe) -> tuple[str, ...]:
    """Rows of shuffled lines of work (`pretrain_bare_share` of them), and questions with their solutions."""
    random = Random(f"{recipe.seed} pretrain")
    rows = []
    for _ in range(recipe.num_pretrain):
        problem = random.choice(problems)
        if problem.steps and random.random() < recipe.pretrain_bare_share:
            lines = [step.line() for step in problem.steps]
            while len(lines) < BARE_LINES:
                lines += [step.line() for step in random.choice(problems).steps]
            random.shuffle(lines)
            rows.append("\n".join(lines))
        else:
            rows.append(f"{problem.question}\n{STYLES['short'](problem, random)}")
    return tuple(rows)
