"""What a compiled kernel takes of an SM."""

from __future__ import annotations

from dataclasses import dataclass, fields

from latune.cache.node import Node, known_again


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one compiled kernel of the plan takes: registers and spills a thread, shared memory a block."""

    name: str
    registers: int
    spill_bytes: int
    shared_bytes: int
    num_warps: int

    @staticmethod
    @known_again
    def read(node: Node) -> Resources:
        """From an entry's JSON.

        Raises:
            ValueError: something is missing, unknown or of another type; the message names its key.
        """
        found = node.fields(*(member.name for member in fields(Resources)))
        name, num_warps = found.pop("name").text(), found.pop("num_warps").integer(1)
        return Resources(name=name, num_warps=num_warps, **{name: value.integer() for name, value in found.items()})
