"""The program a response states.

Rules, on Markdown's fenced blocks (three or more backticks or tildes at the head of a line, closed by as many
of the same, or more, on a line of their own):

| the response has                                  | the program                                   |
|---------------------------------------------------|-----------------------------------------------|
| blocks labelled with the language (LABELS)        | the last of these                             |
| none of these, but blocks without a label         | the last of those                             |
| other blocks only, or none                        | none: text around blocks is never a program   |

A block that counts and is never closed states none: None, not the block before it. Labels ignore case, and
what follows a label's first word.
"""

import re

LABELS = {"python": ("python", "python3", "py"), "cpp": ("cpp", "c++", "cc", "cxx")}
FENCE = re.compile(r" {0,3}(`{3,}|~{3,})[ \t]*([^`\n]*)\n?")


def last_program(text: str, language: str) -> str | None:
    """The program by the table above; None where none is stated. Linear in the text's length."""
    labelled: list[str | None] = []
    plain: list[str | None] = []
    for label, body in _blocks(text):
        if label in LABELS.get(language, (language,)):
            labelled.append(body)
        elif not label:
            plain.append(body)
    return next((blocks[-1] for blocks in (labelled, plain) if blocks), None)


def fenced(program: str, language: str) -> str:
    """A response that states `program` and nothing else."""
    fence = "```"
    while fence in program:
        fence += "`"
    return f"{fence}{language}\n{program.rstrip()}\n{fence}"


def _blocks(text: str) -> list[tuple[str, str | None]]:
    """Label and body of each block in their order; no body where it is not closed."""
    blocks: list[tuple[str, str | None]] = []
    fence, label, body = "", "", list[str]()
    for line in text.splitlines(keepends=True):
        found = FENCE.fullmatch(line)
        if not fence:
            if found:
                fence, label, body = (
                    found[1],
                    found[2].split(maxsplit=1)[0].lower() if found[2].strip() else "",
                    [],
                )
        elif found and found[1].startswith(fence) and not found[2].strip():
            blocks.append((label, "".join(body)))
            fence = ""
        else:
            body.append(line)
    if fence:
        blocks.append((label, None))
    return blocks
