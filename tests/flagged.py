"""Rows as their tokens in a file."""

import numpy as np

from k15.records import Sequence as Row
from k15.tasks.rows import Tokens


def flagged(row: Row) -> Tokens:
    """Of each token id × 2 + whether it is in the loss."""
    return np.asarray(row.token_ids, np.int32) * 2 + np.asarray(row.in_loss, np.int32)
