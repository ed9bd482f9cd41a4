"""Numbers as they are written, exactly: no floating point decides whether two answers are equal."""

import re
from fractions import Fraction

MAX_EXPONENT = 1000  # of ten; a larger one is left to whoever bounds time and memory
DIGITS = r"(?:\d+(?:\.\d*)?|\.\d+)"
DECIMAL = re.compile(rf"[+-]?{DIGITS}")
REPEATING = re.compile(r"([+-]?)(\d*)\.(\d*)\\(?:overline|bar|dot)\{?(\d+)\}?")
SCIENTIFIC = re.compile(rf"([+-]?{DIGITS})(?:[eE]|(?:\\times|\\cdot|\*|x)10\^)\{{?([+-]?\d+)\}}?")
POWER_OF_TEN = re.compile(r"([+-]?)10\^\{?([+-]?\d+)\}?")
QUOTIENT = re.compile(rf"([+-]?)(?:\\frac\{{([+-]?{DIGITS})\}}\{{({DIGITS})\}}|({DIGITS})/({DIGITS}))")
MIXED = re.compile(r"([+-]?)(\d+)(?:\\frac\{(\d+)\}\{(\d+)\}| (\d+)/(\d+))")
ROUNDED_PLACES = 6  # a decimal with as many equals the fraction that it is rounded from


def exact(text: str) -> Fraction | None:
    """The rational number that `text` writes, if it is nothing else.

    Decimals, repeating decimals, scientific notation, quotients of decimals, mixed numbers.
    """
    spaced, text = text.strip(), _without_spaces(text)
    if DECIMAL.fullmatch(text):
        return Fraction(text)
    if found := MIXED.fullmatch(spaced):
        sign, whole, *parts = found.groups()
        top, bottom = (part for part in parts if part is not None)
        return _signed(sign, int(whole) + Fraction(int(top), int(bottom))) if int(bottom) else None
    if found := QUOTIENT.fullmatch(text):
        sign, *parts = found.groups()
        top, bottom = (Fraction(part) for part in parts if part is not None)
        return _signed(sign, top / bottom) if bottom else None
    if found := REPEATING.fullmatch(text):
        sign, whole, fixed, period = found.groups()
        tail = Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(fixed))
        return _signed(sign, Fraction(f"{whole or 0}.{fixed or 0}") + tail)
    if found := SCIENTIFIC.fullmatch(text):
        return _scaled(Fraction(found.group(1)), int(found.group(2)))
    if found := POWER_OF_TEN.fullmatch(text):
        return _scaled(_signed(found.group(1), Fraction(1)), int(found.group(2)))
    return None


def same_number(first: str, second: str) -> bool | None:
    """Whether both are the same number; None where one is no rational number.

    A decimal of 6 places or more also equals a fraction without end that rounds to it.
    """
    one, other = exact(first), exact(second)
    if one is None or other is None:
        return None
    return one == other or _rounds_to(one, second) or _rounds_to(other, first)


def _rounds_to(value: Fraction, written: str) -> bool:
    written = _without_spaces(written)
    places = len(written.partition(".")[2])
    if places < ROUNDED_PLACES or not DECIMAL.fullmatch(written) or _ends(value):
        return False
    scale = 10**places
    return bool(round(value * scale) == Fraction(written) * scale)


def _ends(value: Fraction) -> bool:
    """Whether its decimals end."""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1


def _without_spaces(text: str) -> str:
    """Without those that do not part two numbers."""
    return re.sub(r"(?<![\d.])\s+|\s+(?![\d.])", "", text.strip())


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign == "-" else value


def _scaled(value: Fraction, exponent: int) -> Fraction | None:
    return value * Fraction(10) ** exponent if abs(exponent) <= MAX_EXPONENT else None
