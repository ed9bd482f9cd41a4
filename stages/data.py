"""Prompts, demonstrations and pretraining text.

    python -m stages.data --job s3://bucket/jobs/…json

Parts: train, heldout (prompts); pretrain (text); sft, longcot (demonstrations). No held-out one is elsewhere.
"""

import logging
from collections.abc import Sequence

from k15.recipes.data import DataRecipe
from k15.rewards.pool import ComparisonPool
from k15.stage import StageContext, run_stage
from k15.store.tables import Demonstration, demonstrations_to_table, prompts_to_table, text_to_table
from k15.tasks import code, families, jsonl, solutions
from k15.tasks.corpus import Corpus, Response, from_families, from_questions
from k15.tasks.problem import Problem
from stages.rewards import open_sandbox

log = logging.getLogger("stages.data")
QUESTIONS, HELDOUT_QUESTIONS = "questions", "heldout_questions"


def body(ctx: StageContext, recipe: DataRecipe) -> None:
    """Make the corpus and write its parts."""
    if HELDOUT_QUESTIONS in ctx.inputs and QUESTIONS not in ctx.inputs:
        raise ValueError("files.heldout_questions: needs files.questions too; give both")
    if QUESTIONS in ctx.inputs:
        heldout = read_questions(ctx, HELDOUT_QUESTIONS) if HELDOUT_QUESTIONS in ctx.inputs else None
        corpus = from_questions(read_questions(ctx, QUESTIONS), heldout, recipe)
    else:
        corpus = from_families(recipe)
        ctx.licenses |= families.licenses()
    write(ctx, corpus)


def read_questions(ctx: StageContext, role: str) -> list[Problem]:
    """The problems of a user's file; ValueError where the grader cannot accept a reference."""
    lines = ctx.inputs[role].read_bytes().decode("utf-8").split("\n")
    if code.holds_code(lines):
        return solved(ctx, list(code.drafts(lines, where=f"files.{role}", task=QUESTIONS)))
    rows = list(jsonl.rows(lines, where=f"files.{role}", task=QUESTIONS))
    with ComparisonPool(ctx.job.resources.cores) as pool:
        jsonl.check_references(rows, pool)
    return [row.problem for row in rows]


def solved(ctx: StageContext, drafts: Sequence[code.Draft]) -> list[Problem]:
    """Programming problems with what their published solutions answer."""
    with open_sandbox(ctx.job.resources, ctx.scratch) as sandbox:
        found = solutions.solve(drafts, sandbox)
    rows = solutions.rows(found)
    for one in found:
        for reason in one.left_out:
            log.info("left_out=%r reason=%r", one.draft.where, reason)
    ctx.summary["inputs_left_out"] = ctx.summary.get("inputs_left_out", 0) + sum(
        len(one.left_out) for one in found
    )
    return [row.problem for row in rows]


def write(ctx: StageContext, corpus: Corpus) -> None:
    """The parts, and what was counted."""
    ctx.out.write_table("train/prompts.parquet", prompts_to_table(corpus.train))
    ctx.out.write_table("heldout/prompts.parquet", prompts_to_table(corpus.heldout))
    ctx.out.write_table("pretrain/text.parquet", text_to_table(corpus.pretrain))
    for part, responses in (("sft", corpus.sft), ("longcot", corpus.longcot)):
        ctx.out.write_table(
            f"{part}/demonstrations.parquet", demonstrations_to_table(demonstrations(responses))
        )
    counts = {
        "train": len(corpus.train),
        "heldout": len(corpus.heldout),
        "pretrain": len(corpus.pretrain),
        "sft": len(corpus.sft),
        "longcot": len(corpus.longcot),
    }
    counts |= {f"dropped_{reason}": number for reason, number in corpus.dropped.items()}
    ctx.summary |= {name: float(number) for name, number in counts.items()}
    log.info(" ".join(f"{name}={number}" for name, number in counts.items()))


def demonstrations(responses: Sequence[Response]) -> list[Demonstration]:
    """Responses as rows."""
    return [Demonstration(r.problem.question, r.text, r.style, r.problem.task) for r in responses]


if __name__ == "__main__":
    run_stage(DataRecipe, body)
