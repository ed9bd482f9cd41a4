"""The long-context evaluation, on models whose reach is known."""

from collections.abc import Sequence

import pytest

from k15.loops.context import Answer, answers, probes, summarize
from k15.recipes.context import ContextRecipe
from k15.records import Sequence as Row

pytestmark = pytest.mark.engine
LENGTHS = (128, 512)
VOCABULARY: dict[str, int] = {}


def recipe(**values: object) -> ContextRecipe:
    return ContextRecipe.parse({"lengths": LENGTHS, "documents": 12, **values}, where="context")


def encode(text: str) -> list[int]:
    return [VOCABULARY.setdefault(word, len(VOCABULARY)) for word in text.split()]


class Window:
    """Looks a key up among the last `reach` tokens, following links; knows nothing of what came before."""

    def __init__(self, reach: int) -> None:
        self.reach = reach

    def greedy_matches(self, rows: Sequence[Row]) -> list[list[bool]]:
        return [
            [self._says(row.token_ids[:place]) == row.token_ids[place] for place in positions(row)]
            for row in rows
        ]

    def _says(self, seen: Sequence[int]) -> int:
        window = seen[-self.reach - 1 :]
        records = dict(zip(reversed(window[:-1]), reversed(window[1:]), strict=True))
        said = records.get(seen[-1], -1)
        while said in records and not word(said).isdigit():
            said = records[said]
        return said


def word(token: int) -> str:
    return next(word for word, index in VOCABULARY.items() if index == token)


def positions(row: Row) -> list[int]:
    return [place for place, kept in enumerate(row.in_loss) if kept]


def test_who_sees_everything_finds_everything() -> None:
    asked = list(probes(recipe(), encode))
    assert {(probe.task, probe.length) for probe in asked} == {
        (task, length) for task in ("retrieval", "tracking") for length in LENGTHS
    }
    assert all(len(probe.row.token_ids) + 1 == probe.length for probe in asked)
    report = summarize({"all": answers(Window(10_000), asked)}, recipe())
    for task in report["models"][0]["tasks"]:
        assert task["usable_tokens"] == 512
        assert [figures["accuracy"] for figures in task["lengths"]] == [1.0, 1.0]


def test_who_sees_a_window_finds_what_lies_in_it() -> None:
    values = recipe(tasks={"retrieval": {}})
    report = summarize({"near": answers(Window(128), list(probes(values, encode)))}, values)
    (task,) = report["models"][0]["tasks"]
    short, long = task["lengths"]
    assert task["usable_tokens"] == 128
    assert short["accuracy"] == 1.0
    assert long["by_depth"][0] == long["worst_depth"] == 0.0
    assert long["by_depth"][3] > 0.5
    assert min(long["num_by_depth"]) >= 30


def test_an_answer_of_several_tokens_is_right_where_all_are() -> None:
    class LastWrong:
        def greedy_matches(self, rows: Sequence[Row]) -> list[list[bool]]:
            return [[True, False] * (sum(row.in_loss) // 2) for row in rows]

    def letters(text: str) -> list[int]:
        return [ord(letter) for letter in text.strip()]

    asked = list(probes(recipe(tasks={"retrieval": {}}, tokens_per_record=40), letters))
    assert {size for probe in asked for size in probe.sizes} == {2}
    assert not any(answer.right for answer in answers(LastWrong(), asked))


def test_the_same_documents_for_the_same_seed_only() -> None:
    first, again, other = (list(probes(recipe(seed=seed), encode)) for seed in (0, 0, 1))
    assert first == again
    assert not {probe.row for probe in first} & {probe.row for probe in other}


def test_usable_length_ends_at_the_first_that_fails() -> None:
    values = recipe(lengths=(64, 128, 256), tasks={"retrieval": {}}, depths=1)
    rows = [
        Answer("retrieval", length, 0.0, right) for length, right in ((64, True), (128, False), (256, True))
    ]
    (task,) = summarize({"m": rows}, values)["models"][0]["tasks"]
    assert task["usable_tokens"] == 64
