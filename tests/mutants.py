"""Mutants of Python programs: one small change each, by a fixed list of operators."""

import ast
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

NEGATED = {
    ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
SHIFTED = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}
ARITHMETIC = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult,
}  # fmt: skip
BOOLEAN = {ast.And: ast.Or, ast.Or: ast.And}
UNCHANGED = {"annotation", "returns", "type_comment"}  # fields that change nothing that runs


class Mutant(NamedTuple):
    """A changed program, and what was changed."""

    operator: str
    line: int
    change: str
    program: str


def comparison(node: ast.AST) -> Iterator[ast.AST]:
    """Each relation turned into its opposite: < into >=, == into !=, in into not in, is into is not."""
    if isinstance(node, ast.Compare):
        yield from _relations(node, NEGATED)


def arithmetic(node: ast.AST) -> Iterator[ast.AST]:
    """+ into -, - into +, * into +, and /, //, %, ** into *; in assignments such as += too."""
    if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        yield ast.BinOp(node.left, ARITHMETIC[type(node.op)](), node.right)
    if isinstance(node, ast.AugAssign) and type(node.op) in ARITHMETIC:
        yield ast.AugAssign(node.target, ARITHMETIC[type(node.op)](), node.value)


def boolean(node: ast.AST) -> Iterator[ast.AST]:
    """`and` into `or` and back, `not x` into `x`, True into False and back."""
    if isinstance(node, ast.BoolOp):
        yield ast.BoolOp(BOOLEAN[type(node.op)](), node.values)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)


def off_by_one(node: ast.AST) -> Iterator[ast.AST]:
    """< into <= and back, > into >= and back; an index, a slice's bound, an argument of range: one more."""
    if isinstance(node, ast.Compare):
        yield from _relations(node, SHIFTED)
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice):
        part = node.slice
        if part.lower:
            yield ast.Subscript(node.value, ast.Slice(_more(part.lower), part.upper, part.step), node.ctx)
        if part.upper:
            yield ast.Subscript(node.value, ast.Slice(part.lower, _more(part.upper), part.step), node.ctx)
    elif isinstance(node, ast.Subscript):
        yield ast.Subscript(node.value, _more(node.slice), node.ctx)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
        for place, argument in enumerate(node.args):
            arguments = [*node.args[:place], _more(argument), *node.args[place + 1 :]]
            yield ast.Call(node.func, arguments, node.keywords)


def constant(node: ast.AST) -> Iterator[ast.AST]:
    """A number into one more, text into the same with an x behind it; documentation stays."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield ast.Constant(node.value + "x")
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield ast.Constant(node.value + 1)


def swapped_arguments(node: ast.AST) -> Iterator[ast.AST]:
    """Two neighbouring arguments of a call, exchanged."""
    if isinstance(node, ast.Call):
        for place in range(len(node.args) - 1):
            one, other = node.args[place : place + 2]
            yield ast.Call(
                node.func, [*node.args[:place], other, one, *node.args[place + 2 :]], node.keywords
            )


OPERATORS: dict[str, Callable[[ast.AST], Iterator[ast.AST]]] = {
    operator.__name__.replace("_", " "): operator
    for operator in (comparison, arithmetic, boolean, off_by_one, constant, swapped_arguments)
}


def mutants(program: str, *, after_line: int = 0) -> Iterator[Mutant]:
    """Every mutant of what stands below `after_line`, each text once, none that reads as the original."""
    tree = ast.parse(program)
    seen = {ast.unparse(tree)}
    for put, node in _places(tree):
        line = getattr(node, "lineno", after_line + 1)
        if line <= after_line:
            continue
        for name, operator in OPERATORS.items():
            for changed in operator(node):
                put(changed)
                text = ast.unparse(tree)
                put(node)
                if text not in seen:
                    seen.add(text)
                    yield Mutant(name, line, f"{_shown(node)}  →  {_shown(changed)}", text)


def _places(parent: ast.AST) -> Iterator[tuple[Callable[[ast.AST], None], ast.AST]]:
    """Every node below that may be changed, with the function that puts another in its place."""
    for field, value in ast.iter_fields(parent):
        if field in UNCHANGED or (isinstance(parent, ast.Expr) and isinstance(value, ast.Constant)):
            continue
        items = value if isinstance(value, list) else [value]
        for place, item in enumerate(items):
            if isinstance(item, ast.AST):
                yield partial(_put, parent, field, place if isinstance(value, list) else None), item
                yield from _places(item)


def _put(parent: ast.AST, field: str, place: int | None, new: ast.AST) -> None:
    if place is None:
        setattr(parent, field, new)
    else:
        getattr(parent, field)[place] = new


def _relations(node: ast.Compare, table: dict[type[ast.cmpop], type[ast.cmpop]]) -> Iterator[ast.AST]:
    for place, relation in enumerate(node.ops):
        if type(relation) in table:
            changed = [*node.ops[:place], table[type(relation)](), *node.ops[place + 1 :]]
            yield ast.Compare(node.left, changed, node.comparators)


def _more(node: ast.expr) -> ast.expr:
    return ast.BinOp(node, ast.Add(), ast.Constant(1))


def _shown(node: ast.AST) -> str:
    return ast.unparse(node).split("\n", 1)[0]
