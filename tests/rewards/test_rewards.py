"""Rewards: the last stated answer counts, notation does not, and nothing raises."""

import json
import threading
from collections.abc import Iterator

import pytest

from k15.engines.sandbox.client import Sandbox
from k15.ports import Reward, RewardPorts
from k15.records import Part, Prompt, Status, Verdict
from k15.rewards import REWARDS, judge_all, judging
from k15.rewards.answer import last_answer
from k15.rewards.pool import ComparisonPool

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def judge(equivalence: ComparisonPool) -> Iterator[Reward]:
    with Sandbox(1, "nobody listens there") as nowhere:
        yield judging(set(REWARDS), RewardPorts(equivalence=equivalence, sandbox=nowhere))


def posed(reference: str, reward: str = "math", **metadata: object) -> Prompt:
    return Prompt("p", (Part(kind="text", text="?"),), reference, "t", 0.5, reward, json.dumps(metadata))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("1 + 1 = 2\n#### 2", "2"),
        ("#### 3\nno: \n#### 4\nmore", "4"),
        ("####5", "5"),
        (r"\boxed{17} then \boxed{18}", "18"),
        (r"\boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed {3}", "3"),
        (r"\fbox{3}", "3"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\text{a \} b}}", r"\text{a \} b}"),
        (r"#### 5 or \boxed{6}", "6"),
        (r"\boxed{6} so" + "\n#### 5", "5"),
        (r"\boxed{6", None),
        (r"\boxed{5} and \boxed{6", None),
        (r"\boxed{}", None),
        ("####", None),
        ("####\n5", None),
        ("the answer is 5", "5"),
        ("The answer is 5. It was easy.", "5"),
        ("The answer is 3.5.", "3.5"),
        ("The answer is: $\\frac{1}{2}$ because", r"\frac{1}{2}"),
        (r"The final answer is \(x = 5\), as above.", "x = 5"),
        ("**Answer:** 12 apples", "12 apples"),
        ("Final answer: **7**", "7"),
        ("The answer is 4. No, wait. The answer is 5!", "5"),
        (r"\boxed{5}. Check: the answer is positive.", "5"),
        ("so it is 5", None),
        ("the answer is", None),
        ("the answer is " + "9" * 2000, None),
        (r"\boxed{" + "9" * 2000 + "}", None),
    ],
)
def test_the_last_stated_answer(text: str, answer: str | None) -> None:
    assert last_answer(text) == answer


@pytest.mark.parametrize(
    ("reference", "response", "status"),
    [
        ("72", "#### 72", Status.CORRECT),
        ("1072", "#### $1,072.", Status.CORRECT),
        ("1/2", r"\boxed{\frac{1}{2}}", Status.CORRECT),
        ("0.5", r"\boxed{\frac{1}{2}}", Status.CORRECT),
        ("18", r"\boxed{18} or \boxed{17}", Status.WRONG),
        ("72", "#### 73", Status.WRONG),
        ("72", "it is 72", Status.WRONG),
        ("72", "The answer is 72.", Status.CORRECT),
        ("72", "#### " + "9" * 500, Status.WRONG),
        ("", "#### 5", Status.UNJUDGED),
    ],
)
def test_math(judge: Reward, reference: str, response: str, status: Status) -> None:
    assert judge(posed(reference), response).status is status


def test_math_judges_off_the_main_thread_too(judge: Reward) -> None:
    verdicts: list[Verdict] = []
    prompt = posed("1/2")
    thread = threading.Thread(target=lambda: verdicts.append(judge(prompt, r"\boxed{\frac{1}{2}}")))
    thread.start()
    thread.join()
    assert verdicts[0].status is Status.CORRECT


def test_partial_credit_of_a_scorer_is_no_credit(judge: Reward) -> None:
    prompt = posed("57", "reasoning_gym", source_dataset="chain_sum")
    assert judge(prompt, "#### 57").status is Status.CORRECT
    assert judge(prompt, "#### 57 or 58").status is Status.WRONG


@pytest.mark.parametrize("metadata", [{}, {"source_dataset": "no_such"}, {"source_dataset": "countdown"}])
def test_a_scorer_that_raises_leaves_it_unjudged(judge: Reward, metadata: dict[str, object]) -> None:
    verdict = judge(posed("57", "reasoning_gym", **metadata), "#### (5 +")
    assert verdict.status is Status.UNJUDGED or metadata.get("source_dataset") == "countdown"


@pytest.mark.parametrize("reward", REWARDS)
@pytest.mark.parametrize(
    "text", ["", "####", "#### {", r"\boxed{\frac{1}{0}}", "#### \x00\ud7ff", r"\boxed{2^{2^{99}}}"]
)
def test_no_reward_raises(judge: Reward, reward: str, text: str) -> None:
    assert judge(posed("1", reward, source_dataset="chain_sum"), text).status in (
        Status.WRONG,
        Status.UNJUDGED,
    )


def test_an_unknown_reward_is_refused_and_named() -> None:
    with pytest.raises(ValueError, match="no reward maths; prompts may name code, math"):
        judging({"math", "maths"}, RewardPorts())


def test_all_responses_are_judged_in_their_order(judge: Reward) -> None:
    prompt = posed("7")
    verdicts = judge_all(judge, [(prompt, f"#### {number}") for number in range(100)])
    assert [number for number, verdict in enumerate(verdicts) if verdict.status is Status.CORRECT] == [7]


def test_what_comes_back_unjudged_is_tried_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([Verdict(Status.UNJUDGED, "down"), Verdict(Status.CORRECT)])
    monkeypatch.setitem(REWARDS, "flaky", lambda ports: lambda prompt, response: next(answers))
    assert judging({"flaky"}, RewardPorts())(posed("1", "flaky"), "").status is Status.CORRECT
