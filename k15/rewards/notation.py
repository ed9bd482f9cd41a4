"""One way of writing for each thing that LaTeX, Unicode and plain text write in many."""

import re

# In this order; what is behind the arrow is LaTeX that math-verify reads.
REWRITES: tuple[tuple[str, str], ...] = (
    (r"^\s*(?:\\\(|\\\[|\$\$|\$(?=.*\$\s*\.?\s*$))(.*?)(?:\\\)|\\\]|\$\$|\$)\s*\.?\s*$", r"\1"),  # $…$ → …
    (r"\\left\b|\\right\b|\\[bB]igg?[lr]?\b|\\displaystyle\b|\\limits\b|\\!", ""),
    (r"(?<!\\)\\[,;: ]|\\q?quad\b|~|\u00a0|\u2009|\u202f", " "),
    (r"\\[dtc]frac\b", r"\\frac"),
    (r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox|operatorname)\s*\{([^{}]*)\}", r" \1 "),
    (r"[−–—]", "-"), ("×", r"\\times "), ("÷", "/"), ("[·⋅∙]", r"\\cdot "), ("π", r"\\pi "),
    ("∞", r"\\infty "),
    ("≤", r"\\le "), ("≥", r"\\ge "), ("≠", r"\\ne "), ("∪", r"\\cup "), ("∩", r"\\cap "), ("∈", r"\\in "),
    ("∅|\\\\varnothing\\b", r"\\emptyset "), ("±", r"\\pm "), ("°", r"^\\circ"), ("²", "^2"), ("³", "^3"),
    (r"√\s*\(([^()]*)\)|√\s*(\w+)", r"\\sqrt{\1\2}"),
    ("½", r"\\frac{1}{2}"), ("¼", r"\\frac{1}{4}"), ("¾", r"\\frac{3}{4}"), ("⅓", r"\\frac{1}{3}"),
    ("⅔", r"\\frac{2}{3}"), ("\u2044", "/"),
    (r"\\le(?:q|slant|qslant)\b|<=", r"\\le "), (r"\\ge(?:q|slant|qslant)\b|>=", r"\\ge "),
    (r"\\lt\b", "<"), (r"\\gt\b", ">"), (r"\\neq\b|!=", r"\\ne "),
    (r"\\lbrace\b", r"\\{"), (r"\\rbrace\b", r"\\}"), (r"\\langle\b", "("), (r"\\rangle\b", ")"),
    (r"\*\*", "^"),
    (r"(?<![\\A-Za-z])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
    (r"(?<![\\A-Za-z])sqrt\s*(\d+)", r"\\sqrt{\1}"),
    (r"(?<![\\A-Za-z])(pi|infty)(?![A-Za-z])", r"\\\1 "),
    (r"(?<![\\A-Za-z])(?:infinity|oo)(?![A-Za-z])", r"\\infty "),
    (r"\\frac\s*(\d)\s*(\d)(?!\d)", r"\\frac{\1}{\2}"),
    (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
    (r"(\\frac\s*\{[^{}]*\})\s*(\d)", r"\1{\2}"),
    (r"\\frac\s*\{\s*([^{}]*?)\s*\}\s*\{\s*([^{}]*?)\s*\}", r"\\frac{\1}{\2}"),
    (r"\\sqrt\s*(\d)", r"\\sqrt{\1}"),
    (r"\{,\}", ","),
    (r"^([+-]?)\s*\\?\$\s*([+-]?[\d.,]*\d)[.,]?$", r"\1\2 dollars"),
    (r"^([+-]?)\s*[€£]\s*([\d.,]+)$", r"\1\2"),
    (r"\\\$|[$€£]", ""),
    (r"\\%|\\percent\b|\bper\s?cent\b|\bpercent\b", "%"),
    (r"\s+", " "),
    (r"^\s*\{([^{}]*)\}\s*$", r"\1"),
    (r"[\s.,;:]+$", ""),
)  # fmt: skip
COMPILED = tuple((re.compile(pattern, re.DOTALL), replacement) for pattern, replacement in REWRITES)
THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])|(?<![\d.])\d{1,3}(?: \d{3})+(?![\d ])")
OPENING, CLOSING = "([{", ")]}"


def rewritten(answer: str) -> str:
    """`answer` in the one way of writing; no number's separators are touched."""
    for pattern, replacement in COMPILED:
        answer = pattern.sub(replacement, answer)
    return answer.strip()


def without_separators(answer: str) -> str:
    """`answer` with the separators of thousands left out, by comma or by space."""
    return THOUSANDS.sub(lambda found: re.sub("[, ]", "", found.group()), answer)


def split_outside(text: str, separator: re.Pattern[str]) -> list[str]:
    """The parts of `text` between what `separator` matches outside all brackets, without blanks around."""
    parts, depth, start, position = [], 0, 0, 0
    while position < len(text):
        if depth == 0 and (found := separator.match(text, position)) and found.end() > position:
            parts.append(text[start:position].strip())
            start = position = found.end()
            continue
        depth += (text[position] in OPENING) - (text[position] in CLOSING)
        position += 1
    return [*parts, text[start:].strip()]


def inside(text: str, opening: str, closing: str) -> str | None:
    """What one pair of brackets around all of `text` holds; None where it closes before the end."""
    if not (text.startswith(opening) and text.endswith(closing)) or len(text) < len(opening) + len(closing):
        return None
    held, depth = text[len(opening) : len(text) - len(closing)], 0
    for character in held:
        depth += (character in OPENING) - (character in CLOSING)
        if depth < 0:
            return None
    return held if depth == 0 else None
