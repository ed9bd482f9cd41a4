"""Arguments of published calls: JSON has no tuples, sets and complex numbers, the published assertions do."""

import ast
from collections.abc import Collection, Sequence
from typing import Any

COLLECTIONS = (list, tuple, set, frozenset)
NUMBERS = (int, float, complex)


def published_arguments(assertions: str, function: str) -> list[tuple[Any, ...]]:
    """The arguments of every call of `function` in Python source, where all of them are literals.

    ValueError where the source is no Python.
    """
    try:
        tree = ast.parse(assertions)
    except SyntaxError as error:
        raise ValueError(f"no Python: {error}") from None
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == function
    ]
    found = (_literals(call.args) for call in calls)
    return [arguments for arguments in found if arguments is not None]


def numbers_as_text(inputs: Sequence[Sequence[Any]], published: Sequence[tuple[Any, ...]]) -> set[int]:
    """The places of numbers, in the published calls, in which text of `inputs` is the text of one.

    So complex numbers are written, in all inputs or in some.
    """
    if not published:
        return set()
    return {
        place
        for place in range(min(map(len, [*inputs, *published])))
        if all(isinstance(arguments[place], NUMBERS) or _is_number(arguments[place]) for arguments in inputs)
        and all(isinstance(arguments[place], NUMBERS) for arguments in published)
    }


def typed(
    arguments: Sequence[Any], published: Sequence[tuple[Any, ...]], as_text: Collection[int] = ()
) -> tuple[Any, ...]:
    """`arguments` as JSON gives them, each with the types that the published calls have in its place.

    A list becomes what all published collections at its depth are. Deeper than those it becomes what is
    around it, where that is nested in its like; otherwise it stays a list.
    """
    return tuple(
        _number(argument)
        if place in as_text and isinstance(argument, str)
        else _like(argument, [call[place] for call in published if place < len(call)], None, None)
        for place, argument in enumerate(arguments)
    )


def _literals(nodes: Sequence[ast.expr]) -> tuple[Any, ...] | None:
    try:
        return tuple(ast.literal_eval(node) for node in nodes)
    except ValueError:
        return None


def _like(value: Any, published: Sequence[Any], around: type | None, deeper: type | None) -> Any:
    """`around`: the collection that `value` is in; `deeper`: what lists become where nothing is published."""
    if isinstance(value, list):
        members = [member for item in published if isinstance(item, COLLECTIONS) for member in item]
        kinds = {type(item) for item in published} & set(COLLECTIONS)
        kind = kinds.pop() if len(kinds) == 1 else list if kinds else deeper or list
        deeper = kind if kind is around else deeper
        return kind(_like(member, members, kind, deeper) for member in value)
    if isinstance(value, dict):
        members = [member for item in published if isinstance(item, dict) for member in item.values()]
        return {key: _like(member, members, None, None) for key, member in value.items()}
    return value


def _number(text: str) -> float | complex:
    return complex(text) if "j" in text else float(text)


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, str) and isinstance(_number(value), NUMBERS)
    except ValueError:
        return False
