"""Strict reading of parsed JSON: every error says where the value stands and what was expected there."""

from __future__ import annotations

import functools
import json
import math
import reprlib
from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn, TypeVar

T = TypeVar("T")

_MOST = 2**53
"""Whole numbers up to it have a float of their own, and quotients of them are finite."""

_LARGEST = 1e100
"""Quotients of numbers from its inverse up to it are finite too, and none is zero."""


class Node(NamedTuple):
    """A JSON value and its place in the file.

    All methods raise ``ValueError`` when the value is not what they read.

    Attributes:
        value: what ``json.loads`` made of it.
        where: its path, such as ``entries[3].plan[0].kernel``.
    """

    value: object
    where: str

    def fields(self, *names: str, optional: Sequence[str] = ()) -> dict[str, Node]:
        """An object with exactly these keys, and those that are ``optional`` where it has them."""
        fields, known = self.mapping(), (*names, *optional)
        for name in fields:
            if name not in known:
                raise ValueError(f"{self._place}: unknown key {reprlib.repr(name)}; expected {', '.join(known)}")
        for name in names:
            if name not in fields:
                raise ValueError(f"{self._place}: key {name!r} is missing")
        return fields

    def mapping(self) -> dict[str, Node]:
        """An object whose keys are any words."""
        fields = self._expect(dict, "an object")
        if not all(map(_is_word, fields)):
            self._refuse("keys of letters, digits and underscores")
        return {name: Node(value, f"{self.where}.{name}" if self.where else name) for name, value in fields.items()}

    def items(self) -> list[Node]:
        values = self._expect(list, "a list")
        return [Node(value, f"{self.where}[{index}]") for index, value in enumerate(values)]

    def text(self) -> str:
        """A string that a terminal shows as it is, and that has an encoding."""
        value = self._expect(str, "a string")
        if not value.isprintable():
            self._refuse("a string of printable characters")
        return value

    def word(self) -> str:
        """A string that may stand in generated code: a name in ASCII."""
        value = self._expect(str, "a string")
        if not _is_word(value):
            self._refuse("a word of letters, digits and underscores")
        return value

    def flag(self) -> bool:
        return self._expect(bool, "true or false")

    def integer(self, least: int = 0) -> int:
        wanted = f"an integer >= {least}"
        value = self._expect(int, wanted)
        # bool is a subclass of int.
        if isinstance(value, bool) or value < least:
            self._refuse(wanted)
        if value > _MOST:
            self._refuse(f"an integer <= {_MOST}")
        return value

    def number(self) -> float:
        """A finite, non-negative number."""
        wanted = "a finite number >= 0"
        if isinstance(self.value, bool) or not isinstance(self.value, (int, float)):
            self._refuse(wanted)
        try:
            value = float(self.value)  # type: ignore[arg-type]
        except OverflowError:
            value = math.inf
        if not (math.isfinite(value) and value >= 0):
            self._refuse(wanted)
        if value and not 1 / _LARGEST <= value <= _LARGEST:
            self._refuse(f"0 or a number from {1 / _LARGEST:g} to {_LARGEST:g}")
        return value

    def positive(self) -> float:
        """A finite number that can be divided by."""
        return self.number() or self._refuse("a number above 0")

    def optional(self, read: Callable[[Node], T]) -> T | None:
        """None for ``null``, else what ``read`` reads."""
        return None if self.value is None else read(self)

    def make(self, kind: Callable[..., T], **values: object) -> T:
        """``kind(**values)``; its own objections are told with this node's place."""
        try:
            return kind(**values)
        except ValueError as error:
            raise ValueError(f"{self.where}: {error}") from error

    def _expect(self, kind: type[T], wanted: str) -> T:
        if not isinstance(self.value, kind):
            self._refuse(wanted)
        return self.value  # type: ignore[return-value]

    def _refuse(self, wanted: str) -> NoReturn:
        raise ValueError(f"{self._place}: expected {wanted}, got {reprlib.repr(self.value)}")

    @property
    def _place(self) -> str:
        return self.where or "the file"


def known_again(read: Callable[[Node], T]) -> Callable[[Node], T]:
    """``read`` of what a file says in hundreds of places: equal values are read once.

    Args:
        read: what it makes cannot be changed, and does not depend on the place.
    """

    @functools.lru_cache(maxsize=4096)
    def of(text: str) -> T:
        return read(Node(json.loads(text), ""))

    @functools.wraps(read)
    def again(node: Node) -> T:
        try:
            return of(json.dumps(node.value))
        except (ValueError, RecursionError):
            # It says where.
            return read(node)

    return again


@functools.lru_cache(maxsize=1024)
def _is_word(text: str) -> bool:
    return text.isascii() and text.isidentifier()
