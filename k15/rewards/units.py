"""Units behind a number: known ones convert into each other, others must be the same words."""

import re
from fractions import Fraction
from typing import NamedTuple

# Dimension → unit → how many of the first unit it is.
KNOWN: dict[str, dict[str, str]] = {
    "length": {
        "m": "1", "meter": "1", "metre": "1", "mm": "0.001", "millimeter": "0.001", "cm": "0.01",
        "centimeter": "0.01", "km": "1000", "kilometer": "1000", "in": "0.0254", "inch": "0.0254",
        "ft": "0.3048", "foot": "0.3048", "feet": "0.3048", "yard": "0.9144", "yd": "0.9144",
        "mile": "1609.344", "mi": "1609.344",
    },
    "mass": {
        "g": "1", "gram": "1", "mg": "0.001", "kg": "1000", "kilogram": "1000",
        "pound": "453.59237", "lb": "453.59237", "ounce": "28.349523125", "oz": "28.349523125",
    },
    "time": {
        "s": "1", "sec": "1", "second": "1", "min": "60", "minute": "60", "h": "3600", "hr": "3600",
        "hour": "3600", "day": "86400", "week": "604800",
    },
    "years": {"year": "12", "yr": "12", "month": "1"},
    "money": {"dollar": "1", "usd": "1", "buck": "1", "cent": "0.01"},
    "angle": {"degree": "1", "deg": "1"},
    "volume": {"l": "1", "liter": "1", "litre": "1", "ml": "0.001", "milliliter": "0.001"},
    "speed": {"mph": "1"},
}  # fmt: skip
FACTORS = {
    unit: (dimension, Fraction(factor))
    for dimension, units in KNOWN.items()
    for unit, factor in units.items()
}
POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3, "squared": 2, "cubed": 3}
# A number or a closed formula, then words: one letter only behind a space, so that 5m stays a product.
WITH_UNIT = re.compile(
    r"(?P<value>.*[\d})!])"
    r"(?:(?P<degree>\^\{?\\circ\}?)|\s*(?P<known>[A-Za-z]{2,3})|\s+(?P<words>[A-Za-z][A-Za-z /.-]*?))"
    r"\s*(?:\^\{?(?P<power>[23])\}?)?"
)
MIN_WORD = 3  # letters of a unit that is not in the table: x and ab are variables


class Quantity(NamedTuple):
    """A value as written, and its unit: a dimension with a factor, or words with none."""

    value: str
    dimension: str = ""
    factor: Fraction = Fraction(1)


def quantity(text: str) -> Quantity:
    """`text` split into value and unit; all of it is value where no unit is recognised."""
    found = WITH_UNIT.fullmatch(text)
    if not found:
        return Quantity(text)
    if found["degree"]:
        return Quantity(found["value"], "angle")
    words = (found["known"] or found["words"]).casefold().strip(" .").split()
    power = int(found["power"] or 1)
    if len(words) > 1:
        power *= POWERS.get(words[0], 1) * POWERS.get(words[-1], 1)
        words = [word for word in words if word not in POWERS]
    name = " ".join(words)
    known = FACTORS.get(name) or FACTORS.get(name.removesuffix("s")) or FACTORS.get(name.removesuffix("es"))
    if known:
        dimension, factor = known
        return Quantity(found["value"], dimension if power == 1 else f"{dimension}^{power}", factor**power)
    if (found["known"] and len(name) < MIN_WORD) or not words or min(map(len, words[:1])) < MIN_WORD:
        return Quantity(text)
    return Quantity(found["value"], name.removesuffix("s"))
