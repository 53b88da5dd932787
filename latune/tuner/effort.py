"""How much a search may cost before it has to end, by a name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What bounds the search of each kernel.

    Attributes:
        trials: the most evaluations, by evidence: what is only compiled is ranked by a model, and soon told apart. 0:
            nothing is searched, what is known is raced (``transfer``).
        patience: as ``search.Route`` has it.
    """

    trials: Mapping[str, int]
    patience: int | None

    @property
    def searches(self) -> bool:
        return any(self.trials.values())


EFFORTS: Mapping[str, Effort] = {
    "quick": Effort(trials={"measured": 0, "static": 0}, patience=None),
    "default": Effort(trials={"measured": 100, "static": 24}, patience=32),
    "max": Effort(trials={"measured": 400, "static": 100}, patience=None),
}
DEFAULT = EFFORTS["default"]
