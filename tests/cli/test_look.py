"""What `k15 ls` and `k15 show` say of a finished run."""

from tests.finished_run import COMMIT, MODELS, SECONDS


def test_ls_names_every_artifact_with_its_address(on_finished, finished):
    store, record = finished
    rows = on_finished("ls", "--json").json
    assert {row["node"] for row in rows} == set(SECONDS)
    assert {row["uri"] for row in rows} == {store.uri(node.key) for node in record.nodes.values()}
    assert [row["node"] for row in on_finished("ls", "rl", "--json").json] == ["rl", "short"]


def test_ls_prints_one_line_per_artifact(on_finished):
    lines = on_finished("ls").out.splitlines()
    assert len(lines) == 1 + len(SECONDS)
    assert lines[0].split() == ["node", "kind", "key", "digest", "ended", "seconds", "size", "run"]


def test_ls_runs_shows_the_run(on_finished, finished):
    (row,) = on_finished("ls", "--runs", "--json").json
    assert (row["run_id"], row["state"]) == (finished[1].run_id, "done")
    assert finished[1].run_id in on_finished("ls", "--runs").out


def test_show_previews_tables_configs_and_rounds(on_finished):
    shown = on_finished("show", "data", "--rows", "2", "--json").json
    assert len(shown["previews"]["train/prompts.parquet"]) == 2
    rl = on_finished("show", "rl", "--json").json
    assert rl["previews"]["model/config.json"]["hidden_size"] == 128
    assert rl["previews"]["rounds.jsonl"][0]["round"] == 0
    text = on_finished("show", "rl").out
    assert COMMIT in text and "model.safetensors" in text and "pass_rate=" in text


def test_show_takes_a_part_of_an_artifact(on_finished):
    shown = on_finished("show", "data:heldout", "--json").json
    assert list(shown["previews"]) == ["prompts.parquet"]
    assert on_finished("show", shown["uri"], "--json").json["digest"] == shown["digest"]


def test_an_unknown_name_is_bad_input_in_one_line(on_finished):
    ran = on_finished("show", "nowhere")
    assert ran.code == 2 and ran.out == ""
    assert len(ran.err.splitlines()) == 1 and "nowhere" in ran.err and "evaluate" in ran.err


def test_the_evaluation_is_readable(on_finished):
    shown = on_finished("show", "evaluate", "--json").json
    models = shown["previews"]["evaluation.json"]["models"]
    assert {model["name"] for model in models} == set(MODELS)
