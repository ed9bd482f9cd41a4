"""A user's own JSON lines, GSM8K's published format included."""

import json
from random import Random

import pytest

from k15.tasks.demonstrations import STYLES
from k15.tasks.jsonl import problems
from k15.tasks.problem import Problem

pytestmark = pytest.mark.engine
GSM8K = {
    "question": "Natalia sold 48 clips in April, and half as many in May. How many in all?",
    "answer": "She sold 48/2 = <<48/2=24>>24 in May.\nShe sold 48+24 = <<48+24=72>>72 in all.\n#### 1,072",
}


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
        ({"question": "a", "answer": "so\n####"}, "f: line 2: answer: nothing after ####"),
    ],
)
def test_a_bad_line_is_named(row: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(GSM8K, row)
