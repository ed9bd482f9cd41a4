"""What each step of a supervised stage trains on: which examples, in which sequences (METHOD.md §7)."""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from k15.algo.order import drawn, mixed, natural, shuffled
from k15.algo.packing import WINDOW, packed
from k15.loops.stream import Part, Span, Step
from k15.recipes.activation import ActivateRecipe, ContextPhase
from k15.recipes.supervised import Phase

LEAST_WINDOW = 256  # documents packed together, however few there are

Lengths = Mapping[str, Sequence[int]]  # data set → tokens of each of its examples


class Example(NamedTuple):
    """One row of a data set."""

    data: str
    place: int
    length: int


def supervised_parts(phases: Sequence[Phase], lengths: Lengths, seed: int) -> list[Part]:
    """The phases' plans. Examples longer than a phase's max_tokens are not in it."""
    return [_supervised_part(phase, lengths, seed + number) for number, phase in enumerate(phases)]


def context_parts(recipe: ActivateRecipe, lengths: Lengths) -> list[Part]:
    """The plans of activation: at even distances rows of full length, else short documents packed."""

    def part(number: int, phase: ContextPhase) -> Part:
        return Part(
            name=f"{phase.length} tokens",
            steps=phase.steps,
            sequence_tokens=phase.length,
            plan=lambda: _context_steps(recipe, phase, lengths, recipe.seed + number),
        )

    return [part(number, phase) for number, phase in enumerate(recipe.phases)]


def _supervised_part(phase: Phase, lengths: Lengths, seed: int) -> Part:
    names = list(phase.mixture) or list(lengths)
    fitting = {name: _fitting(lengths[name], phase.max_tokens) for name in names}
    if empty := [name for name in names if not fitting[name]]:
        raise ValueError(f"phase {phase.name}: no row of {empty} has max_tokens={phase.max_tokens} or fewer")

    def plan() -> Iterator[Step]:
        examples = _examples(phase, fitting, lengths, seed)
        return _packed_steps(examples, phase, seed) if phase.sequences_per_step else _steps(examples, phase)

    steps = phase.steps or sum(1 for _ in plan())
    return Part(phase.name, steps, phase.max_tokens, plan)


def _fitting(lengths: Sequence[int], max_tokens: int) -> Sequence[int]:
    """Indices of the rows of at most `max_tokens`."""
    if max(lengths) <= max_tokens:
        return range(len(lengths))
    return array("q", [index for index, length in enumerate(lengths) if length <= max_tokens])


def _examples(phase: Phase, fitting: Lengths, lengths: Lengths, seed: int) -> Iterator[Example]:
    """The examples of a phase in order; endless, but for a phase of some epochs."""
    if phase.mixture:
        weights = dict(phase.mixture)
        if phase.mixture_by == "tokens":
            taken = {name: [lengths[name][index] for index in fitting[name]] for name in weights}
            weights = _by_tokens(weights, taken, 0.0)
        streams = {name: shuffled(len(fitting[name]), f"{seed} {name}") for name in weights}
        places = mixed(streams, weights, f"{seed} mixture")
    else:
        places = natural({name: len(indices) for name, indices in fitting.items()}, seed)
    if phase.epochs:
        places = islice(places, phase.epochs * sum(map(len, fitting.values())))
    for name, place in places:
        index = fitting[name][place]
        yield Example(name, index, lengths[name][index])


def _steps(examples: Iterator[Example], phase: Phase) -> Iterator[Step]:
    while taken := list(islice(examples, phase.examples_per_step)):
        yield Step(tuple(_whole(example) for example in taken), 0)


def _packed_steps(examples: Iterator[Example], phase: Phase, seed: int) -> Iterator[Step]:
    sequences = packed(examples, lambda example: example.length, phase.max_tokens, seed=f"{seed} packing")
    while taken := list(islice(sequences, phase.sequences_per_step)):
        yield Step(tuple(_whole(example) for sequence in taken for example in sequence), len(taken))


def _whole(example: Example) -> tuple[Span, ...]:
    return (Span(example.data, example.place, 0, example.length),)


