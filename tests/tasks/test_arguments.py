"""Arguments of published calls: the types that JSON lost are those of the published assertions."""

from typing import Any

import pytest

from k15.tasks.arguments import numbers_as_text, published_arguments, typed

pytestmark = pytest.mark.engine


def test_arguments_are_read_from_calls_wherever_they_stand() -> None:
    source = (
        "import math\nassert not f((1,), 'a')\nassert math.isclose(f([2]), 1, rel_tol=g(3))\nf(n)\nf(2 * 3)"
    )
    assert published_arguments(source, "f") == [((1,), "a"), ([2],)]
    with pytest.raises(ValueError, match="no Python"):
        published_arguments("assert (", "f")


@pytest.mark.parametrize(
    ("published", "given", "expected"),
    [
        ("f((1, 2))", [[3, 4]], ((3, 4),)),
        ("f([1, 2])", [[3, 4]], ([3, 4],)),
        ("f({1, 2})", [[3, 4]], ({3, 4},)),
        ("f([(1, 2), (3,)])", [[[], [5]]], ([(), (5,)],)),
        ("f(([1], [2]), (3,))", [[[4]], [5]], (([4],), (5,))),
        ("f({'a': (1,)})", [{"b": [2]}], ({"b": (2,)},)),
        ("f([1, (2, 3)])", [[4, [5]]], ([4, (5,)],)),
        ("f((1, 2)); f([1])", [[3]], ([3],)),
        ("f((1, (2, (3,))))", [[[[[[4]]]]]], ((((((4,),),),),),)),
        ("f((1, 2))", [[3, [4]]], ((3, [4]),)),
        ("f(1)", [[3], "x"], ([3], "x")),
    ],
)
def test_types_by_place_and_depth(published: str, given: list[Any], expected: tuple[Any, ...]) -> None:
    assert repr(typed(given, published_arguments(published, "f"))) == repr(expected)


def test_numbers_written_as_text() -> None:
    published = published_arguments("f(0, 1j, 'a'); f(2, 3j, 'b')", "f")
    given = [["0", "1j", "5"], [2, "(1-2j)", "6"]]
    places = numbers_as_text(given, published)
    assert places == {0, 1}
    assert [typed(arguments, published, places) for arguments in given] == [(0.0, 1j, "5"), (2, 1 - 2j, "6")]
    assert numbers_as_text([["one", 1, "a"]], published) == {1}
    assert numbers_as_text([["1"]], []) == set()
