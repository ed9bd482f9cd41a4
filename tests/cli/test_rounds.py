"""What `k15 show` says of a round: figures, groups, and responses with the segments they are made of."""

import pytest

from k15.store.artifact import Store
from tests.stored_rounds import commit_rounds


@pytest.fixture(scope="module")
def at_work(finished_environment):
    """A stage that is not done, with two rounds."""
    key = "a1b2c3" + "0" * 58
    commit_rounds(Store.from_environment(finished_environment), key)
    return key


def test_a_round_shows_its_figures_and_its_trajectories(on_finished, at_work):
    shown = on_finished("show", "a1b2c3", "--round", "-1", "--json").json
    assert shown["round"] == 1 and shown["figures"]["pass_rate"] == 0.5
    (group,) = shown["groups"]
    assert (group["fate"], group["rewards"]) == ("trained", [1.0, 0.0])
    first, second = group["responses"]
    assert [part["tokens"] for part in first["segments"]] == [3]
    assert [(p["policy_version"], p["tokens"], p["end"]) for p in second["segments"]] == [
        (0, 3, "budget"),
        (1, 2, "stop"),
    ]
    text = on_finished("show", "a1b2c3", "--round", "1").out
    assert "v0 3 tokens, budget → v1 2 tokens, stop" in text and "Wait.⏎The answer is 9." in text
    assert "lost     3 responses: the process ended (try 2)" in text and "pass_rate 0.5" in text


def test_a_round_is_found_by_its_address_and_open_responses_are_named(on_finished, at_work):
    address = on_finished("show", at_work, "--round", "0", "--json").json["uri"]
    shown = on_finished("show", address, "--json").json
    assert [r["status"] for r in shown["groups"][0]["responses"]] == ["open", "open"]
    assert "group 0, open: 1 unfinished" in on_finished("show", address).out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("a1b2c3", "--round", "7"), "no round 7; it has 2 rounds"),
        (("s3://elsewhere/rounds/abc/000000.json",), "not a round of this store"),
        (("nowhere", "--round", "0"), "finished nodes"),
    ],
)
def test_what_is_no_round_is_bad_input_in_one_line(on_finished, at_work, arguments, says):
    ran = on_finished("show", *arguments)
    assert ran.code == 2 and len(ran.err.splitlines()) == 1 and says in ran.err
