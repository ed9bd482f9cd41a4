"""The answer a response states."""

MARK = "#### "
BOX = r"\boxed{"


def last_answer(text: str) -> str | None:
    """The last stated answer: the rest of the line after `#### `, or what the last \\boxed{…} holds.

    Of both, the one further on; None where neither is there or the box does not close.
    """
    marked, boxed = text.rfind(MARK.rstrip()), text.rfind(BOX)
    if marked < 0 and boxed < 0:
        return None
    if marked > boxed:
        stated = text[marked + len(MARK.rstrip()) :].split("\n", 1)[0].strip()
    else:
        stated = _braced(text[boxed + len(BOX) :]).strip()
    return stated or None


def _braced(text: str) -> str:
    """`text` up to the brace that closes the one before it; empty where none does."""
    depth = 1
    for position, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if not depth:
            return text[:position]
    return ""
