"""Strict reading of JSON values, of which some come again and again."""

from __future__ import annotations

import json

import pytest

from latune.cache.node import Node, known_again


@known_again
def pair(node: Node) -> tuple[int, ...]:
    return tuple(value.integer() for value in node.items())


def test_equal_values_are_read_once() -> None:
    assert pair(Node([1, 2], "a")) is pair(Node([1, 2], "b[7]"))
    assert pair(Node([1, 3], "a")) == (1, 3)


def test_what_is_equal_to_python_alone_is_told_apart() -> None:
    assert pair(Node([0, 1], "a")) == (0, 1)
    for value in ([0, True], [False, 1], [0, 1.0]):
        with pytest.raises(ValueError, match=r"a\[[01]\]: expected an integer"):
            pair(Node(value, "a"))


def test_errors_say_where_each_time() -> None:
    for where in ("a", "b[7].plan"):
        with pytest.raises(ValueError) as caught:
            pair(Node([1, -2], where))
        assert str(caught.value).startswith(f"{where}[1]: expected an integer >= 0")


def test_what_is_nested_too_deeply_to_be_written_is_refused_as_what_it_is() -> None:
    deep: object = 1
    for _ in range(10**5):
        deep = [deep]
    with pytest.raises(RecursionError):
        json.dumps(deep)
    with pytest.raises(ValueError, match=r"a\[0\]: expected an integer"):
        pair(Node(deep, "a"))
