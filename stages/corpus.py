"""Synthetic documents with facts to look up, as text for pretraining and long-context activation.

    python -m stages.corpus --job s3://bucket/jobs/…json

Parts: one folder with text.parquet for each of the recipe's.
"""

import logging

from k15.recipes.context import CorpusRecipe
from k15.stage import StageContext, run_stage
from k15.store.tables import text_to_table
from k15.tasks.long_context.corpus import texts

log = logging.getLogger("stages.corpus")


def body(ctx: StageContext, recipe: CorpusRecipe) -> None:
    """Write every part's documents, kind after kind."""
    ctx.licenses["k15.tasks.long_context"] = "Apache-2.0"
    for part, kinds in recipe.parts.items():
        documents = [
            text
            for number, kind in enumerate(kinds)
            for text in texts(kind, recipe.language, seed=f"{recipe.seed} {part} {number}")
        ]
        ctx.out.write_table(f"{part}/text.parquet", text_to_table(documents))
        ctx.summary[part] = float(len(documents))
        log.info("part=%s documents=%d", part, len(documents))


if __name__ == "__main__":
    run_stage(CorpusRecipe, body)
