"""Heat maps of long context: accuracy by length and depth, a panel for each model and task."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from k15.report.draw import Canvas, Point
from k15.report.style import STYLE

CELL_WIDTH, CELL_HEIGHT = 62.0, 26.0
LEFT, TOP, BOTTOM, GAP = 64.0, 42.0, 40.0, 34.0
PALEST = 0.05  # opacity of a cell at 0 %
DARK = 0.55  # from this accuracy on, text in a cell is white


def heat_map(report: Mapping[str, Any]) -> str:
    """Rows are tasks, columns models; in a panel length goes right and depth down, the start on top."""
    lengths, depths = report["lengths"], report["depths"]
    models = report["models"]
    num_tasks = max(len(model["tasks"]) for model in models)
    width, height = CELL_WIDTH * len(lengths), CELL_HEIGHT * depths
    canvas = Canvas(
        LEFT + len(models) * (width + GAP) - GAP,
        num_tasks * (TOP + height + BOTTOM),
        "Greedy accuracy by document length and depth of the fact asked for",
    )
    for column, model in enumerate(models):
        for row, task in enumerate(model["tasks"]):
            corner = (LEFT + column * (width + GAP), row * (TOP + height + BOTTOM) + TOP)
            _panel(canvas, corner, f"{model['name']} · {task['task']}", task["lengths"], depths)
            if column == 0:
                _depth_labels(canvas, corner, depths)
    return canvas.render()


def heat_page(report: Mapping[str, Any]) -> str:
    """A page of its own with the heat map and the usable lengths."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Long context</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body><main><h1>Long context</h1>{heat_section(report)}"
        "</main></body></html>\n"
    )


def heat_section(report: Mapping[str, Any]) -> str:
    """The heat map, and a table of accuracy by length."""
    return f'<div class="scroll">{heat_map(report)}</div>{_table(report)}'


def _panel(
    canvas: Canvas, corner: Point, title: str, lengths: Sequence[Mapping[str, Any]], depths: int
) -> None:
    left, top = corner
    canvas.text((left, top - 12), title, "panel")
    for column, figures in enumerate(lengths):
        x = left + column * CELL_WIDTH
        for depth, value in enumerate(figures["by_depth"]):
            if value is not None:
                hint = f"{title}, {figures['length']} tokens, {_stretch(depth, depths)}: {value:.1%}"
                _cell(canvas, (x, top + depth * CELL_HEIGHT), value, hint)
        below = top + depths * CELL_HEIGHT + 16
        canvas.text((x + CELL_WIDTH / 2, below), f"{figures['length']:,}", "tick", "middle")


def _cell(canvas: Canvas, at: Point, value: float, hint: str) -> None:
    canvas.add(
        "rect",
        title=hint,
        x=at[0] + 1,
        y=at[1] + 1,
        width=CELL_WIDTH - 2,
        height=CELL_HEIGHT - 2,
        rx=3,
        kind="bar c4",
        fill_opacity=f"{PALEST + (1 - PALEST) * value:.3f}",
    )
    middle = (at[0] + CELL_WIDTH / 2, at[1] + CELL_HEIGHT / 2 + 4)
    canvas.text(middle, f"{value:.0%}", "inside" if value >= DARK else "note", "middle")


def _depth_labels(canvas: Canvas, corner: Point, depths: int) -> None:
    for depth in range(depths):
        at = (corner[0] - 10, corner[1] + depth * CELL_HEIGHT + CELL_HEIGHT / 2 + 4)
        canvas.text(at, _stretch(depth, depths), "tick", "end")


def _stretch(depth: int, depths: int) -> str:
    return f"{depth / depths:.0%}–{(depth + 1) / depths:.0%}"


def _table(report: Mapping[str, Any]) -> str:
    head = ["model", "task", *(f"{length:,}" for length in report["lengths"]), "usable length"]
    rows = []
    for model in report["models"]:
        for task in model["tasks"]:
            shares = [f"{figures['accuracy']:.1%}" for figures in task["lengths"]]
            usable = f"{task['usable_tokens']:,}" if task["usable_tokens"] else "–"
            cells = [f"<b>{escape(model['name'])}</b>", escape(task["task"]), *shares, usable]
            rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    titles = "".join(f"<th>{title}</th>" for title in head)
    return f"<table><tr>{titles}</tr>{''.join(rows)}</table>"
