"""The lineage of a run as a drawing: one row per artifact, lines from what was read to who read it."""

from collections.abc import Mapping
from dataclasses import dataclass

from k15.report.draw import Canvas
from k15.report.facts import RunFacts
from k15.report.palette import NEUTRAL, colours
from k15.store.graph import Graph, graph_of, short

LANE = 17.0
ROW = 31.0
LEFT = 12.0
WIDTH = 1040.0


@dataclass(frozen=True)
class Track:
    """The lane of a node's output, and the row of its last reader."""

    lane: int
    last: int


def lineage_chart(facts: RunFacts) -> str:
    """Producers above consumers. A node's line runs down to its last reader; the text says what was read."""
    graph = graph_of(facts.lineage)
    rows = {key: number for number, key in enumerate(graph.nodes)}
    tracks = lay_tracks(graph, rows)
    lanes = 1 + max(track.lane for track in tracks.values())
    canvas = Canvas(WIDTH, ROW * len(rows) + 8, "What each artifact was made from")
    classes = _classes(facts, graph)
    for number in range(0, len(rows), 2):
        canvas.add("rect", x=0, y=4 + number * ROW, width=WIDTH, height=ROW, rx=4, kind="stripe")
    for key, track in tracks.items():
        _draw_track(canvas, graph, rows, tracks, key, track, classes[key])
    names = {stage.key: stage for stage in facts.stages}
    text_left = LEFT + lanes * LANE + 14
    for key, node in graph.nodes.items():
        at = (_x(tracks[key].lane), _y(rows[key]))
        shape = "ring" if node.kind == "raw" else "dot"
        canvas.add("circle", title=node.digest, cx=at[0], cy=at[1], r=5.5, kind=f"{shape} {classes[key]}")
        canvas.text((text_left, at[1] + 4.5), node.name, "label strong")
        canvas.text((text_left + 92, at[1] + 4.5), "raw file" if node.kind == "raw" else node.kind, "note")
        canvas.text((text_left + 164, at[1] + 4.5), _reads(graph, key), "note")
        canvas.text((WIDTH - 210, at[1] + 4.5), short(node.digest), "mono", title=node.digest)
        stage = names.get(key)
        if stage:
            seconds = f"{stage.made_seconds:.1f} s" + (" · cached" if stage.cached else "")
            canvas.text((WIDTH - 10, at[1] + 4.5), seconds, "note", "end")
    return canvas.render()


def lay_tracks(graph: Graph, rows: Mapping[str, int]) -> dict[str, Track]:
    """A lane for every node: that of the input it ends, where it ends one, else the leftmost free one."""
    last = {
        key: max((rows[e.target] for e in graph.edges if e.source == key), default=rows[key]) for key in rows
    }
    tracks: dict[str, Track] = {}
    busy: dict[int, int] = {}  # lane → the row until which it is taken
    for key, row in rows.items():
        sources = [edge.source for edge in graph.edges if edge.target == key]
        ending = [tracks[source].lane for source in sources if last[source] == row]
        free = next(lane for lane in range(len(rows) + 1) if busy.get(lane, -1) < row)
        lane = max(ending) if ending else free
        tracks[key] = Track(lane, last[key])
        busy[lane] = max(last[key], row)
    return tracks


def _draw_track(
    canvas: Canvas,
    graph: Graph,
    rows: Mapping[str, int],
    tracks: Mapping[str, Track],
    key: str,
    track: Track,
    colour: str,
) -> None:
    x, top = _x(track.lane), _y(rows[key])
    readers = sorted({rows[edge.target] for edge in graph.edges if edge.source == key})
    if not readers:
        return
    by_row = {row: name for name, row in rows.items()}
    ends_in_lane = tracks[by_row[readers[-1]]].lane == track.lane
    bottom = _y(readers[-1]) - (0 if ends_in_lane else ROW * 0.55)
    canvas.line((x, top), (x, bottom), f"track {colour}")
    for row in readers:
        target = _x(tracks[by_row[row]].lane)
        if target == x:
            continue
        y = _y(row)
        start = y - ROW * 0.55
        bend = f"M{x:.1f} {start:.1f}C{x:.1f} {y:.1f} {x:.1f} {y:.1f} {target:.1f} {y:.1f}"
        canvas.add("path", d=bend, kind=f"track {colour}")


def _classes(facts: RunFacts, graph: Graph) -> dict[str, str]:
    by_stage = colours(facts)
    names = {stage.key: stage.name for stage in facts.stages if stage.key}
    return {key: by_stage.get(names.get(key, ""), NEUTRAL) for key in graph.nodes}


def _reads(graph: Graph, key: str) -> str:
    """What a node was made from, models first."""
    edges = sorted(
        (edge for edge in graph.edges if edge.target == key), key=lambda edge: edge.label != "model"
    )
    names = []
    for edge in edges:
        name = graph.nodes[edge.source].name
        names.append(name if edge.label in ("model", name) else f"{name}:{edge.label}")
    return f"← {', '.join(names)}" if names else ""


def _x(lane: int) -> float:
    return LEFT + lane * LANE


def _y(row: int) -> float:
    return 4 + ROW * (row + 0.5)
