"""What an engine samples, written down as it does: to hold against what a run says became of its tokens."""

import os
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

VARIABLE = "K15_TOKEN_LEDGER"  # a folder; a sampler keeps no ledger where it is not set


class TokenLedger:
    """A file of this process: a line `version seed place token` for each token, in `folder`.

    `place` counts the tokens of the response before it, those of earlier phases included. A line is written
    before anybody gets its token, and survives SIGKILL; only the file's last line may be torn.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = os.open(folder / uuid4().hex, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._lines: list[str] = []

    def note(self, version: int, seed: int, place: int, token_ids: Sequence[int]) -> None:
        """Take note of some tokens of a response."""
        self._lines += [f"{version} {seed} {place + n} {token}\n" for n, token in enumerate(token_ids)]

    def write(self) -> None:
        """Write what was noted."""
        os.write(self._file, "".join(self._lines).encode())
        self._lines.clear()
