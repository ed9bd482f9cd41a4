"""The table of models, and what was found, for a terminal."""

from rich.table import Table
from rich.text import Text

from k15.report.facts import Measure, RunFacts
from k15.report.findings import tiles


def models_table(facts: RunFacts) -> Table:
    """One row per model, each figure with its 95 % interval."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("model")
    for name in ("sampled pass@1", "greedy pass@1", "mean tokens", "prompts"):
        table.add_column(name, justify="right")
    for model in facts.models:
        style = "bold cyan" if model.key == facts.record.final_key else ""
        cells = (
            _figure(model.sampled, 100, "%"),
            _figure(model.greedy, 100, "%"),
            _figure(model.tokens, 1, ""),
        )
        table.add_row(Text(model.name, style=style), *cells, str(model.n))
    return table


def summary_lines(facts: RunFacts) -> list[str]:
    """The head of the page as lines."""
    rows = [
        f"{tile.name}: {tile.value} {tile.unit} ({tile.more})".replace(" ()", "") for tile in tiles(facts)
    ]
    return [" ".join(row.split()) for row in rows]


def _figure(measure: Measure, scale: float, unit: str) -> Text:
    value = f"{scale * measure.value:.1f}{unit}"
    return Text.assemble(value, (f"  [{scale * measure.low:.1f}, {scale * measure.high:.1f}]", "dim"))
