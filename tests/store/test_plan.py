"""Plans: what is done, what will run, which field made it so; and what a wrong pipeline file is told."""

from pathlib import Path

import pytest

from k15.config import load_toml
from k15.recipes import Pipeline
from k15.store.artifact import Store
from k15.store.code import code_digest
from k15.store.job import Job
from k15.store.manifest import Manifest, Provenance
from k15.store.plan import input_files, load_pipeline, plan, resolve_job, why

ROOT = Path(__file__).parents[2]

PIPELINE = """
name = "small"
final = "rl"

[nodes.data]
kind = "data"
files = { questions = "questions.jsonl" }
recipe = { num_train = 10 }

[nodes.base]
kind = "base"
recipe = { hidden_size = 64 }
inputs = { data = "data:pretrain" }

[nodes.sft]
kind = "sft"
inputs = { model = "base:model", data = "data:sft" }
recipe = { steps = 3, optimizer = { lr = 1e-3 } }

[nodes.rl]
kind = "rl"
inputs = { model = "sft:model", prompts = "data:train" }
recipe = { rounds = 2, update = { tau = 0.1 } }
resources = { cores = 2 }
"""
PARTS = ("model/weights", "pretrain/rows", "sft/rows", "train/rows")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The pipeline, with the user's own questions."""
    (tmp_path / "questions.jsonl").write_text('{"question": "1 + 1", "answer": "2"}\n')
    (tmp_path / "pipeline.toml").write_text(PIPELINE)
    return tmp_path / "pipeline.toml"


def load(file: Path, *overrides: str) -> Pipeline:
    """The pipeline file with overrides."""
    return load_pipeline(file, overrides, file.parent)


def run(
    store: Store, pipeline: Pipeline, root: Path, until: str = "", code: str | None = None
) -> dict[str, Job]:
    """Make every result up to node `until`, each with its own content; the jobs by node."""
    files = input_files(store, pipeline, root, ingest=True)
    done: dict[str, Manifest] = {}
    jobs = {}
    for name in pipeline.order():
        job = jobs[name] = resolve_job(store, pipeline, name, done, files)
        found = store.manifest(job.key)
        if found is None:
            attempt = store.begin(job.key)
            for part in PARTS:
                attempt.write_bytes(part, f"{job.key} {part}".encode())
            digest = code_digest(ROOT, job.kind) if code is None else code
            ended = f"2026-01-01T00:00:{len(store.manifests()):02d}"
            found = store.commit(attempt, job, Provenance(code_digest=digest, ended=ended), {})
        done[name] = found
        if name == until:
            break
    return jobs


def states(store: Store, pipeline: Pipeline, root: Path) -> dict[str, str]:
    """Each node's status, with the code of this checkout."""
    return {row.node: row.status for row in plan(store, pipeline, root)}


DONE = {"data": "done", "base": "done", "sft": "done", "rl": "done"}


@pytest.mark.services
def test_a_plan_follows_what_is_done(store: Store, file: Path) -> None:
    pipeline, root = load(file), file.parent
    rows = {row.node: row for row in plan(store, pipeline, root)}
    assert rows["data"].status == "will run"
    assert (rows["rl"].status, rows["rl"].waits_for, rows["rl"].key) == ("decided later", ("data", "sft"), "")
    assert store.objects.list("") == []
    jobs = run(store, pipeline, root, until="base")
    assert states(store, pipeline, root) == DONE | {"sft": "will run", "rl": "decided later"}
    jobs = run(store, pipeline, root)
    rows = {row.node: row for row in plan(store, pipeline, root)}
    assert {node: row.status for node, row in rows.items()} == DONE
    assert {node: row.key for node, row in rows.items()} == {node: job.key for node, job in jobs.items()}


@pytest.mark.services
def test_a_changed_field_reruns_its_stage_and_what_follows(store: Store, file: Path) -> None:
    root = file.parent
    run(store, load(file), root)
    changed = load(file, "nodes.rl.recipe.update.tau=0.2")
    assert states(store, changed, root) == DONE | {"rl": "will run"}
    found = why(store, changed, "rl", root)
    assert [(c.field, c.before, c.after) for c in found.row.changed] == [("recipe.update.tau", 0.1, 0.2)]
    assert found.reasons == ("recipe.update.tau: 0.1 → 0.2",)
    changed = load(file, "nodes.sft.recipe.optimizer.lr=2e-3")
    assert states(store, changed, root) == DONE | {"sft": "will run", "rl": "decided later"}
    assert why(store, changed, "rl", root).reasons == ("inputs: sft will run",)
    assert why(store, load(file), "rl", root).reasons[0].startswith("done: ")
    (root / "questions.jsonl").write_text('{"question": "1 + 2", "answer": "3"}\n')
    reasons = why(store, load(file), "data", root).reasons
    assert len(reasons) == 1
    assert reasons[0].startswith("inputs.questions: 'sha256:")


@pytest.mark.services
def test_resources_rerun_nothing(store: Store, file: Path) -> None:
    run(store, load(file), file.parent)
    changed = load(file, "nodes.rl.resources.cores=7", "nodes.data.resources.retries=0")
    assert states(store, changed, file.parent) == DONE


@pytest.mark.services
def test_a_licence_is_recorded_and_reruns_nothing(store: Store, file: Path) -> None:
    pipeline = load(file, "nodes.data.license=CC-BY-4.0")
    jobs = run(store, pipeline, file.parent)
    manifests = {manifest.node: manifest for manifest in store.manifests()}
    assert manifests["data"].licenses == {"questions": "CC-BY-4.0"}
    assert manifests["rl"].licenses == {}
    assert jobs == run(store, pipeline, file.parent)
    assert states(store, load(file, "nodes.data.license=MIT"), file.parent) == DONE


