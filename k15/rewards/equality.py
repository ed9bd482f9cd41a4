"""Whether an answer equals a reference: its shape is compared here, formulas by whoever is asked for them.

The shapes, in the order they are looked for:

| reference                               | an equal answer                                                  |
|-----------------------------------------|------------------------------------------------------------------|
| a letter A to J, bare or in brackets    | the same letter, its option's text behind it or not              |
| several answers, a set                  | as many, each equal to another one, in any order                 |
| union; interval or tuple; inequality    | the same brackets and, in order, equal ends                      |
| matrix; a row or column also as a tuple | equal entries in the same places                                 |
| 204_5                                   | the same digits and base; without the base it is ambiguous       |
| percent                                 | the same share; a bare number is read by its size, or ambiguous  |
| number with a unit                      | the same quantity; a unit may be left out                        |
| rational number                         | the same number, exactly                                         |
| words                                   | the same words, whatever case and punctuation                    |
| x = formula                             | the right side alone, or an equation with the same solutions     |
| formula                                 | equal by math-verify, letters' case kept                         |
"""

import re
from collections.abc import Callable, Sequence
from itertools import pairwise

from k15.records import Status, Verdict
from k15.rewards.notation import inside, rewritten, split_outside, without_separators
from k15.rewards.numbers import exact, same_number
from k15.rewards.shapes import ASSIGNED, Bracketed, bracketed, domain, rows
from k15.rewards.units import quantity

Equal = Callable[[str, str], bool]  # of two formulas in LaTeX; Unreadable where the first is none

LETTER = re.compile(r"\(?([A-J])\)?")
CHOSEN = re.compile(r"\(?([A-Ja-j])\)?\s*(?:$|[.):]\s*)|\(([A-Ja-j])\)")
ANOTHER = re.compile(r"\([A-Ja-j]\)|^\W*(?:and|or)\b|^\W*[A-Ja-j]\W*$")
SEVERAL = re.compile(r"\s*[,;]\s*(?:and\b|or\b)?|\s+(?:and|or)\s+")
UNION = re.compile(r"\\cup\s*")
BASED = re.compile(r"([0-9A-Za-z]+)_\{?(\d+)\}?")
COMMAND = re.compile(r"\\[A-Za-z]+|\b(?:sin|cos|tan|cot|sec|csc|log|ln|exp|arcsin|arccos|arctan|max|min)\b")
WORD = re.compile(r"[A-Za-z]{3,}")
SMALL = 1  # a bare number up to it may be a share or a percentage


class Unreadable(ValueError):
    """A reference that cannot be compared with anything."""


class Ambiguous(ValueError):
    """An answer that is right in one reading and wrong in another."""


def compare(reference: str, answer: str, equal: Equal) -> Verdict:
    """Correct, wrong, or unjudged where the answer is ambiguous or the reference unreadable."""
    try:
        same = _same(rewritten(reference), rewritten(answer), equal)
    except Ambiguous as error:
        return Verdict(Status.UNJUDGED, f"ambiguous: {error}")
    except Unreadable as error:
        return Verdict(Status.UNJUDGED, f"the reference {reference[:200]!r} is not readable: {error}")
    return Verdict(Status.CORRECT if same else Status.WRONG)


def _same(reference: str, answer: str, equal: Equal) -> bool:
    if not reference:
        raise Unreadable("it is empty")
    if not answer:
        return False
    if choice := LETTER.fullmatch(reference):
        chosen = CHOSEN.match(answer)
        if chosen is None or ANOTHER.search(answer[chosen.end() :]):
            return False
        return str(chosen[1] or chosen[2]).upper() == choice[1]
    plain = without_separators(reference), without_separators(answer)
    if _same_list(*plain, equal):
        return True
    # 100,200 is a number in one reading and two answers in the other.
    return plain != (reference, answer) and "," in answer and _same_list(reference, answer, equal)


def _same_list(reference: str, answer: str, equal: Equal) -> bool:
    wanted, stated = _several(reference), _several(answer)
    if wanted is None and stated is None:
        return _same_one(reference, answer, equal)
    return _same_in_any_order(wanted or [reference], stated or [answer], equal)


def _several(text: str) -> list[str] | None:
    """The answers that `text` lists, each once; None where it is one answer."""
    in_set = inside(text, "\\{", "\\}")
    if in_set is not None:
        text = in_set.strip()
    items = [
        item
        for part in split_outside(ASSIGNED.sub(r"\2", text) if "," not in text else text, SEVERAL)
        for item in (
            [part.replace("\\pm", "+", 1), part.replace("\\pm", "-", 1)] if "\\pm" in part else [part]
        )
    ]
    if len(items) == 1 and in_set is None:
        return None
    return list(dict.fromkeys(items)) if text else []


