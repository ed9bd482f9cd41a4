"""The drawings of RL rounds: what was learnt, how phases and updates went, where a round's time goes."""

from collections.abc import Sequence
from statistics import median

from k15.report.charts import WIDTH, axes
from k15.report.draw import Box, Canvas, Scale, moving_average, padded
from k15.report.facts import Phase, RunFacts, orchestration
from k15.report.palette import NEUTRAL, PHASES, colours

PANEL = 336.0


def rounds_charts(facts: RunFacts) -> list[str]:
    """Pass rate, tokens and reward by round; phases that follow each other share one axis."""
    rows = (
        ("pass_rate", "Pass rate", True),
        ("tokens_mean", "Mean tokens", False),
        ("reward", "Reward", False),
    )
    return [rounds_chart(facts, facts.phases, name, title, percent=percent) for name, title, percent in rows]


def rollout_charts(facts: RunFacts) -> list[str]:
    """How phases and updates went, where the rounds say so; what stayed at zero all along is left out."""
    rows = (
        ("tokens_p90", "Tokens, 90th percentile", False),
        ("share_partial", "Responses continued later", True),
        ("share_cut", "Responses cut by length", True),
        ("share_repeated", "Responses stopped as repeating", True),
        ("share_given_up", "Responses given up", True),
        ("share_unjudged", "Responses not judged", True),
        ("share_stale", "Trained tokens of older policies", True),
        ("rho_mean", "Log-ratio ρ, mean", False),
        ("gradient_norm", "Gradient norm", False),
        ("mismatch_outside", "Tokens outside the mismatch band", True),
        ("idle_sampler", "Sampler idle", True),
        ("idle_trainer", "Trainer idle", True),
    )
    charts = []
    for name, title, percent in rows:
        phases = [phase for phase in facts.phases if all(name in row for row in phase.rounds)]
        if any(row[name] for phase in phases for row in phase.rounds):
            charts.append(rounds_chart(facts, phases, name, title, percent=percent))
    return charts


def rounds_chart(facts: RunFacts, phases: Sequence[Phase], column: str, title: str, *, percent: bool) -> str:
    """One figure by round: each round faint, the moving average strong, the phase's name at its end."""
    canvas = Canvas(PANEL, 230, f"{title} by round")
    frame: Box = (44, 34, PANEL - 8, 200)
    starts = offsets(facts.phases)
    values = [row[column] for phase in phases for row in phase.rounds]
    last = max(starts[phase.name] + len(phase.rounds) for phase in phases)
    x = Scale(0, max(1, last - 1), frame[0] + 4, frame[2] - 4)
    y = Scale(*padded(values, 0.12, 0.0 if min(values) >= 0 else None), frame[3], frame[1])
    canvas.text((0, 14), title, "panel")
    axes(canvas, frame, x, y, percent=percent, about=4)
    canvas.text((frame[2], frame[3] + 18), "round", "tick", "end")
    classes = colours(facts)
    for phase in phases:
        numbers = [row[column] for row in phase.rounds]
        spots = [(x(starts[phase.name] + i), y(value)) for i, value in enumerate(numbers)]
        smooth = moving_average(numbers, max(1, len(numbers) // 6))
        line = [(spot[0], y(value)) for spot, value in zip(spots, smooth, strict=True)]
        colour = classes.get(phase.name, NEUTRAL)
        if starts[phase.name]:
            canvas.line((spots[0][0], frame[1]), (spots[0][0], frame[3]), "divider")
        for number, (spot, value) in enumerate(zip(spots, numbers, strict=True)):
            hint = f"{phase.name} round {number}: {value:.3f}"
            canvas.add("circle", title=hint, cx=spot[0], cy=spot[1], r=1.8, kind=f"faint {colour}")
        canvas.path(line, f"curve {colour}")
        middle = (spots[0][0] + spots[-1][0]) / 2
        canvas.text((middle, frame[1] - 4), phase.name, f"label halo {colour}", "middle")
    return canvas.render()


def offsets(phases: Sequence[Phase]) -> dict[str, int]:
    """The round of a common axis at which each phase starts: after the phase whose model it goes on from."""
    by_name = {phase.name: phase for phase in phases}

    def start(phase: Phase) -> int:
        before = by_name.get(phase.after)
        return start(before) + len(before.rounds) if before else 0

    return {phase.name: start(phase) for phase in phases}


def time_chart(facts: RunFacts) -> str:
    """One bar per RL stage: the median seconds of a round by what they went into."""
    height = 52.0
    canvas = Canvas(WIDTH, 26 + height * len(facts.phases), "Where the time of a round goes")
    walls = {phase.name: _median(phase, "wall_s") for phase in facts.phases}
    x = Scale(0, max(walls.values()), 110, WIDTH - 210)
    for row, phase in enumerate(facts.phases):
        top, at = 22 + row * height, x(0)
        canvas.text((0, top + 20), phase.name, f"label {colours(facts).get(phase.name, NEUTRAL)}")
        canvas.text((0, top + 35), f"{len(phase.rounds)} rounds", "tick")
        for name, column, colour in PHASES:
            seconds = _median(phase, column)
            wide = x(seconds) - x(0)
            hint = f"{name}: {seconds:.2f} s"
            canvas.add("rect", title=hint, x=at, y=top, width=wide, height=26, kind=f"bar {colour}")
            if wide > 70:
                canvas.text((at + 8, top + 17), f"{name} {seconds:.2f} s", "inside")
            at += wide
        idle = orchestration(phase.rounds)
        if idle:
            wide = max(2.0, x(idle.seconds) - x(0))
            canvas.add("rect", title="orchestration", x=at, y=top, width=wide, height=26, kind="bar p4")
            text = f"orchestration {idle.seconds:.2f} s · {idle.share:.1%}"
            canvas.text((at + wide + 10, top + 17), text, "label p4")
    return canvas.render()


def _median(phase: Phase, column: str) -> float:
    return median(row.get(column, 0.0) for row in phase.rounds)
