"""The gradient of a policy update in layouts of two processes is autograd's on the objective's formula."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.engines.megatron import layouts
from tests.engines.megatron.conftest import MakeModel
from tests.engines.megatron.literal import literal_update

pytestmark = [
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:megatron"),
]
RATE = 0.001
LAYOUTS = {"tensor": {"tensor": 2}, "context": {"context": 2}}
UPDATES: dict[str, dict[str, Any]] = {
    "omd": {"objective": "omd", "tau": 0.2, "baseline": "log_partition"},
    "rest": {"objective": "rest"},
    "grpo": {"objective": "grpo", "kl_weight": 0.2},
}
LOG_RATIO = {"omd": 0.3, "rest": 0.3, "grpo": 0.02}  # mean |ρ| at least: there was something to act on


def test_second_update_on_two_ranks_has_the_gradient_of_the_formula(
    make_model: MakeModel, tmp_path: Path
) -> None:
    """‖Δ‖ ≤ 1e-5 ‖g‖ over all weights; rows are shared, and squares are taken of whole sums."""
    directory = make_model(vocabulary=layouts.VOCABULARY)[0]
    cases = [
        {
            "kind": "measure_policy",
            "model": str(directory),
            "layout": LAYOUTS[layout],
            "output": str(tmp_path / f"{layout}-{name}"),
            "update": {**update, "inner_steps": 2},
            "lr": RATE,
        }
        for layout in LAYOUTS
        for name, update in UPDATES.items()
    ]
    layouts.run_ranks([dict(case) for case in cases], 2, tmp_path)
    groups = layouts.some_groups(layouts.some_rows())
    for name, update in UPDATES.items():
        settings = layouts.policy_settings({**update, "inner_steps": 2})
        model = make_model(vocabulary=layouts.VOCABULARY)[1].double()
        expected = literal_update(model, groups, settings, lr=RATE).gradients[1]
        for layout in LAYOUTS:
            where = tmp_path / f"{layout}-{name}"
            found = load_file(where / "measured.safetensors")
            off = [(found[f"gradient.{n}"] - g).norm() for n, g in expected.items()]
            size = torch.stack([g.norm() for g in expected.values()]).norm()
            assert float(torch.stack(off).norm()) <= 1e-5 * float(size), (layout, name)
            assert json.loads((where / "figures.json").read_text())["rho_mean"] > LOG_RATIO[name]
