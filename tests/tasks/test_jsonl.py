"""A user's own JSON lines, GSM8K's published format included."""

import json
from random import Random

import pytest

from k15.ports import RewardPorts
from k15.records import Status
from k15.rewards import judging
from k15.rewards.pool import ComparisonPool
from k15.tasks.demonstrations import STYLES
from k15.tasks.jsonl import check_references, problems, rows, self_check
from k15.tasks.problem import Problem

pytestmark = pytest.mark.engine
GSM8K = {
    "question": "Natalia sold 48 clips in April, and half as many in May. How many in all?",
    "answer": "She sold 48/2 = <<48/2=24>>24 in May.\nShe sold 48+24 = <<48+24=72>>72 in all.\n#### 1,072",
}

# Rows of our own in the published fields of each format.
MATH_500 = {
    "problem": r"What is the sum of the roots of $x^2 - 3x + 1$?",
    "solution": r"By Vieta's formulas the sum is $\boxed{3}$.",
    "answer": "3",
    "subject": "Algebra",
    "level": 2,
    "unique_id": "test/algebra/1.json",
}
AIME_2024 = {
    "id": 60,
    "problem": "Find the number of ways to choose 2 of 9 things.",
    "solution": r"There are $\binom{9}{2} = \boxed{036}$.",
    "answer": "036",
    "url": "https://example.org",
    "year": "2024",
}
AIME_2024_CAPITALS = {"ID": "2024-I-1", "Problem": "What is 6 · 34?", "Solution": "It is 204.", "Answer": 204}
AIME_2025 = {"question": "What is 7 · 10?", "answer": "70"}
OWN = {"question": "Solve $x^2=2$.", "answer": r"\pm\sqrt{2}"}


@pytest.fixture(scope="module")
def pool():
    with ComparisonPool(1) as pool:
        yield pool


def read(*rows: object) -> list[Problem]:
    return list(
        problems([row if isinstance(row, str) else json.dumps(row) for row in rows], where="f", task="t")
    )


def test_gsm8k_gives_reference_and_demonstration() -> None:
    (problem,) = read(GSM8K)
    assert problem.question == GSM8K["question"]
    assert problem.answer == "1072"
    assert problem.reward == "math"
    assert problem.solution == "She sold 48/2 = 24 in May.\nShe sold 48+24 = 72 in all."
    assert STYLES["given"](problem, Random(0)) == problem.solution + "\n#### 1072"
    assert STYLES["direct"](problem, Random(0)) == "#### 1072"


def test_a_plain_answer_is_the_reference() -> None:
    number, text = read({"question": "1+1?", "answer": 2}, "", {"question": "a?", "answer": " \\frac{1}{2} "})
    assert (number.answer, number.solution) == ("2", "")
    assert text.answer == "\\frac{1}{2}"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "f: line 2: not JSON"),
        ("[1]", "f: line 2: not an object"),
        ({"answer": "1"}, "f: line 2: question: missing"),
        ({"question": "a", "answer": "   "}, "f: line 2: answer: no text"),
        (MATH_500 | {"level": 6}, "f: line 2: level: '6'; it must be 1 to 5"),
        ({"problem": "a"}, "f: line 2: answer: missing"),
        ({"question": "a", "answer": "so\n####"}, "f: line 2: answer: nothing after ####"),
    ],
)
def test_a_bad_line_is_named(row: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(GSM8K, row)


def test_published_formats_are_told_apart_by_their_fields() -> None:
    maths, aime, capitals, opencompass, own = read(MATH_500, AIME_2024, AIME_2024_CAPITALS, AIME_2025, OWN)
    assert (maths.answer, maths.difficulty, maths.solution) == ("3", 0.25, MATH_500["solution"])
    assert (aime.question, aime.answer) == (AIME_2024["problem"], "036")
    assert (capitals.question, capitals.answer) == ("What is 6 · 34?", "204")
    assert (opencompass.answer, own.answer) == ("70", OWN["answer"])


def test_a_reference_that_is_no_number_keeps_its_commas() -> None:
    assert read({"question": "a?", "answer": "(1,234)"})[0].answer == "(1,234)"


def test_the_grader_accepts_what_is_published_and_tells_what_it_does_not(pool: ComparisonPool) -> None:
    wrong = MATH_500 | {"solution": r"It is $\boxed{4}$."}
    published = (GSM8K, MATH_500, AIME_2024, AIME_2024_CAPITALS, AIME_2025, OWN, wrong)
    posed = list(rows([json.dumps(row) for row in published], where="f", task="t"))
    rejected = self_check(posed, judging({"math"}, RewardPorts(equivalence=pool)))
    assert [(row.where, verdict.status) for row, verdict in rejected] == [("f: line 7: answer", Status.WRONG)]


def test_references_that_nothing_can_be_compared_with_are_refused(pool: ComparisonPool) -> None:
    lines = [json.dumps(row) for row in (GSM8K, OWN, OWN | {"answer": r"\frac{1}{"}, MATH_500)]
    posed = list(rows(lines, where="f", task="t"))
    with pytest.raises(ValueError, match=r"f: line 3: answer: .*\(1 rows in all\).*correct or remove"):
        check_references(posed, pool)
    check_references(posed[:2], pool)
