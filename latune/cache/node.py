"""Strict reading of parsed JSON: every error says where the value stands and what was expected there."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Node(NamedTuple):
    """A JSON value and its place in the file.

    All methods raise ``ValueError`` when the value is not what they read.

    Attributes:
        value: what ``json.loads`` made of it.
        where: its path, such as ``entries[3].plan[0].kernel``.
    """

    value: object
    where: str

    def fields(self, *names: str) -> dict[str, Node]:
        """An object with exactly these keys."""
        fields = self.mapping()
        for name in fields:
            if name not in names:
                raise ValueError(f"{self.where}: unknown key {name!r}; expected {', '.join(names)}")
        for name in names:
            if name not in fields:
                raise ValueError(f"{self.where}: key {name!r} is missing")
        return fields

    def mapping(self) -> dict[str, Node]:
        """An object with any keys."""
        fields = self._expect(dict, "an object")
        return {name: Node(value, f"{self.where}.{name}" if self.where else name) for name, value in fields.items()}

    def items(self) -> list[Node]:
        values = self._expect(list, "a list")
        return [Node(value, f"{self.where}[{index}]") for index, value in enumerate(values)]

    def text(self) -> str:
        return self._expect(str, "a string")

    def flag(self) -> bool:
        return self._expect(bool, "true or false")

    def integer(self, least: int = 0) -> int:
        wanted = f"an integer >= {least}"
        value = self._expect(int, wanted)
        # bool is a subclass of int.
        if isinstance(value, bool) or value < least:
            self._refuse(wanted)
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
        return value

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

    def _refuse(self, wanted: str) -> None:
        raise ValueError(f"{self.where or 'the file'}: expected {wanted}, got {reprlib.repr(self.value)}")
