"""The curves of objectives by round: every seed faint, their mean strong; and the first one's lead."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from k15.algo.intervals import runs_interval
from k15.report.charts import axes
from k15.report.draw import Box, Canvas, Scale, moving_average, padded
from k15.report.style import STYLE

Curves = Mapping[str, Sequence[float]]  # by objective, a number for every round
FRAME: Box = (52, 34, 500, 300)
WINDOW = 3  # rounds of the moving average drawn


def curves_page(seeds: Sequence[Curves], names: Sequence[str]) -> str:
    """A self-contained HTML page: pass rate by round, and the lead over each other, paired by seed."""
    drawn = rates_chart(seeds, names)
    drawn += "".join(lead_chart(seeds, names[0], other) for other in names[1:])
    note = (
        f"{len(seeds)} seeds, each faint, means strong; moving average over {WINDOW} rounds. Bands: 95 % "
        "interval (Student's) of the paired difference, round by round, from two seeds on."
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Objectives by round</title>'
        f"<style>{STYLE}svg .band {{ fill: currentColor; opacity: .16; }}</style></head><body><main>"
        f'<h1>Objectives at equal samples</h1><p>{note}</p><div class="three">{drawn}</div>'
        "</main></body></html>\n"
    )


def rates_chart(seeds: Sequence[Curves], names: Sequence[str]) -> str:
    """Pass rate of the prompts trained on, before each round's update."""
    canvas = Canvas(FRAME[2] + 12, FRAME[3] + 36, "Pass rate by round")
    smooth = {name: [moving_average(seed[name], WINDOW) for seed in seeds] for name in names}
    values = [value for runs in smooth.values() for run in runs for value in run]
    x, y = scales(values, max(len(run) for runs in smooth.values() for run in runs))
    canvas.text((0, 14), "Pass rate by round", "panel")
    axes(canvas, FRAME, x, y, percent=True)
    for number, (name, runs) in enumerate(smooth.items()):
        colour = f"c{2 + 2 * number}"
        for run in runs:
            canvas.path([(x(i), y(value)) for i, value in enumerate(run)], f"track faint {colour}")
        mean = [fmean(values) for values in zip(*runs, strict=False)]
        canvas.path([(x(i), y(value)) for i, value in enumerate(mean)], f"curve {colour}")
        canvas.text((FRAME[0] + 8 + 60 * number, FRAME[1] + 4), name, f"label halo {colour}")
    return canvas.render()


def lead_chart(seeds: Sequence[Curves], first: str, other: str) -> str:
    """Pass rate of `first` minus that of `other`, of the same seed and round."""
    title = f"{first} − {other}, points"
    canvas = Canvas(FRAME[2] + 12, FRAME[3] + 36, title)
    runs = [
        moving_average([100 * (a - b) for a, b in zip(seed[first], seed[other], strict=False)], WINDOW)
        for seed in seeds
    ]
    columns = list(zip(*runs, strict=False))
    found = [runs_interval(column) for column in columns] if len(runs) > 1 else []
    ends = [end for interval in found for end in (interval.low, interval.high)]
    x, y = scales([0.0, *ends, *(value for run in runs for value in run)], len(columns))
    canvas.text((0, 14), title, "panel")
    axes(canvas, FRAME, x, y)
    canvas.line((FRAME[0], y(0)), (FRAME[2], y(0)), "base")
    if found:
        edge = [(x(i), y(interval.high)) for i, interval in enumerate(found)]
        edge += [(x(i), y(interval.low)) for i, interval in reversed(list(enumerate(found)))]
        canvas.path(edge, "band c4")
    for run in runs:
        canvas.path([(x(i), y(value)) for i, value in enumerate(run)], "track faint c4")
    canvas.path([(x(i), y(fmean(column))) for i, column in enumerate(columns)], "curve c4")
    return canvas.render()


def scales(values: Sequence[float], num_rounds: int) -> tuple[Scale, Scale]:
    """Rounds across, values up."""
    across = Scale(0, max(1, num_rounds - 1), FRAME[0] + 4, FRAME[2] - 4)
    return across, Scale(*padded(values, 0.08), FRAME[3], FRAME[1])
