"""How the winner of an entry stands among the plans that it was raced against."""

from __future__ import annotations

from dataclasses import dataclass

from latune.cache.node import Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A winner among the plans of its race; a tie is a time at most 1% above another (``tuner.timing.TIE``).

    Attributes:
        rivals: how many other plans passed, timed in turns with it.
        ties: how many of these tie with the fastest; of the entry's alternates they are the first.
        certainty: the probability, at least, that no rival is faster than the winner by more than a tie.
    """

    rivals: int
    ties: int
    certainty: float

    def __post_init__(self) -> None:
        if not 0 <= self.ties <= self.rivals:
            raise ValueError(f"ties: expected 0 to {self.rivals}, as many as there are rivals, got {self.ties}")
        if not 0 <= self.certainty <= 1:
            raise ValueError(f"certainty: expected a probability, got {self.certainty!r}")

    @classmethod
    def read(cls, node: Node) -> Standing:
        """From its JSON.

        Raises:
            ValueError: something is missing, unknown, of another type or out of range.
        """
        found = node.fields("rivals", "ties", "certainty")
        counts = {name: found[name].integer() for name in ("rivals", "ties")}
        return node.make(cls, **counts, certainty=found["certainty"].number())
