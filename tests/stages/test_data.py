"""The data stage on files of programming problems: prompts that their own published programs pass."""

import json
import os
import shutil
from pathlib import Path

import pytest

from k15.recipes.data import DataRecipe
from k15.recipes.pipeline import Resources
from k15.records import Status
from k15.rewards import judge_all
from k15.store.tables import demonstrations_from_table, prompts_from_table
from stages import data
from stages.rewards import open_judge
from tests.stages.local import LocalContext, LocalInput
from tests.tasks.test_code import HUMANEVAL_PLUS, MBPP, MBPP_PLUS

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(
        os.geteuid() != 0 or not shutil.which("crun"),
        reason="crun slots need root, and apt-get install -y --no-install-recommends crun",
    ),
]
RECIPE = DataRecipe(
    num_heldout=1,
    num_pretrain=4,
    num_sft=4,
    num_longcot=4,
    sft_styles={"direct": 1.0},
    longcot_styles={"given": 1.0},
)


def given(*rows: object) -> LocalInput:
    return LocalInput(content="".join(json.dumps(row) + "\n" for row in rows).encode())


def test_prompts_demonstrations_and_held_out_ones(tmp_path: Path) -> None:
    inputs = {"questions": given(HUMANEVAL_PLUS, MBPP), "heldout_questions": given(MBPP_PLUS)}
    context = LocalContext(inputs, tmp_path / "data")
    data.body(context, RECIPE)
    assert context.summary["inputs_left_out"] == 0
    train, heldout = (
        prompts_from_table(context.written[f"{part}/prompts.parquet"], part) for part in ("train", "heldout")
    )
    assert [(prompt.reward, "2 + 2" in prompt.text) for prompt in (*train, *heldout)] == [("code", False)] * 3
    posed = {prompt.text: prompt for prompt in (*train, *heldout)}
    for part in ("sft", "longcot"):
        rows = demonstrations_from_table(context.written[f"{part}/demonstrations.parquet"], part)
        responses = [(posed[row.prompt], row.response) for row in rows]
        with open_judge(posed.values(), Resources(), tmp_path) as judge:
            assert [verdict.status for verdict in judge_all(judge, responses)] == [Status.CORRECT] * 4
            assert judge(heldout[0], responses[0][1]).status is Status.WRONG
    text = context.written["pretrain/text.parquet"].column(0).to_pylist()
    assert not any('"expected"' in row for row in text)  # no test is shown


def test_a_solution_that_fails_its_tests_stops_it(tmp_path: Path) -> None:
    wrong = MBPP | {"test_list": ["assert double(2) == 5"]}
    context = LocalContext({"questions": given(HUMANEVAL_PLUS, wrong)}, tmp_path / "data")
    with pytest.raises(ValueError, match=r"files\.questions: line 2: code: a test failed: (?s:.*)correct or"):
        data.body(context, RECIPE)
