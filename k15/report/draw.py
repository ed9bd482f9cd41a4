"""SVG by hand: a canvas, linear scales with round ticks, and text that keeps out of its own way.

Colours are CSS classes and `currentColor`, so one drawing serves light and dark pages.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

Point = tuple[float, float]
Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Scale:
    """A linear map of [low, high] to [start, end]."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The position of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, about: int) -> list[float]:
        """Round values within the range, roughly `about` of them."""
        step = nice_step((self.high - self.low) / max(1, about))
        first = math.ceil(self.low / step - 1e-9)
        return [round(n * step, 10) for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


def nice_step(rough: float) -> float:
    """1, 2, 2.5 or 5 times a power of ten, at least `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * unit for unit in (1, 2, 2.5, 5, 10) if power * unit >= rough * 0.999)


def padded(values: Iterable[float], share: float = 0.08, floor: float | None = None) -> tuple[float, float]:
    """A range around values with room on both sides, never below `floor`."""
    given = list(values)
    low, high = min(given), max(given)
    room = (high - low) * share or abs(high) * share or 1.0
    return (low - room if floor is None else max(floor, low - room)), high + room


@dataclass
class Canvas:
    """An SVG under construction, scaled to the width of the page."""

    width: float
    height: float
    label: str  # what a screen reader says
    parts: list[str] = field(default_factory=list)

    def add(self, tag: str, text: str = "", title: str = "", **attributes: object) -> None:
        """One element; underscores in names become dashes, `kind` is the class."""
        given = {("class" if name == "kind" else name.replace("_", "-")): v for name, v in attributes.items()}
        shown = "".join(f' {name}="{escape(_number(value))}"' for name, value in given.items() if value != "")
        inner = (f"<title>{escape(title)}</title>" if title else "") + escape(text)
        self.parts.append(f"<{tag}{shown}>{inner}</{tag}>")

    def line(self, start: Point, end: Point, kind: str) -> None:
        """A straight line."""
        self.add("line", x1=start[0], y1=start[1], x2=end[0], y2=end[1], kind=kind)

    def path(self, points: Sequence[Point], kind: str) -> None:
        """A polyline."""
        text = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        self.add("path", d=text, kind=kind)

    def text(self, at: Point, text: str, kind: str, anchor: str = "start", title: str = "") -> None:
        """A line of text; `at` is on its baseline."""
        self.add("text", text, title, x=at[0], y=at[1], kind=kind, text_anchor=anchor)

    def render(self) -> str:
        """The whole <svg>."""
        size = f'viewBox="0 0 {_number(self.width)} {_number(self.height)}"'
        return f'<svg {size} role="img" aria-label="{escape(self.label)}">{"".join(self.parts)}</svg>'


def text_width(text: str, size: float = 12.0) -> float:
    """About how wide a text is drawn."""
    return len(text) * size * 0.56


def overlap(one: Box, other: Box) -> float:
    """The area two boxes share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)


def place_label(
    at: Point, width: float, height: float, taken: Sequence[Box], within: Box
) -> tuple[Point, Box]:
    """Where beside `at` a label covers least: its baseline's left end, and its box."""
    x, y = at
    gap = 11.0
    lefts = {"right": x + gap, "left": x - gap - width, "middle": x - width / 2}
    tops = {"above": y - gap - height, "below": y + gap, "level": y - height / 2}
    places = [
        ("right", "above"),
        ("right", "below"),
        ("left", "above"),
        ("left", "below"),
        ("right", "level"),
        ("left", "level"),
        ("middle", "above"),
        ("middle", "below"),
    ]
    boxes = [(lefts[a], tops[b], lefts[a] + width, tops[b] + height) for a, b in places]

    def cost(box: Box) -> float:
        outside = width * height - overlap(box, within)
        return outside * 4 + sum(overlap(box, other) for other in taken)

    best = min(boxes, key=cost)
    return (best[0], best[3] - height * 0.25), best


def moving_average(values: Sequence[float], window: int) -> list[float]:
    """Means over a centred window that shrinks at the ends."""
    half = window // 2
    spans = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [sum(span) / len(span) for span in spans]


def _number(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
