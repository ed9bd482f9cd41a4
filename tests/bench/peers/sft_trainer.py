"""TRL's side of the training benchmark: sft_trainer.py FOLDER WORKLOAD ROWS_PER_STEP NUM_STEPS [padding_free]

SFTTrainer as it comes, but for what both sides share: fp32 on CPU, one thread, no recomputation, the rows in
the order given, the same optimizer.
"""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from transformers.utils import logging
from trl import SFTConfig, SFTTrainer

from tests.bench.peers.rounds import Turns
from tests.bench.peers.settings import BETAS, CLIP, EPSILON, RATE


class Taking(TrainerCallback):
    """Turns at the ends of steps, and each step's loss."""

    def __init__(self) -> None:
        self._turns = Turns()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Wait for leave."""
        self._turns.before_step()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Stop the clock."""
        self._turns.after_step()

    def on_log(self, *_: Any, logs: dict[str, Any] | None = None, **__: Any) -> None:
        """The loss comes with the log, after the step."""
        if logs and "loss" in logs:
            self._turns.note_loss(float(logs["loss"]))


def main(folder: Path, workload: str, rows_per_step: int, num_steps: int, padding_free: bool) -> None:
    """One epoch over the first rows."""
    torch.set_num_threads(1)
    lines = (folder / f"{workload}.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines[: rows_per_step * num_steps]]
    data = Dataset.from_list(
        [{"input_ids": row["token_ids"], "completion_mask": [int(x) for x in row["in_loss"]]} for row in rows]
    )
    settings = SFTConfig(
        output_dir=str(folder / "sft_trainer"),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=rows_per_step,
        max_steps=num_steps,
        train_sampling_strategy="sequential",
        completion_only_loss=True,
        padding_free=padding_free,
        max_length=None if padding_free else 1024,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        adam_epsilon=EPSILON,
        max_grad_norm=CLIP,
        weight_decay=0.0,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        seed=0,
    )
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32),
        args=settings,
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        callbacks=[Taking()],
    )
    trainer.train()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:] == ["padding_free"])