def _same_in_any_order(wanted: Sequence[str], stated: Sequence[str], equal: Equal) -> bool:
    if len(wanted) != len(stated):
        return False
    left = list(stated)
    for item in wanted:
        match = next((other for other in left if _same_one(item, other, equal)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def _same_one(reference: str, answer: str, equal: Equal) -> bool:
    if not reference or not answer:
        if not reference:
            raise Unreadable("an entry is empty")
        return False
    for same_shape in (_same_intervals, _same_matrix, _same_base, _same_percent, _same_quantity, _same_words):
        verdict = same_shape(reference, answer, equal)
        if verdict is not None:
            return verdict
    return _same_formula(reference, answer, equal)


def _same_intervals(reference: str, answer: str, equal: Equal) -> bool | None:
    wanted = [bracketed(part) for part in split_outside(domain(reference), UNION)]
    if None in wanted:
        return None
    stated = [bracketed(part) for part in split_outside(domain(answer), UNION)]
    if None in stated or len(wanted) != len(stated):
        return False
    left = [part for part in stated if part]
    for part in wanted:
        assert part is not None
        match = next((other for other in left if _same_bracketed(part, other, equal)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def _same_bracketed(wanted: Bracketed, stated: Bracketed, equal: Equal) -> bool:
    if wanted[:2] != stated[:2] or len(wanted.entries) != len(stated.entries):
        return False
    pairs = zip(wanted.entries, stated.entries, strict=True)
    return all(_same_one(one, other, equal) for one, other in pairs)


def _same_matrix(reference: str, answer: str, equal: Equal) -> bool | None:
    wanted, stated = rows(reference), rows(answer)
    if wanted is None:
        return None
    if any(len(one) != len(other) for one, other in pairwise(wanted)):
        raise Unreadable("its rows have unlike lengths")
    if stated is None or [len(row) for row in wanted] != [len(row) for row in stated]:
        return False
    return all(
        _same_one(one, other, equal)
        for row, others in zip(wanted, stated, strict=True)
        for one, other in zip(row, others, strict=True)
    )


def _same_base(reference: str, answer: str, equal: Equal) -> bool | None:  # noqa: ARG001 (one signature)
    reference, answer = reference.replace(" ", ""), answer.replace(" ", "")
    wanted, stated = BASED.fullmatch(reference), BASED.fullmatch(answer)
    if not (wanted and wanted[1][0].isdigit()) and not (stated and stated[1][0].isdigit()):
        return None
    if wanted and stated:
        return wanted.groups() == stated.groups()
    written, bare = (wanted, answer) if wanted else (stated, reference)
    assert written
    if written[1] == bare:
        raise Ambiguous(f"{written.group()} and {bare}: only one states its base")
    return False


def _same_percent(reference: str, answer: str, equal: Equal) -> bool | None:
    wanted, stated = reference.endswith("%"), answer.endswith("%")
    if not wanted and not stated:
        return None
    one, other = reference.removesuffix("%").strip(), answer.removesuffix("%").strip()
    if wanted and stated:
        return _same_one(one, other, equal)
    share, bare = (one, other) if wanted else (other, one)
    size, number = exact(share), exact(bare)
    if size is None or number is None:
        return _same_one(one, other, equal)
    if number == size and abs(size) <= SMALL and size:
        raise Ambiguous(f"{share}% and {bare}: a share or a percentage")
    return number in (size, size / 100)


def _same_quantity(reference: str, answer: str, equal: Equal) -> bool | None:
    wanted, stated = quantity(reference), quantity(answer)
    if not wanted.dimension and not stated.dimension:
        return same_number(reference, answer)
    if not wanted.dimension or not stated.dimension or wanted[1:] == stated[1:]:
        return _same_one(wanted.value, stated.value, equal)
    if wanted.dimension != stated.dimension:
        return False
    one, other = exact(wanted.value), exact(stated.value)
    return one is not None and other is not None and one * wanted.factor == other * stated.factor


def _same_words(reference: str, answer: str, equal: Equal) -> bool | None:  # noqa: ARG001 (one signature)
    if not WORD.search(COMMAND.sub(" ", reference)):
        return None
    return _bare_words(reference) == _bare_words(answer)


def _bare_words(text: str) -> str:
    words = re.findall(r"[^\W_]+", COMMAND.sub(" ", text).casefold())
    return "".join(word for word in words if word not in ("a", "an", "the") or len(words) == 1)


def _same_formula(reference: str, answer: str, equal: Equal) -> bool:
    wanted, stated = ASSIGNED.fullmatch(reference), ASSIGNED.fullmatch(answer)
    if "=" not in reference:
        answer = answer.rpartition("=")[2].strip()  # of 1 + 1 = 2 the end is what is stated
    elif wanted and "=" not in answer:
        reference = wanted[2]
    elif wanted and stated and wanted[1] == stated[1]:
        reference, answer = wanted[2], stated[2]
    same = same_number(reference, answer)
    return equal(reference, answer) and _same_case(reference, answer) if same is None else same


def _same_case(first: str, second: str) -> bool:
    """Not where letters differ in nothing but case: math-verify reads A as a."""
    one, other = (set(re.findall("[A-Za-z]", COMMAND.sub(" ", text))) for text in (first, second))
    return one == other or {letter.lower() for letter in one} != {letter.lower() for letter in other}
