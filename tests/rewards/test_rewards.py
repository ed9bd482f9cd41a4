"""Rewards: the last stated answer counts, notation does not, and nothing raises."""

import json
import threading

import pytest

from k15.ports import RewardPorts
from k15.records import Part, Prompt, Status, Verdict
from k15.rewards import REWARDS, judge_all, judging
from k15.rewards.answer import last_answer

pytestmark = pytest.mark.engine
judge = judging(set(REWARDS), RewardPorts())


def posed(reference: str, reward: str = "math", **metadata: object) -> Prompt:
    return Prompt("p", (Part(kind="text", text="?"),), reference, "t", 0.5, reward, json.dumps(metadata))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("1 + 1 = 2\n#### 2", "2"),
        ("#### 3\nno: \n#### 4\nmore", "4"),
        (r"\boxed{17} then \boxed{18}", "18"),
        (r"\boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"#### 5 or \boxed{6}", "6"),
        (r"\boxed{6} so" + "\n#### 5", "5"),
        (r"\boxed{6", None),
        ("####", None),
        ("the answer is 5", None),
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
        ("72", "#### " + "9" * 500, Status.WRONG),
        ("", "#### 5", Status.UNJUDGED),
    ],
)
def test_math(reference: str, response: str, status: Status) -> None:
    assert judge(posed(reference), response).status is status


def test_math_judges_off_the_main_thread_too() -> None:
    verdicts: list[Verdict] = []
    prompt = posed("1/2")
    thread = threading.Thread(target=lambda: verdicts.append(judge(prompt, r"\boxed{\frac{1}{2}}")))
    thread.start()
    thread.join()
    assert verdicts[0].status is Status.CORRECT


def test_partial_credit_of_a_scorer_is_no_credit() -> None:
    prompt = posed("57", "reasoning_gym", source_dataset="chain_sum")
    assert judge(prompt, "#### 57").status is Status.CORRECT
    assert judge(prompt, "#### 57 or 58").status is Status.WRONG


@pytest.mark.parametrize("metadata", [{}, {"source_dataset": "no_such"}, {"source_dataset": "countdown"}])
def test_a_scorer_that_raises_leaves_it_unjudged(metadata: dict[str, object]) -> None:
    verdict = judge(posed("57", "reasoning_gym", **metadata), "#### (5 +")
    assert verdict.status is Status.UNJUDGED or metadata.get("source_dataset") == "countdown"


@pytest.mark.parametrize("reward", REWARDS)
@pytest.mark.parametrize(
    "text", ["", "####", "#### {", r"\boxed{\frac{1}{0}}", "#### \x00\ud7ff", r"\boxed{2^{2^{99}}}"]
)
def test_no_reward_raises(reward: str, text: str) -> None:
    assert judge(posed("1", reward, source_dataset="chain_sum"), text).status in (
        Status.WRONG,
        Status.UNJUDGED,
    )


def test_an_unknown_reward_is_refused_and_named() -> None:
    with pytest.raises(ValueError, match="no reward maths; prompts may name math"):
        judging({"math", "maths"}, RewardPorts())


def test_all_responses_are_judged_in_their_order() -> None:
    prompt = posed("7")
    verdicts = judge_all(judge, [(prompt, f"#### {number}") for number in range(100)])
    assert [number for number, verdict in enumerate(verdicts) if verdict.status is Status.CORRECT] == [7]


def test_what_comes_back_unjudged_is_tried_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([Verdict(Status.UNJUDGED, "down"), Verdict(Status.CORRECT)])
    monkeypatch.setitem(REWARDS, "flaky", lambda ports: lambda prompt, response: next(answers))
    assert judging({"flaky"}, RewardPorts())(posed("1", "flaky"), "").status is Status.CORRECT
