"""Every line of pairs.txt: what equals a reference, what does not, and what nobody can tell."""

import re
from pathlib import Path

import pytest

from k15.records import Status
from k15.rewards.pool import ComparisonPool

pytestmark = pytest.mark.engine
LINE = re.compile(r"(?P<reference>.+?)  (?P<sign>==|!=|\?\?)  (?P<answer>.+)")
STATUS = {"==": Status.CORRECT, "!=": Status.WRONG, "??": Status.UNJUDGED}
TEXT = (Path(__file__).parent / "pairs.txt").read_text("utf-8").splitlines()
PAIRS = [found for line in TEXT if not line.startswith("#") and (found := LINE.fullmatch(line))]


def test_the_table_is_large_and_all_of_it_is_read() -> None:
    written = [line for line in TEXT if line and line[0] != "#" and not re.fullmatch(r"\[[a-z ]+\]", line)]
    assert len(PAIRS) == len(written) >= 100


@pytest.mark.parametrize("pair", PAIRS, ids=[pair.group() for pair in PAIRS])
def test_pair(pair: re.Match[str], equivalence: ComparisonPool) -> None:
    verdict = equivalence.compare(pair["reference"], pair["answer"])
    assert verdict.status is STATUS[pair["sign"]], verdict.reason
    assert ("ambiguous" in verdict.reason) is (pair["sign"] == "??")


@pytest.mark.parametrize("reference", sorted({pair["reference"] for pair in PAIRS}))
def test_every_reference_is_readable(reference: str, equivalence: ComparisonPool) -> None:
    assert equivalence.refusal(reference) == ""
