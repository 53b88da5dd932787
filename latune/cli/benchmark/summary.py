"""How far latune is ahead over all shapes of a run, in each direction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from latune.cli.benchmark.records import CaseRecord, Document


@dataclass(frozen=True, slots=True, kw_only=True)
class Lead:
    """The fastest linear-attention peer of one case beside latune.

    Attributes:
        ratio: the peer's time / latune's; below 1 the peer is faster.
    """

    problem: str
    shape: str
    peer: str
    ratio: float

    def to_json(self) -> dict[str, object]:
        return {"problem": self.problem, "shape": self.shape, "peer": self.peer, "ratio": self.ratio}


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One direction of a run.

    Attributes:
        leads: one a case in which latune and at least one peer were timed.
        left_out: the other cases' problems, each with the reason.
    """

    direction: str
    leads: Sequence[Lead]
    left_out: Sequence[str]

    @property
    def geometric_mean(self) -> float | None:
        if not self.leads:
            return None
        return math.exp(sum(math.log(lead.ratio) for lead in self.leads) / len(self.leads))

    @property
    def worst(self) -> Lead | None:
        return min(self.leads, key=lambda lead: lead.ratio, default=None)

    def to_json(self) -> dict[str, object]:
        return {
            "direction": self.direction,
            "cases": len(self.leads),
            "geometric_mean": self.geometric_mean,
            "worst": self.worst and self.worst.to_json(),
            "left_out": list(self.left_out),
        }


def summarise(document: Document) -> list[Summary]:
    return [_summary(direction, cases) for direction, cases in document.cases_by_direction().items()]


def _summary(direction: str, cases: Sequence[CaseRecord]) -> Summary:
    leads = {case.problem: _lead(case) for case in cases}
    left_out = [f"{case.problem}: {_why_not(case)}" for case in cases if leads[case.problem] is None]
    return Summary(direction=direction, leads=[lead for lead in leads.values() if lead is not None], left_out=left_out)


def _lead(case: CaseRecord) -> Lead | None:
    ratios = {result.peer: result.times_latune.median for result in case.rivals if result.times_latune is not None}
    if not ratios:
        return None
    peer = min(ratios, key=lambda name: ratios[name])
    return Lead(problem=case.problem, shape=case.shape, peer=peer, ratio=ratios[peer])


def _why_not(case: CaseRecord) -> str:
    return "no peer was timed" if case.latune is not None and case.latune.timed else "latune was not timed"
