"""JSON documents with one thing changed."""

from __future__ import annotations

import copy

MISSING = object()


def changed(fields: dict[str, object], path: tuple[str | int, ...], value: object) -> dict[str, object]:
    """A copy of ``fields`` with ``value`` at ``path``; ``MISSING`` deletes the key."""
    result = copy.deepcopy(fields)
    place: object = result
    for step in path[:-1]:
        place = place[step]  # type: ignore[index]
    if value is MISSING:
        del place[path[-1]]  # type: ignore[attr-defined]
    else:
        place[path[-1]] = value  # type: ignore[index]
    return result
