"""`k15 report`: the table on the terminal, the files beside it."""

import json

from tests.finished_run import MODELS


def test_report_prints_each_model_with_intervals_and_writes_both_files(on_finished, tmp_path):
    ran = on_finished("report", "--out", str(tmp_path))
    assert ran.code == 0
    for name, (sampled, _greedy, tokens) in MODELS.items():
        (line,) = [line for line in ran.out.splitlines() if line.startswith(f"{name} ") and "[" in line]
        assert f"{100 * sampled:.1f}%  [" in line and f"{tokens:.1f}  [" in line
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    assert json.loads((tmp_path / "report.json").read_text())["pipeline"] == "tiny"


def test_report_as_json_is_report_json(on_finished, finished, tmp_path):
    run = ("--run", finished[1].run_id)
    shown = on_finished("report", *run, "--out", str(tmp_path), "--no-upload", "--json").json
    assert shown == json.loads((tmp_path / "report.json").read_text())


def test_an_unknown_run_is_bad_input(on_finished, tmp_path):
    ran = on_finished("report", "--run", "20200101-000000-none", "--out", str(tmp_path))
    assert ran.code == 2 and "20200101-000000-none" in ran.err and "ls --runs" in ran.err
