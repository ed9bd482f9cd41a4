"""The digest of a stage's code: what changes it and what does not."""

from pathlib import Path

import pytest

from k15.recipes import KINDS
from k15.store.code import closure, code_digest

ROOT = Path(__file__).parents[2]

FILES = {
    "stages/sft.py": "from k15.algo import loss\nfrom k15.recipes.sft import Sft\nimport k15.stage\n",
    "k15/algo/__init__.py": "",
    "k15/algo/loss.py": "def loss(x):\n    return inner(x)\nfrom k15.algo.inner import inner\n",
    "k15/algo/inner.py": '"""Docs."""\ndef inner(x):\n    """Docs."""\n    return x  # as it is\n',
    "k15/algo/unrelated.py": "x = 1\n",
    "k15/recipes/sft.py": "class Sft: ...\n",
    "k15/stage.py": "y = 1\n",
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small checkout."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_closure_is_what_is_imported(checkout: Path) -> None:
    found = closure(checkout, "stages.sft")
    assert sorted(found) == ["k15.algo", "k15.algo.inner", "k15.algo.loss", "stages.sft"]


def test_what_a_stage_starts_by_name_is_its_code_too(checkout: Path) -> None:
    (checkout / "stages" / "rl.py").write_text('start("stages.sft")\nsay("stages.sft is up")\n')
    assert {"stages.sft", "k15.algo.loss"} <= set(closure(checkout, "stages.rl"))


def test_the_policy_update_is_code_of_rl() -> None:
    assert {"k15.algo.loss", "k15.engines.megatron.policy", "k15.engines.vllm.engine"} <= set(
        closure(ROOT, "stages.rl")
    )


@pytest.mark.parametrize(
    ("name", "text", "changes"),
    [
        ("k15/algo/inner.py", "def inner(x):\n    return x + 0\n", True),
        ("k15/algo/inner.py", '"""Other docs."""\n\n\ndef inner(x):\n    return (x)\n', False),
        ("k15/algo/unrelated.py", "x = 2\n", False),
        ("k15/recipes/sft.py", "class Sft:\n    lr = 1\n", False),
        ("k15/stage.py", "y = 2\n", False),
        ("stages/sft.py", FILES["stages/sft.py"] + "z = 1\n", True),
    ],
)
def test_what_counts(checkout: Path, name: str, text: str, changes: bool) -> None:
    before = code_digest(checkout, "sft")
    (checkout / name).write_text(text)
    assert (code_digest(checkout, "sft") != before) is changes


def test_a_kind_without_a_stage_has_no_digest(checkout: Path) -> None:
    assert code_digest(checkout, "rl") == ""


def test_every_kind_has_a_digest_here() -> None:
    digests = {kind: code_digest(ROOT, kind) for kind in KINDS}
    assert all(digest.startswith("sha256:") for digest in digests.values()), digests