def _context_steps(
    recipe: ActivateRecipe, phase: ContextPhase, lengths: Lengths, seed: int
) -> Iterator[Step]:
    whole, short = _context_sources(recipe, phase, lengths, seed)
    full_rows = _full_rows(whole, phase.length)
    epoch = sum(len(lengths[name]) for name in phase.partial or lengths)
    partial_rows = _partial_rows(short, phase.length, epoch, seed)
    share, num_full, num_all = recipe.full_attention_share, 0, 0
    while True:
        rows: list[tuple[Span, ...]] = []
        for _ in range(phase.sequences_per_step):
            # Of the tokens drawn so far, so that rows not quite full leave the share as it is.
            wants_full = num_full + phase.length / 2 <= share * (num_all + phase.length)
            sequence = [next(full_rows)] if wants_full else next(partial_rows)
            num_tokens = sum(span.stop - span.start for spans in sequence for span in spans)
            num_full += num_tokens if wants_full else 0
            num_all += num_tokens
            rows += sequence
        yield Step(tuple(rows), phase.sequences_per_step)


def _context_sources(
    recipe: ActivateRecipe, phase: ContextPhase, lengths: Lengths, seed: int
) -> tuple[Iterator[Example], Iterator[Example]]:
    """Documents for rows of full length, and for the others: one stream where nothing tells them apart."""
    power = recipe.length_upsampling
    if not phase.full and not power:
        both = _documents(lengths, {}, phase.mixture_by, 0.0, seed)
        return both, both
    return (
        _documents(lengths, phase.full, phase.mixture_by, power, f"{seed} full"),
        _documents(lengths, phase.partial, phase.mixture_by, 0.0, f"{seed} partial"),
    )


def _documents(
    lengths: Lengths, mixture: Mapping[str, float], mixture_by: str, power: float, seed: int | str
) -> Iterator[Example]:
    """Endless documents, of a mixture or of all data sets; with a power longer ones are drawn more often."""
    if not mixture and not power:
        places = natural({name: len(some) for name, some in lengths.items()}, seed)
    else:
        # Without a mixture a data set weighs what its documents weigh together, so all are drawn alike.
        weights = dict(mixture) or {name: sum(n**power for n in some) for name, some in lengths.items()}
        if mixture and mixture_by == "tokens":
            weights = _by_tokens(weights, lengths, power)
        streams = {
            name: drawn([length**power for length in lengths[name]], f"{seed} {name}")
            if power
            else shuffled(len(lengths[name]), f"{seed} {name}")
            for name in weights
        }
        places = mixed(streams, weights, f"{seed} mixture")
    for name, index in places:
        yield Example(name, index, lengths[name][index])


def _full_rows(documents: Iterator[Example], length: int) -> Iterator[tuple[Span, ...]]:
    """Documents one after another, cut into rows of exactly `length` tokens with attention across them."""
    held: list[Span] = []
    room = length
    for name, index, size in documents:
        start = 0
        while start < size:
            stop = min(size, start + room)
            held.append(Span(name, index, start, stop))
            room -= stop - start
            start = stop
            if not room:
                yield tuple(held)
                held, room = [], length


def _partial_rows(
    documents: Iterator[Example], num_tokens: int, epoch: int, seed: int
) -> Iterator[list[tuple[Span, ...]]]:
    """Lists of documents with `num_tokens` tokens together at most; a longer one is cut into such pieces.

    They are packed best fit among as many as there are in an `epoch`, or fewer.
    """
    pieces = (
        Span(name, index, start, min(size, start + num_tokens))
        for name, index, size in documents
        for start in range(0, size, num_tokens)
        if size - start > 1  # a last token alone predicts nothing
    )
    sequences = packed(
        pieces,
        lambda span: span.stop - span.start,
        num_tokens,
        seed=f"{seed} packing",
        window=min(WINDOW, max(LEAST_WINDOW, epoch)),
    )
    for sequence in sequences:
        yield [(span,) for span in sequence]


def _by_tokens(weights: Mapping[str, float], lengths: Lengths, power: float) -> dict[str, float]:
    """Weights to draw examples by for `weights` as shares of tokens, where they are drawn ∝ length^power."""
    drawn_tokens = {
        name: sum(n ** (power + 1) for n in lengths[name]) / sum(n**power for n in lengths[name])
        for name in weights
    }
    return {name: weight / drawn_tokens[name] for name, weight in weights.items()}
