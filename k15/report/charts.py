"""The drawings of a run: accuracy against tokens, wall time per stage."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from k15.report.draw import (
    Box,
    Canvas,
    Point,
    Scale,
    padded,
    place_label,
    text_width,
)
from k15.report.facts import Model, RunFacts, Stage
from k15.report.palette import NEUTRAL, colours, of_model

WIDTH = 1040.0
LABEL = 13.0


def accuracy_chart(facts: RunFacts) -> str:
    """Sampled pass@1 against mean tokens with 95 % intervals; arrows lead from a model to its successor."""
    canvas = Canvas(620, 400, "Sampled pass@1 against mean response tokens, one point per model")
    frame: Box = (52, 30, 604, 352)
    shown = [*((m.tokens.low, m.sampled.low) for m in facts.models)]
    shown += [(m.tokens.high, m.sampled.high) for m in facts.models]
    x = Scale(*padded((tokens for tokens, _ in shown), 0.10, 0.0), frame[0], frame[2])
    y = Scale(*padded((passed for _, passed in shown), 0.12, 0.0), frame[3], frame[1])
    axes(canvas, frame, x, y, percent=True)
    canvas.text((frame[2], frame[3] + 34), "mean tokens of a response →", "axis", "end")
    canvas.text((0, 13), "↑ sampled pass@1", "axis")
    points = {model.name: (x(model.tokens.value), y(model.sampled.value)) for model in facts.models}
    for parent, child in successions(facts):
        arrow(canvas, points[parent], points[child])
    classes = of_model(facts)
    taken: list[Box] = []
    for model in facts.models:
        crosshair(canvas, model, x, y, classes[model.name])
        at = points[model.name]
        taken.append((at[0] - 8, at[1] - 8, at[0] + 8, at[1] + 8))
        taken.append((x(model.tokens.low), at[1] - 3, x(model.tokens.high), at[1] + 3))
        taken.append((at[0] - 3, y(model.sampled.high), at[0] + 3, y(model.sampled.low)))
    for model in facts.models:
        label = f"{model.name} {model.sampled.value:.1%}"
        width = text_width(label, LABEL)
        spot, box = place_label(points[model.name], width, 16, taken, frame)
        taken.append(box)
        canvas.text(spot, label, f"label halo {classes[model.name]}")
    return canvas.render()


def successions(facts: RunFacts) -> list[tuple[str, str]]:
    """(parent, child) of evaluated models: a child was made from its parent, directly or through others."""
    names = {model.key: model.name for model in facts.models if model.key}
    found = []
    for key, name in names.items():
        waiting = [key]
        while waiting:
            manifest = facts.lineage.get(waiting.pop())
            for ref in manifest.inputs.values() if manifest else ():
                if ref.key in names and ref.part == "model":
                    found.append((names[ref.key], name))
                elif ref.part == "model":
                    waiting.append(ref.key)
    return found


def crosshair(canvas: Canvas, model: Model, x: Scale, y: Scale, colour: str) -> None:
    """A model's point with its intervals both ways."""
    at = (x(model.tokens.value), y(model.sampled.value))
    canvas.line((x(model.tokens.low), at[1]), (x(model.tokens.high), at[1]), f"whisker {colour}")
    canvas.line((at[0], y(model.sampled.low)), (at[0], y(model.sampled.high)), f"whisker {colour}")
    title = (
        f"{model.name}: {model.sampled.value:.1%} sampled, {model.tokens.value:.1f} tokens, {model.n} prompts"
    )
    canvas.add("circle", title=title, cx=at[0], cy=at[1], r=6, kind=f"dot {colour}")


def arrow(canvas: Canvas, start: Point, end: Point) -> None:
    """A thin line from one point towards another, with a head, that touches neither."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = (dx * dx + dy * dy) ** 0.5
    if length < 30:
        return
    ux, uy = dx / length, dy / length
    head = (end[0] - 11 * ux, end[1] - 11 * uy)
    canvas.line((start[0] + 11 * ux, start[1] + 11 * uy), head, "arrow")
    left = (head[0] - 6 * ux + 3.2 * uy, head[1] - 6 * uy - 3.2 * ux)
    right = (head[0] - 6 * ux - 3.2 * uy, head[1] - 6 * uy + 3.2 * ux)
    canvas.path([left, head, right], "arrow")


def axes(canvas: Canvas, frame: Box, x: Scale, y: Scale, *, percent: bool = False, about: int = 5) -> None:
    """Horizontal grid lines with their values, ticks below, a base line."""
    for value in y.ticks(about):
        at = y(value)
        canvas.line((frame[0], at), (frame[2], at), "grid")
        canvas.text((frame[0] - 8, at + 4), f"{value:.0%}" if percent else f"{value:g}", "tick", "end")
    for value in x.ticks(about):
        canvas.text((x(value), frame[3] + 18), f"{value:g}", "tick", "middle")
    canvas.line((frame[0], frame[3]), (frame[2], frame[3]), "base")


def stages_chart(facts: RunFacts) -> str:
    """When each stage ran; where all were found done, when each could start as it was made."""
    done = [stage for stage in facts.stages if stage.manifest]
    spans = _spans(facts, done)
    row = 27.0
    canvas = Canvas(WIDTH, 30 + row * len(done), "Wall time per stage")
    x = Scale(0, max(end for _, end in spans.values()) or 1.0, 110, WIDTH - 90)
    bottom = row * len(done) + 4
    for value in x.ticks(8):
        canvas.line((x(value), 0), (x(value), bottom), "grid")
        canvas.text((x(value), bottom + 18), f"{value:g} s", "tick", "middle")
    classes = colours(facts)
    for number, stage in enumerate(done):
        begin, end = spans[stage.name]
        top = row * number + 4
        colour = classes.get(stage.name, NEUTRAL)
        wide = max(2.0, x(end) - x(begin))
        kind = f"bar {colour}" + (" cached" if stage.cached else "")
        canvas.text((0, top + 14), stage.name, "label")
        hint = f"{stage.name}: {stage.made_seconds:.1f} s" + (" (cached in this run)" if stage.cached else "")
        canvas.add("rect", title=hint, x=x(begin), y=top, width=wide, height=19, rx=2, kind=kind)
        text = f"{stage.made_seconds:.1f} s" + (" cached" if stage.cached else "")
        canvas.text((x(begin) + wide + 7, top + 14), text, "tick")
    return canvas.render()


def _spans(facts: RunFacts, stages: Sequence[Stage]) -> Mapping[str, tuple[float, float]]:
    """(begin, end) in seconds of each stage on the chart."""
    ran = [stage for stage in stages if not stage.cached]
    if not ran:
        return _as_made(stages)
    origin = min(_epoch(stage.started or facts.record.started) for stage in ran)
    spans = {}
    for stage in stages:
        begin = 0.0 if stage.cached else _epoch(stage.started or facts.record.started) - origin
        spans[stage.name] = (begin, begin + (stage.made_seconds if not stage.cached else 0.0))
    return spans


def _as_made(stages: Sequence[Stage]) -> dict[str, tuple[float, float]]:
    ends: dict[str, float] = {}
    spans = {}
    for stage in stages:
        inputs = stage.manifest.inputs.values() if stage.manifest else ()
        begin = max((ends.get(ref.key, 0.0) for ref in inputs), default=0.0)
        ends[stage.key] = begin + stage.made_seconds
        spans[stage.name] = (begin, ends[stage.key])
    return spans


def _epoch(iso: str) -> float:
    return datetime.fromisoformat(iso).timestamp()
