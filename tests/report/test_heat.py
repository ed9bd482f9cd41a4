"""The heat map shows every cell, and a run's page shows the heat map."""

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from typing import Any

from k15.report.heat import heat_map, heat_page
from k15.report.page import page
from k15.report.values import report_json
from tests.report.test_page import check_html


def context_report() -> dict[str, Any]:
    def figures(length: int, by_depth: list[float | None]) -> dict[str, Any]:
        known = [value for value in by_depth if value is not None]
        return {
            "length": length,
            "accuracy": sum(known) / len(known),
            "worst_depth": min(known),
            "by_depth": by_depth,
            "num_by_depth": [32 if value is not None else 0 for value in by_depth],
        }

    def model(name: str, far: float) -> dict[str, Any]:
        lengths = [figures(256, [1.0, 0.99, None]), figures(1024, [far, 0.5, 0.98])]
        tasks = [
            {"task": task, "usable_tokens": 256, "lengths": lengths} for task in ("retrieval", "tracking")
        ]
        return {"name": name, "tasks": tasks}

    return {
        "lengths": [256, 1024],
        "depths": 3,
        "usable_accuracy": 0.9,
        "models": [model("pretrained", 0.137), model("<activated>", 0.973)],
    }


def test_every_measured_cell_is_drawn_within_the_canvas() -> None:
    svg = ElementTree.fromstring(heat_map(context_report()))
    cells = svg.findall("rect")
    assert len(cells) == 2 * 2 * 5  # models × tasks × cells that hold a look-up
    _, _, width, height = (float(number) for number in svg.get("viewBox", "").split())
    for cell in cells:
        assert 0 <= float(cell.get("x", "")) <= width - float(cell.get("width", ""))
        assert 0 <= float(cell.get("y", "")) <= height - float(cell.get("height", ""))
    paler, darker = (
        float(next(c for c in cells if title in (c.findtext("title") or "")).get("fill-opacity", ""))
        for title in (
            "pretrained · retrieval, 1024 tokens, 0%–33%",
            "activated> · retrieval, 1024 tokens, 0%–33%",
        )
    )
    assert paler < 0.2 and darker > 0.9


def test_the_page_stands_alone() -> None:
    html = heat_page(context_report())
    check_html(html)
    assert "&lt;activated&gt;" in html and "<activated>" not in html


def test_a_run_with_the_evaluation_shows_it(run_facts) -> None:
    assert "Long context" not in page(run_facts)
    facts = replace(run_facts, contexts=(context_report(),))
    html = page(facts)
    check_html(html)
    assert "Long context" in re.findall(r"<h2>(.*?)</h2>", html)
    assert report_json(facts)["context"] == [context_report()]
