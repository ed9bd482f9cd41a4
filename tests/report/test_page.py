"""The page stands alone, is well formed, and shows every number it should."""

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from k15.report.charts import accuracy_chart, stages_chart
from k15.report.draw import Scale, moving_average, nice_step, overlap, padded, place_label
from k15.report.lineage import lay_tracks, lineage_chart
from k15.report.page import page
from k15.report.publish import publish
from k15.report.rounds import offsets, rollout_charts, rounds_charts, time_chart
from k15.store.graph import graph_of

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Balanced(HTMLParser):
    """Fails where a tag is closed that is not open; collects what the page loads."""

    def __init__(self):
        super().__init__()
        self.open, self.loads = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.loads += [value for name, value in attrs if name in ("src", "srcset", "data") and tag != "path"]
        self.loads += [tag] if tag in ("link", "script", "iframe", "image", "use") else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def check_html(html):
    parser = Balanced()
    parser.feed(html)
    assert parser.open == [] and parser.loads == []
    assert "url(" not in html and "@import" not in html


def test_the_page_is_well_formed_and_loads_nothing(run_facts):
    html = page(run_facts)
    check_html(html)
    for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
        ElementTree.fromstring(svg)
    assert len(html) < 300_000


def test_every_section_and_model_is_there(run_facts):
    html = page(run_facts)
    titles = re.findall(r"<h2>(.*?)</h2>", html)
    assert titles == [
        "Accuracy against tokens",
        "RL, round by round",
        "Rollouts and updates",
        "Where the time of a round goes",
        "Before and after",
        "Lineage",
        "Wall time per stage",
        "Audit it",
    ]
    for model in run_facts.models:
        assert f"{model.sampled.value:.1%}" in html and f"<b>{model.name}</b>" in html
    assert f"k15 verify {run_facts.model_uri}" in html


def test_text_from_models_is_escaped(run_facts):
    row = dict(run_facts.trajectories[0])
    row["responses"] = {"rl": {"response": "<script>alert(1)</script>", "status": "wrong", "tokens": 3}}
    html = page(replace(run_facts, trajectories=(row,)))
    check_html(html)
    assert "&lt;script&gt;" in html


def test_a_run_without_models_or_rounds_still_has_a_page(run_facts):
    bare = replace(run_facts, models=(), pairs=(), phases=(), trajectories=(), lineage={}, model_uri="")
    check_html(page(bare))


def test_a_cached_run_shows_how_long_stages_took_when_made(run_facts):
    cached = tuple(replace(stage, cached=True, seconds=0.01) for stage in run_facts.stages)
    html = page(replace(run_facts, stages=cached))
    assert "Every stage was found done" in html and "11 of them cached" in html
    assert "148.2 s cached" in stages_chart(replace(run_facts, stages=cached))


@pytest.mark.parametrize("draw", [accuracy_chart, time_chart, stages_chart, lineage_chart])
def test_drawings_keep_within_their_canvas(run_facts, draw):
    svg = ElementTree.fromstring(draw(run_facts))
    _, _, width, height = (float(number) for number in svg.get("viewBox").split())
    for element in svg:
        for name, limit in (("x", width), ("cx", width), ("x2", width), ("y", height), ("cy", height)):
            if element.get(name):
                assert -1 <= float(element.get(name)) <= limit + 1, ElementTree.tostring(element)


def test_phases_that_follow_each_other_share_an_axis(run_facts):
    assert offsets(run_facts.phases) == {"rl": 0, "short": 12}
    assert len(rounds_charts(run_facts)) == 3
    assert len(rollout_charts(run_facts)) == 4  # what was never above zero, or not measured, is left out


def test_no_two_lines_of_the_lineage_share_a_lane_at_the_same_row(run_facts):
    graph = graph_of(run_facts.lineage)
    rows = {key: number for number, key in enumerate(graph.nodes)}
    tracks = lay_tracks(graph, rows)
    spans = [(track.lane, rows[key], track.last) for key, track in tracks.items()]
    for index, (lane, first, last) in enumerate(spans):
        for other_lane, other_first, other_last in spans[index + 1 :]:
            if lane == other_lane:
                assert other_first >= last or other_last <= first


@pytest.mark.parametrize(("rough", "step"), [(0.7, 1), (1.2, 2), (2.1, 2.5), (3, 5), (7, 10), (0.03, 0.05)])
def test_ticks_are_round(rough, step):
    assert nice_step(rough) == pytest.approx(step)


def test_scales_map_ends_to_ends_and_tick_within():
    scale = Scale(0.28, 0.61, 300, 0)
    assert (scale(0.28), scale(0.61)) == (300, 0)
    assert scale.ticks(4) == [0.3, 0.4, 0.5, 0.6]
    assert padded([2.0, 2.0]) == (1.84, 2.16)
    assert padded([0.01, 0.5], floor=0.0)[0] == 0.0


def test_a_label_goes_where_nothing_is():
    within = (0.0, 0.0, 200.0, 200.0)
    right = (100.0, 0.0, 200.0, 200.0)
    _, box = place_label((100, 100), 60, 16, [right], within)
    assert overlap(box, right) == 0


def test_a_moving_average_keeps_length_and_level():
    assert moving_average([3.0, 3.0, 3.0], 3) == [3.0, 3.0, 3.0]
    assert moving_average([0.0, 3.0, 6.0], 3) == [1.5, 3.0, 4.5]


def test_publish_writes_here_and_to_the_store(store, run_facts, tmp_path):
    files = publish(store, run_facts, {"models": []}, "<html></html>", tmp_path / "out", upload=True)
    assert (tmp_path / "out" / "report.html").read_text() == "<html></html>"
    uploaded = {info.path for info in store.objects.list(f"runs/{run_facts.record.run_id}/")}
    assert {path.rsplit("/", 1)[1] for path in uploaded} == {"report.html", "report.json", "lineage.mmd"}
    assert files["report.json"] == str(tmp_path / "out" / "report.json")
