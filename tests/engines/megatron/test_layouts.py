"""Every layout of two processes computes what one process does."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from k15.recipes.pipeline import Layout
from tests.engines.megatron import layouts
from tests.engines.megatron.conftest import MakeModel

pytestmark = [
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:megatron"),
]
LAYOUTS = {
    "tensor": {"tensor": 2},
    "sequence": {"tensor": 2, "sequence": True},
    "pipeline": {"pipeline": 2},
    "context": {"context": 2},
    "data": {"data": 2},
}
CASES = {
    "llama": ("sequence", "pipeline"),
    "qwen2": ("tensor", "pipeline", "context"),
    "qwen3": ("tensor", "sequence", "pipeline", "context", "data"),
}
MODELS = {"llama": False, "qwen2": True, "qwen3": True}  # family, tied


def test_two_ranks_compute_what_one_does(make_model: MakeModel, tmp_path: Path) -> None:
    """Loss, logits, gradient and a policy update; the weights each layout was given and writes."""
    models = {
        family: make_model(family, tied=tied, vocabulary=layouts.VOCABULARY)[0]
        for family, tied in MODELS.items()
    }
    cases = [
        {
            "model": str(models[family]),
            "layout": LAYOUTS[name],
            "output": str(tmp_path / f"{family}-{name}"),
            "resume": str(tmp_path / family / "state"),
        }
        for family, names in CASES.items()
        for name in names
    ]
    for family in models:
        (tmp_path / family).mkdir()
        layouts.measure(models[family], tmp_path / family, layout=Layout())
    layouts.run_ranks(cases, 2, tmp_path)
    for case in cases:
        where = Path(str(case["output"]))
        assert differences(where, tmp_path / where.name.split("-")[0]) == []


def test_data_parallel_ranks_share_the_held_out_rows(make_model: MakeModel, tmp_path: Path) -> None:
    """Each has the loss that one process has, and no two have read the same rows."""
    model = make_model(vocabulary=layouts.VOCABULARY)[0]
    (tmp_path / "one").mkdir()
    layouts.measure_heldout(model, tmp_path / "one", layout=Layout())
    (tmp_path / "two").mkdir()
    case = {"kind": "measure_heldout", "model": str(model), "layout": LAYOUTS["data"]}
    layouts.run_ranks([case | {"output": str(tmp_path / "two")}], 2, tmp_path)
    one = json.loads((tmp_path / "one/heldout-0.json").read_text())
    two = [json.loads((tmp_path / f"two/heldout-{rank}.json").read_text()) for rank in range(2)]
    assert [found["loss"] for found in two] == pytest.approx([one["loss"]] * 2, rel=1e-6)
    assert sum(found["tokens"] for found in two) == one["tokens"]
    assert max(found["tokens"] for found in two) < 0.75 * one["tokens"]


def test_bf16_goes_through_every_layout_to_the_bit(make_model: MakeModel, tmp_path: Path) -> None:
    models = {tied: make_model(vocabulary=layouts.VOCABULARY, tied=tied)[0] for tied in (False, True)}
    for model in models.values():
        path = model / "model.safetensors"
        save_file({name: tensor.bfloat16() for name, tensor in load_file(path).items()}, path)
    cases = [
        {
            "kind": "round_trip",
            "model": str(models[tied]),
            "layout": LAYOUTS[name],
            "output": str(tmp_path / f"{name}-{tied}"),
            "precision": "bfloat16",
        }
        for name in ("tensor", "pipeline")
        for tied in models
    ]
    layouts.run_ranks(cases, 2, tmp_path)
    for case in cases:
        given = load_file(Path(str(case["model"])) / "model.safetensors")
        kept = load_file(Path(str(case["output"])) / "start/model.safetensors")
        assert kept.keys() == given.keys()
        assert all(torch.equal(kept[name], given[name]) for name in given), case["output"]


@pytest.mark.parametrize(
    ("how", "names", "tolerance"),
    [
        pytest.param({"recompute": True}, ("sequence", "pipeline", "context"), 2e-5, marks=pytest.mark.soak),
        pytest.param({"precision": "bfloat16"}, ("tensor", "context", "data"), 0.02, marks=pytest.mark.soak),
        ({"precision": "bfloat16", "recompute": True}, ("sequence",), 0.02),
    ],
)
def test_recomputed_activations_and_bf16_under_a_layout(
    make_model: MakeModel, tmp_path: Path, how: dict[str, Any], names: tuple[str, ...], tolerance: float
) -> None:
    """Logits, log-probs and gradient are those of one process that does the same."""
    model = make_model(vocabulary=layouts.VOCABULARY)[0]
    (tmp_path / "one").mkdir()
    layouts.measure_step(model, tmp_path / "one", layout=Layout(), **how)
    cases = [
        {"kind": "measure_step", "model": str(model), "layout": LAYOUTS[name], "output": str(tmp_path / name)}
        | how
        for name in names
    ]
    layouts.run_ranks(cases, 2, tmp_path)
    one = load_file(tmp_path / "one/measured.safetensors")
    whole = float(torch.stack([one[n].norm() for n in one if n.startswith("gradient.")]).norm())
    for name in names:
        found = load_file(tmp_path / name / "measured.safetensors")
        off = {n: float((found[n] - one[n]).norm()) for n in one if n != "greedy"}
        assert max(value for n, value in off.items() if n.startswith("gradient.")) < tolerance * whole, name
        assert all(off[n] < tolerance * float(one[n].norm()) for n in ("logits", "logprobs")), name


def test_loading_and_writing_hold_little_more_than_the_model(make_model: MakeModel, tmp_path: Path) -> None:
    """At most 1.3 times the model over all ranks of a host, where no tensor is a large part of it."""
    model = make_model(tied=False, vocabulary=4096, hidden_size=512, layers=20)[0]
    small = make_model("llama", vocabulary=layouts.VOCABULARY)[0]
    size = (model / "model.safetensors").stat().st_size
    assert size > 100e6
    for world, layout in ((1, {}), (2, {"tensor": 2}), (2, {"pipeline": 2})):
        output = tmp_path / f"{world}-{'-'.join(layout)}"
        case = {"kind": "peak", "model": str(model), "layout": layout, "output": str(output)}
        case["small"] = str(small)
        # Tensors this small would leave holes in shared memory: give each its own, as large ones have.
        layouts.run_ranks([case], world, tmp_path, MALLOC_MMAP_THRESHOLD_="65536")
        peaks = [json.loads(path.read_text()) for path in output.glob("peak-*.json")]
        assert len(peaks) == world
        print(world, layout, "peak / model:", sum(peaks) / size)
        assert len(list((output / "large").glob("*.safetensors"))) > 8
        assert sum(peaks) < 1.3 * size


def differences(found: Path, wanted: Path) -> list[str]:
    """What is not within fp32's tolerance of the reference, or not equal where it must be."""
    tensors, figures, weights = layouts.measured(found)
    reference, expected, ends = layouts.measured(wanted)
    off = [n for n in expected if figures[n] != pytest.approx(expected[n], rel=2e-5, abs=2e-6)]
    # A key's bias hardly matters to the softmax: what is left of its gradient is the rounding of larger ones.
    whole = float(torch.stack([tensor.norm() for tensor in reference.values()]).norm())
    off += [
        n
        for n in reference
        if float((tensors[n] - reference[n]).norm()) > 2e-5 * max(float(reference[n].norm()), 1e-3 * whole)
    ]
    resumed, gone_on = (load_file(where / "resumed/model.safetensors") for where in (found, wanted))
    for ours, theirs in ((weights, ends), (resumed, gone_on)):  # each weight moved by up to 0.5
        off += [n for n in theirs if not torch.allclose(ours[n], theirs[n], atol=5e-5)]
    same = {"start/model.safetensors": "start/model.safetensors"} | {
        f"state-again/{part}/model.safetensors": f"state/{part}/model.safetensors"
        for part in ("weights", "exp_avg", "exp_avg_sq")
    }
    for ours, theirs in same.items():
        kept, given = load_file(found / ours), load_file(wanted / theirs)
        off += [f"{ours} {n}" for n in given if not torch.equal(given[n], kept[n])]
    return [f"{found.name}: {name}" for name in off]