@pytest.mark.services
def test_an_unchanged_result_of_a_rerun_producer_reruns_nothing_below(store: Store, file: Path) -> None:
    root = file.parent
    jobs = run(store, load(file), root)
    rerun = load(file, "nodes.data.recipe.seed=1")
    files = input_files(store, rerun, root, ingest=False)
    job = resolve_job(store, rerun, "data", {}, files)
    attempt = store.begin(job.key)
    for part in PARTS:
        attempt.write_bytes(part, f"{jobs['data'].key} {part}".encode())
    store.commit(attempt, job, Provenance(), {})
    assert states(store, rerun, root) == DONE


@pytest.mark.services
def test_changed_code_is_warned_of_and_reruns_when_strict(store: Store, file: Path) -> None:
    pipeline, root = load(file), file.parent
    run(store, pipeline, root, code="sha256:older")
    rows = plan(store, pipeline, with_stages(file))
    assert all(row.status == "done" and row.code_changed for row in rows)
    strict = plan(store, pipeline, with_stages(file), strict=True)
    assert strict[0].status == "will run"
    assert strict[0].key != rows[0].key


def with_stages(file: Path) -> Path:
    """A checkout whose stages are these and whose files are the test's."""
    for name in ("stages", "k15"):
        link = file.parent / name
        if not link.exists():
            link.symlink_to(ROOT / name)
    return file.parent


@pytest.mark.services
def test_a_part_that_is_not_there_is_named(store: Store, file: Path) -> None:
    pipeline = load(file, 'nodes.rl.inputs.prompts="data:trian"')
    with pytest.raises(
        ValueError, match=r"nodes.rl.inputs.prompts: data has no part 'trian'; it has \['model'"
    ):
        run(store, pipeline, file.parent)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("nodes.rl.recipe.rouds=3", "nodes.rl.recipe.rouds: unknown key"),
        ("nodes.rl.recipe.rounds='3'", "nodes.rl.recipe.rounds: Input should be a valid integer"),
        ("nodes.rl.recipe.update.tau=-1", "nodes.rl.recipe.update.tau: .*greater than 0"),
        ("nodes.rl.kind='lr'", "nodes.rl.kind: unknown kind 'lr'; one of"),
        ("nodes.rl.inputs.prompt='data'", "nodes.rl.inputs.prompt: unknown role; rl has"),
        (
            "nodes.data.files.questions='absent.jsonl'",
            "nodes.data.files.questions: no such file: .*absent.jsonl",
        ),
        ("nodes.data.inputs={questions='base'}", "wait for each other"),
        ("nodes.rl.inputs.prompts='date:train'", "nodes.rl.inputs.prompts: no node named 'date'"),
        ("nodes.rl.resource.cores=2", "nodes.rl.resource: unknown key"),
        ("final='lr'", "final: no node named 'lr'"),
        ("cores", "--set cores: write it as"),
    ],
)
def test_a_wrong_file_is_told_which_field(file: Path, override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(file, override)


def test_a_missing_role_is_named(file: Path) -> None:
    file.write_text(PIPELINE.replace(', prompts = "data:train"', ""))
    with pytest.raises(
        ValueError, match=r"nodes.rl.inputs.prompts: missing; rl needs \['model', 'prompts'\]"
    ):
        load(file)


@pytest.mark.parametrize(
    ("inputs", "recipe", "message"),
    [
        ("", "steps = 3", "nodes.sft.inputs.data: missing; sft needs it, or several as data.<name>"),
        (', data = "data:sft", "data.more" = "data:train"', "steps = 3", "there are data.<name> too"),
        (', "data.a" = "data:sft"', "steps = 3, mixture = { b = 1.0 }", "mixture names 'b', but there is no"),
        (
            ', data = "data:sft"',
            "examples_per_step = 3",
            "nodes.sft.recipe.*give steps .or epochs., or phases",
        ),
    ],
)
def test_data_sets_and_mixtures_are_checked(file: Path, inputs: str, recipe: str, message: str) -> None:
    text = PIPELINE.replace(', data = "data:sft"', inputs)
    file.write_text(text.replace("steps = 3, optimizer = { lr = 1e-3 }", recipe))
    with pytest.raises(ValueError, match=message):
        load(file)


def test_all_problems_are_told_at_once(file: Path) -> None:
    with pytest.raises(ValueError, match=r"(?s)nodes.sft.recipe.step: .*nodes.rl.recipe.rouds: "):
        load(file, "nodes.rl.recipe.rouds=3", "nodes.sft.recipe.step=3")


def test_a_layout_of_more_processes_than_gpus_is_refused(file: Path) -> None:
    with pytest.raises(ValueError, match=r"nodes.sft.resources: the layout .* is for 4 GPUs, and gpus = 2"):
        load(file, "nodes.sft.resources.gpus=2", "nodes.sft.resources.layout={tensor=2,data=2}")
    load(file, "nodes.sft.resources.layout={tensor=2,data=2}")  # processes of a CPU share its cores


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("recipes/*/*.toml")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_the_recipes_of_the_project_are_right(path: Path, tmp_path: Path) -> None:
    """With stand-ins for the files that a user brings."""
    for node in load_toml(path)["nodes"].values():
        for name in node.get("files", {}).values():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text("a stand-in")
    pipeline = load_pipeline(path, [f"files_root={tmp_path}"], root=ROOT)
    for name, node in pipeline.nodes.items():
        layout = node.resources.layout
        assert layout.world in (1, node.resources.gpus), name
