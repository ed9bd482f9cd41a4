"""A tiny model for the stages' bodies."""

from pathlib import Path

import pytest

from tests.stages.local import LocalInput, save_model


@pytest.fixture
def model(tmp_path: Path) -> LocalInput:
    """A tiny Qwen3 with a tokenizer of its own."""
    return LocalInput(save_model(tmp_path / "model"))
