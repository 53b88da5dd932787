"""Parsed cache files with something wrong in them."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

Place = tuple[str | int, ...]


def places(value: Any, place: Place = ()) -> Iterator[Place]:
    """Where values stand in a document, itself first."""
    yield place
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in items:
        yield from places(inner, (*place, step))


def at(value: Any, place: Place) -> Any:
    for step in place:
        value = value[step]
    return value


VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 3, 2**31, 2**53, 2**53 + 1, 10**30, 10**400),
    *(-0.5, 64.0, 1e308, 5e-324, float("nan"), float("inf"), float("-inf")),
    *("", "x", "none", "split", "64", "\x00", "\x1b[2J", "\ud800", "é", "../../x", "a" * 100_000, '\n"""\nimport os\n"""'),
    *([], [[]], [{}], {}, {"a": 1}, {"BLOCK_N": 0}),
]
KEYS = ["extra", "BLOCK_N", "maxnreg", "", "a b", "\ud800", "x" * 100_000, 'loads=1)\nimport os  # "', "__class__"]


def mutated(document: Any, draw: random.Random) -> Any:
    """One or two changes: another value, a missing key, one too many, or the same twice in a list."""
    document = copy.deepcopy(document)
    for _ in range(draw.choice([1, 1, 2])):
        place = draw.choice(list(places(document)))
        if not place:
            continue
        holder = at(document, place[:-1])
        kind = draw.randrange(10)
        if kind == 0:
            del holder[place[-1]]
        elif kind == 1 and isinstance(holder, dict):
            holder[draw.choice(KEYS)] = draw.choice(VALUES)
        elif kind == 2 and isinstance(holder, list):
            holder.append(copy.deepcopy(draw.choice(holder)))
        else:
            holder[place[-1]] = draw.choice(VALUES)
    return document
