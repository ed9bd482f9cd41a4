"""Python values as JSON trees: what crosses between a solution and whoever judges it. Never pickle.

A tree is null, a boolean, a string, a finite float, a small integer, or {"tag": …, "of": …}. Objects of no
known kind travel as references: only the process that made one can look into it. Slots of the sandbox run
this file by itself, with their own Python: it needs nothing but the standard library.
"""

import datetime
import decimal
import fractions
import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

SMALL = 1 << 53
MAX_ITEMS = 1_000_000  # taken from an iterator


class Reference:
    """An object that stayed in the other process."""

    def __init__(self, number: int) -> None:
        self.number = number


def encode(value: Any, keep: Callable[[Any], int] | None = None) -> Any:
    """The tree of `value`; ValueError where it has none and `keep` (object → number) is not given."""
    if value is None or isinstance(value, bool | int | float | str):
        return _scalar(value)
    for tag, (types, take, _) in PLAIN.items():
        if isinstance(value, types):
            return _tag(tag, take(value))
    if isinstance(value, Reference):
        return _tag("reference", value.number)
    if isinstance(value, Iterator):
        return _tag(
            "iterator", [encode(item, keep) for item, _ in zip(value, range(MAX_ITEMS), strict=False)]
        )
    if isinstance(value, dict):
        return _tag("dict", [[encode(key, keep), encode(item, keep)] for key, item in value.items()])
    for tag, (types, _) in SEQUENCES.items():
        if isinstance(value, types):
            return _tag(tag, [encode(item, keep) for item in value])
    if keep is None:
        raise ValueError(
            f"a {type(value).__name__} is no value that a test can hold; use numbers, text, containers"
        )
    return _tag("reference", keep(value))


def decode(tree: Any, find: Callable[[int], Any] = Reference) -> Any:
    """The value of a tree; ValueError where it is none. `find` gives the object of a reference."""
    if not isinstance(tree, dict):
        if isinstance(tree, list):
            raise ValueError("a bare list is no value tree")
        return tree
    try:
        tag, of = tree["tag"], tree["of"]
        if tag in PLAIN:
            return PLAIN[tag][2](of)
        if tag in SEQUENCES:
            return SEQUENCES[tag][1]([decode(item, find) for item in of])
        if tag == "dict":
            return {decode(key, find): decode(item, find) for key, item in of}
        return find(of) if tag == "reference" else NUMBERS[tag](of)
    except (KeyError, TypeError, ArithmeticError) as error:
        raise ValueError(f"no value tree: {type(error).__name__}: {error}") from None


def _scalar(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        whole = value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)
        return str(value) if whole else _tag("surrogates", value.encode("utf-16", "surrogatepass").hex())
    if isinstance(value, int):
        return int(value) if -SMALL < value < SMALL else _tag("int", hex(value))
    return float(value) if math.isfinite(value) else _tag("float", str(float(value)))


def _tag(tag: str, of: Any) -> dict[str, Any]:
    return {"tag": tag, "of": of}


NUMBERS: dict[str, Callable[[str], Any]] = {"int": lambda of: int(of, 16), "float": float}
# Tag: what it stands for, value → JSON, JSON → value. A datetime is a date too: first come, first served.
PLAIN: dict[str, tuple[Any, Callable[[Any], Any], Callable[[Any], Any]]] = {
    "surrogates": (str, str, lambda of: bytes.fromhex(of).decode("utf-16", "surrogatepass")),
    "bytes": ((bytes, bytearray), lambda value: value.hex(), bytes.fromhex),
    "complex": (
        complex,
        lambda value: [repr(value.real), repr(value.imag)],
        lambda of: complex(*map(float, of)),
    ),
    "decimal": (decimal.Decimal, str, decimal.Decimal),
    "fraction": (fractions.Fraction, str, fractions.Fraction),
    "range": (range, lambda value: [value.start, value.stop, value.step], lambda of: range(*of)),
    "datetime": (datetime.datetime, lambda value: value.isoformat(), datetime.datetime.fromisoformat),
    "date": (datetime.date, lambda value: value.isoformat(), datetime.date.fromisoformat),
}
# Dictionary views behave as lists of what they show.
SEQUENCES: dict[str, tuple[Any, Callable[[list[Any]], Any]]] = {
    "list": ((list, type({}.keys()), type({}.values()), type({}.items())), list),
    "tuple": (tuple, tuple),
    "set": (set, set),
    "frozenset": (frozenset, frozenset),
    "deque": (deque, deque),
    "iterator": ((), iter),
}
