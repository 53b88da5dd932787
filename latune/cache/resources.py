"""What a compiled kernel takes of an SM."""

from __future__ import annotations

from dataclasses import dataclass, fields

from latune.cache.node import Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one compiled kernel of the plan takes: registers and spills a thread, shared memory a block."""

    name: str
    registers: int
    spill_bytes: int
    shared_bytes: int
    num_warps: int

    @classmethod
    def read(cls, node: Node) -> Resources:
        """From an entry's JSON.

        Raises:
            ValueError: something is missing, unknown or of another type; the message names its key.
        """
        found = node.fields(*(member.name for member in fields(cls)))
        name, num_warps = found.pop("name").text(), found.pop("num_warps").integer(1)
        return cls(name=name, num_warps=num_warps, **{name: value.integer() for name, value in found.items()})
