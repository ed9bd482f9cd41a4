"""What each step trains on: against the order taken literally, and from any step on."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from k15.loops.plan import context_parts, supervised_parts
from k15.loops.stream import Batch, Stream
from k15.recipes.activation import ActivateRecipe
from k15.recipes.supervised import Phase, PretrainRecipe, SftRecipe
from k15.records import Sequence as Row
from k15.tasks.row_file import Origin, RowFile
from k15.tasks.rows import everything_in_loss
from tests.flagged import flagged

pytestmark = pytest.mark.engine


def rows(number: int, longest: int = 60, seed: int = 0, shortest: int = 2) -> list[Row]:
    source = random.Random(seed)
    return [
        everything_in_loss([source.randrange(500) for _ in range(source.randint(shortest, longest))])
        for _ in range(number)
    ]


class Data:
    """Data sets in files."""

    def __init__(self, folder: Path, **sets: list[Row]) -> None:
        self.files = {
            name: RowFile.write(
                folder / name,
                ((Origin("t", place, 0), flagged(row)) for place, row in enumerate(some)),
                where=name,
            )
            for name, some in sets.items()
        }
        self.lengths = {name: file.lengths for name, file in self.files.items()}

    def fitted(self, phases: Sequence[Phase], seed: int = 0) -> Stream:
        return Stream(self.files, supervised_parts(phases, self.lengths, seed))

    def activated(self, **values: Any) -> Stream:
        recipe = ActivateRecipe.parse(values, where="test")
        return Stream(self.files, context_parts(recipe, self.lengths))


def phase(**values: Any) -> Phase:
    return Phase.parse({"name": "p", "lr": 1e-3, "max_tokens": 60, **values}, where="test")


def shuffled_rows(some: Sequence[Row], seed: int) -> Iterator[Row]:
    """A list shuffled again and again."""
    source, order = random.Random(seed), list(range(len(some)))
    while True:
        source.shuffle(order)
        yield from (some[place] for place in order)


def test_without_phases_a_step_is_the_next_shuffled_examples(tmp_path: Path) -> None:
    some = rows(70)
    recipe = PretrainRecipe(steps=20, examples_per_step=16)
    stream = Data(tmp_path, data=some).fitted(recipe.all_phases(), seed=3)
    expected = shuffled_rows(some, 3)
    assert [list(batch.rows) for batch in stream.batches()] == [list(islice(expected, 16)) for _ in range(20)]


STREAMS: dict[str, list[dict[str, Any]]] = {
    "one": [{"steps": 12, "examples_per_step": 7}],
    "packed": [{"epochs": 2, "sequences_per_step": 3}],
    "phases": [
        {"steps": 5, "sequences_per_step": 2, "mixture": {"a": 1, "b": 3}, "mixture_by": "tokens"},
        {"epochs": 1, "max_tokens": 200, "sequences_per_step": 1},
        {"steps": 4, "examples_per_step": 5, "mixture": {"b": 1}},
    ],
}


@pytest.mark.parametrize("name", STREAMS)
def test_entered_at_any_step_a_run_goes_on_with_the_same_batches(tmp_path: Path, name: str) -> None:
    stream = Data(tmp_path, a=rows(40), b=rows(30, seed=1)).fitted(
        [phase(**values) for values in STREAMS[name]]
    )
    whole = list(stream.batches())
    assert len(whole) == stream.steps
    for start in (1, 4, 5, 6, stream.steps - 1, stream.steps):
        assert list(stream.batches(start)) == whole[start:]


def test_an_epoch_meets_every_example_once_packed_or_not(tmp_path: Path) -> None:
    data = Data(tmp_path, a=rows(40), b=rows(30, seed=1))
    for values in ({"examples_per_step": 9}, {"sequences_per_step": 2, "max_tokens": 128}):
        stream = data.fitted([phase(epochs=1, **values)])
        ids = [one for batch in stream.batches() for one in batch.ids]
        assert sorted(ids) == sorted(
            f"{name}/t row {place} tokens 0:{length}"
            for name, lengths in data.lengths.items()
            for place, length in enumerate(lengths)
        )


def test_ids_name_the_rows(tmp_path: Path) -> None:
    data = Data(tmp_path, a=rows(40), b=rows(30, seed=1))
    for batch in data.fitted([phase(steps=10, sequences_per_step=2)]).batches():
        for row, one in zip(batch.rows, batch.ids, strict=True):
            name, place = one.split("/")
            assert row == data.files[name].row(int(place.split()[2]))


def test_packed_steps_hold_what_fits_their_sequences_and_are_counted(tmp_path: Path) -> None:
    data = Data(tmp_path, a=rows(400))
    stream = data.fitted([phase(steps=10, sequences_per_step=4, max_tokens=256)])
    tokens = [sum(len(row.token_ids) for row in batch.rows) for batch in stream.batches()]
    assert max(tokens) <= 4 * 256
    (counted,) = stream.counts()
    assert counted["fill"] == sum(tokens) / (10 * 4 * 256) > 0.97
    assert counted["data"]["a"]["tokens"] == sum(tokens)
    assert counted["data"]["a"]["examples"] == sum(len(batch.rows) for batch in stream.batches())


@pytest.mark.parametrize("by", ["examples", "tokens"])
def test_a_mixture_is_drawn_by_examples_or_by_tokens_and_recorded(tmp_path: Path, by: str) -> None:
    data = Data(tmp_path, short=rows(50, 10), long=rows(50, 60, shortest=40))
    mixture = {"short": 0.75, "long": 0.25}
    stream = data.fitted([phase(steps=100, examples_per_step=64, mixture=mixture, mixture_by=by)])
    drawn = Counter(one.split("/")[0] for batch in stream.batches() for one in batch.ids)
    (counted,) = stream.counts()
    assert {name: values["examples"] for name, values in counted["data"].items()} == drawn
    share = counted["data"]["short"][by] / sum(values[by] for values in counted["data"].values())
    assert abs(share - 0.75) < 0.03


def test_phases_have_their_own_data(tmp_path: Path) -> None:
    data = Data(tmp_path, web=rows(50), quality=rows(20, seed=1), questions=rows(20, seed=2))
    cooldown = {"quality": 0.5, "questions": 0.5}
    stream = data.fitted(
        [
            phase(name="main", steps=6, examples_per_step=8, mixture={"web": 1}),
            phase(name="cooldown", steps=3, examples_per_step=8, mixture=cooldown),
        ]
    )
    met = [{one.split("/")[0] for one in batch.ids} for batch in stream.batches()]
    assert met[:6] == [{"web"}] * 6
    assert set.union(*met[6:]) == {"quality", "questions"}
    assert [(part["phase"], part["steps"]) for part in stream.counts()] == [("main", 6), ("cooldown", 3)]


def test_rows_too_long_for_a_phase_wait_for_a_longer_one(tmp_path: Path) -> None:
    data = Data(tmp_path, a=rows(40, 100))
    recipe = SftRecipe.parse(
        {
            "longer": "defer",
            "phases": [
                {"name": "short", "lr": 1e-3, "epochs": 1, "max_tokens": 50, "sequences_per_step": 1},
                {"name": "long", "lr": 1e-3, "epochs": 1, "max_tokens": 100, "sequences_per_step": 1},
            ],
        },
        where="test",
    )
    short, long = data.fitted(recipe.all_phases()).counts()
    assert short["data"]["a"]["examples"] == sum(length <= 50 for length in data.lengths["a"]) < 40
    assert long["data"]["a"]["examples"] == 40
    with pytest.raises(ValueError, match=r"phase p: no row of \['a'\] has max_tokens=8 or fewer"):
        Data(tmp_path, a=rows(5, 20, shortest=9)).fitted([phase(steps=1, max_tokens=8)])


PHASES = [
    {"length": 64, "steps": 10, "sequences_per_step": 4},
    {"length": 128, "steps": 7, "sequences_per_step": 3},
]


def is_full(batch: Batch, length: int) -> list[bool]:
    """Of each row of a step, whether it is one of full length."""
    return [len(row.token_ids) == length for row in batch.rows]


def test_activation_is_entered_at_any_step_and_meets_every_document_of_an_epoch(tmp_path: Path) -> None:
    some = rows(300)
    stream = Data(tmp_path, data=some).activated(seed=5, phases=PHASES)
    whole = list(stream.batches())
    for start in (1, 9, 10, 11, 16, 17):
        assert list(stream.batches(start)) == whole[start:]
    known = set(some)
    for batch in whole[10:]:
        parts = [row for row, full in zip(batch.rows, is_full(batch, 128), strict=True) if not full]
        assert known.issuperset(parts)
    alone = Data(tmp_path, data=some).activated(
        seed=5, full_attention_share=0.0, phases=[{"length": 128, "steps": 18, "sequences_per_step": 4}]
    )
    met = Counter(one for batch in alone.batches() for one in batch.ids)
    assert len(met) > 0.9 * 300 and max(met.values()) <= 2


def test_rows_of_full_length_are_documents_joined_in_order(tmp_path: Path) -> None:
    some = rows(300)
    phases = [{"length": 64, "steps": 30, "sequences_per_step": 2}]
    stream = Data(tmp_path, data=some).activated(seed=5, full_attention_share=1.0, phases=phases)
    tokens = [token for row in islice(shuffled_rows(some, 5), 300) for token in row.token_ids]
    got = [row for batch in stream.batches() for row in batch.rows]
    assert got == [everything_in_loss(tokens[start : start + 64]) for start in range(0, 60 * 64, 64)]


def test_partial_rows_are_full_and_the_share_is_of_tokens(tmp_path: Path) -> None:
    data = Data(tmp_path, books=rows(20, 4000, shortest=2000), cooldown=rows(2000, 1200, seed=1))
    named = {"full": {"books": 1.0}, "partial": {"cooldown": 1.0}}
    for share in (0.4, 0.25):
        stream = data.activated(
            phases=[{"length": 2048, "steps": 40, "sequences_per_step": 4} | named],
            full_attention_share=share,
        )
        (counted,) = stream.counts()
        assert counted["fill"] > 0.97
        assert abs(counted["data"]["books"]["token_share"] - share) < 0.01
        with_books = [any(one.startswith("books/") for one in batch.ids) for batch in stream.batches()]
        assert sum(with_books) > 36  # of 40: at even distances


def test_activation_takes_full_and_partial_rows_from_the_data_named(tmp_path: Path) -> None:
    data = Data(tmp_path, books=rows(20, 400, shortest=200), cooldown=rows(200, seed=1))
    named = {"full": {"books": 1.0}, "partial": {"cooldown": 1.0}}
    stream = data.activated(phases=[PHASES[1] | named])
    for batch in stream.batches():
        books = [file for file in batch.ids if file.startswith("books/")]
        assert bool(books) == any(is_full(batch, 128))
        assert all(len(row.token_ids) in range(2, 61) for row in batch.rows if len(row.token_ids) != 128)
    (counted,) = stream.counts()
    assert abs(counted["data"]["books"]["token_share"] - 0.4) < 0.025  # half a row of 21


@pytest.mark.parametrize("power", [0.0, 1.0])
@pytest.mark.parametrize("by", ["tokens", "examples"])
def test_the_mixtures_of_activation_are_shares_of_tokens_unless_of_examples(
    tmp_path: Path, by: str, power: float
) -> None:
    data = Data(
        tmp_path,
        books=rows(40, 400, shortest=200),
        notes=rows(40, 60, shortest=30),
        web=rows(200, 40, seed=1),
        answers=rows(200, 8, seed=2),
    )
    named = {
        "full": {"books": 0.7, "notes": 0.3},
        "partial": {"web": 0.25, "answers": 0.75},
        "mixture_by": by,
    }
    stream = data.activated(
        phases=[{"length": 512, "steps": 150, "sequences_per_step": 8} | named], length_upsampling=power
    )
    (counted,) = stream.counts()

    def share(name: str, other: str) -> float:
        tokens = {one: counted["data"][one]["tokens"] for one in (name, other)}
        return tokens[name] / sum(tokens.values())

    if by == "tokens":
        assert abs(share("books", "notes") - 0.7) < 0.04
        assert abs(share("web", "answers") - 0.25) < 0.04
    else:
        assert share("books", "notes") > 0.85
        assert share("web", "answers") > 0.45


def test_a_long_document_among_the_short_ones_is_cut_to_the_length(tmp_path: Path) -> None:
    stream = Data(tmp_path, a=rows(10, 300, shortest=150)).activated(phases=PHASES, full_attention_share=0.0)
    assert max(len(row.token_ids) for batch in stream.batches(10) for row in batch.rows) <= 128


def test_longer_documents_are_drawn_more_often(tmp_path: Path) -> None:
    data = Data(tmp_path, a=[*rows(50, 20, shortest=20), *rows(50, 60, seed=1, shortest=60)])
    phases = [{"length": 64, "steps": 200, "sequences_per_step": 4}]

    def share(power: float) -> float:
        stream = data.activated(phases=phases, full_attention_share=1.0, length_upsampling=power)
        starts = Counter(one for batch in stream.batches() for one in batch.ids)
        long = sum(count for one, count in starts.items() if int(one.split()[2]) >= 50)
        return long / sum(starts.values())

    assert share(2.0) > share(1.0) > share(0.0)
