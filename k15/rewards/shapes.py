"""The shapes an answer can be written in: assignments, intervals and tuples, matrices."""

import re
from typing import NamedTuple

from k15.rewards.notation import inside, split_outside

RELATION = re.compile(r"\\le(?![a-z])|\\ge(?![a-z])|<|>")
MATRIX = re.compile(r"\\begin\{([pbvBV]?matrix|array)\}(?:\{[^{}]*\})?(.*)\\end\{\1\}", re.DOTALL)
ASSIGNED = re.compile(r"([A-Za-z](?:_\{?\w+\}?)?(?:\([a-z]\))?)\s*(?:=|\\in\b)\s*(.+)", re.DOTALL)


class Bracketed(NamedTuple):
    """A tuple or an interval."""

    opening: str
    closing: str
    entries: list[str]


def domain(text: str) -> str:
    """Without a leading `x \\in`, and an inequality in one letter as an interval."""
    assigned = ASSIGNED.fullmatch(text)
    if assigned and "\\in" in text[: assigned.start(2)]:
        return assigned[2]
    sides = [side.strip() for side in RELATION.split(text)]
    relations = RELATION.findall(text)
    if not 1 <= len(relations) <= 2 or not all(sides):
        return text
    if all(relation in (">", "\\ge") for relation in relations):
        sides.reverse()
        relations.reverse()
    elif not all(relation in ("<", "\\le") for relation in relations):
        return text
    place = 1 if len(relations) == 2 else int(not re.fullmatch("[A-Za-z]", sides[0]))
    if not re.fullmatch("[A-Za-z]", sides[place]):
        return text
    closed = [relation in ("\\le", "\\ge") for relation in relations]
    if len(relations) == 2:
        return f"{'[' if closed[0] else '('}{sides[0]}, {sides[2]}{']' if closed[1] else ')'}"
    if place == 1:  # 3 < x
        return f"{'[' if closed[0] else '('}{sides[0]}, \\infty)"
    return f"(-\\infty, {sides[1]}{']' if closed[0] else ')'}"


def bracketed(text: str) -> Bracketed | None:
    """Brackets and entries of a tuple or an interval, a row or a column of a matrix too."""
    if table := rows(text):
        entries = [entry for row in table for entry in row]
        return Bracketed("(", ")", entries) if 1 in (len(table), len(table[0])) and len(entries) > 1 else None
    for opening in "([":
        for closing in ")]":
            held = inside(text, opening, closing)
            if held is not None:
                entries = split_outside(held, re.compile(r"\s*[,;]\s*"))
                return Bracketed(opening, closing, entries) if len(entries) > 1 else None
    return None


def rows(text: str) -> list[list[str]] | None:
    """The entries of a matrix, row by row."""
    found = MATRIX.fullmatch(text)
    if not found:
        return None
    lines = [row for row in re.split(r"\\\\(?:\[[^\]]*\])?", found[2]) if row.strip()]
    return [[entry.strip() for entry in row.split("&")] for row in lines]
