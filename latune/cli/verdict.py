"""What came of checking an entry of the cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from latune.cache.entry import Entry
from latune.cache.resources import Resources
from latune.cli.entries import mend_command
from latune.gpu import Gpu
from latune.measurement import Measurement
from latune.tuner.evaluators import StaticEvaluator


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of one entry: ``ok``, ``stale`` (of other code than its plan is generated as now), or how it failed."""

    entry: Entry
    verdict: str
    detail: str = ""
    errors: tuple[tuple[str, float], ...] = ()

    @property
    def ok(self) -> bool:
        return self.verdict == "ok"

    def to_json(self, gpu: Gpu, output: Path | None = None) -> dict[str, object]:
        return {
            "bucket": self.entry.bucket.to_json(),
            "evidence": self.entry.evidence,
            "verdict": self.verdict,
            "detail": self.detail,
            "errors": dict(self.errors),
            "mend": None if self.ok else mend_command(self.entry, gpu, output),
        }


def rebuilt(entry: Entry, evaluator: StaticEvaluator) -> Verdict:
    """Compiles the winner; another Triton than the entry's may well use other resources, the same one may not."""
    built = evaluator.build(entry.plan)
    if isinstance(built, Measurement):
        return Verdict(entry=entry, verdict=built.outcome, detail=built.detail)
    differences = _differences(entry.resources, evaluator.resources(entry.plan))
    ours, theirs = evaluator.toolchain["triton"], entry.toolchain["triton"]
    if differences and ours != theirs:
        return Verdict(
            entry=entry, verdict="ok", detail=f"other resources with Triton {ours} than with {theirs}: {differences}"
        )
    return Verdict(entry=entry, verdict="other_resources" if differences else "ok", detail=differences)


def _differences(stated: Sequence[Resources], built: Sequence[Resources]) -> str:
    names = [[kernel.name for kernel in kernels] for kernels in (stated, built)]
    if names[0] != names[1]:
        return f"kernels {', '.join(names[0])} stated, {', '.join(names[1])} compiled"
    return "; ".join(
        f"{one.name}.{name} {value} stated, {getattr(other, name)} compiled"
        for one, other in zip(stated, built, strict=True)
        for name, value in asdict(one).items()
        if value != getattr(other, name)
    )
