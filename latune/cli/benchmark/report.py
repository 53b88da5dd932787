"""The results of a run of ``latune bench``, and the JSON document they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from latune.cli.benchmark.records import to_records
from latune.cli.benchmark.result import Result
from latune.cli.benchmark.summary import summarise
from latune.gpu import Gpu
from latune.problem import Problem
from latune.tuner.runner import toolchain


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All peers in one direction of one shape.

    Attributes:
        served: what the cache holds for latune, and how it was found.
    """

    problem: Problem
    roof_ms: float
    served: str
    results: Sequence[Result]

    def to_json(self) -> dict[str, object]:
        return {
            "problem": str(self.problem),
            "direction": self.problem.direction,
            "batch": self.problem.batch,
            "num_heads": self.problem.num_heads,
            "seqlen": self.problem.seqlen,
            "head_dim_k": self.problem.head_dim_k,
            "head_dim_v": self.problem.head_dim_v,
            "roof_ms": self.roof_ms,
            "served": self.served,
            "results": [result.to_json() for result in self.results],
        }


def to_document(gpu: Gpu, copy_gbps: float, reports: Sequence[Report]) -> dict[str, object]:
    """All that is known so far, the summary included."""
    document: dict[str, object] = {
        "gpu": gpu.to_json(),
        "copy_gbps": copy_gbps,
        "toolchain": dict(toolchain()),
        "cases": [report.to_json() for report in reports],
    }
    return {**document, "summary": [summary.to_json() for summary in summarise(to_records(document))]}
