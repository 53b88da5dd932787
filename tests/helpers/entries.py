"""Cache entries that no tuning made."""

from __future__ import annotations

from latune.cache.entry import TOOLCHAIN, Entry
from latune.cache.resources import Resources
from latune.codegen.render import plan_sha256
from latune.measurement import Measurement
from latune.plan import Plan
from latune.problem import Problem

MEASURED_WITH = {**dict.fromkeys(TOOLCHAIN, "1.0"), "protocol": "measured-1"}
"""The toolchain of a measured entry."""


def valid_entry(problem: Problem, plan: Plan, **changes: object) -> Entry:
    """A valid entry for the bucket of ``problem``, measured and of today's code; ``changes`` replace its fields."""
    static = changes.get("evidence") == "static"
    errors = tuple((name, 0.002) for name in sorted(plan.outputs))
    timed = Measurement(outcome="ok", median_ms=0.3, ci_low_ms=0.29, ci_high_ms=0.31, samples=40, errors=errors)
    fields = {
        "bucket": problem.bucket(),
        "batch": problem.batch,
        "num_heads": problem.num_heads,
        "seqlen": problem.seqlen,
        "plan": plan,
        "alternates": (),
        "measurement": Measurement(outcome="ok", median_ms=0.3) if static else timed,
        "evidence": "measured",
        "resources": tuple(
            Resources(name=f"{step.kernel}_kernel", registers=168, spill_bytes=0, shared_bytes=98304, num_warps=8)
            for step in plan.steps
        ),
        "roof_ms": 0.25,
        "toolchain": {**MEASURED_WITH, "protocol": "static-1"} if static else MEASURED_WITH,
        "tuned_at": "2026-01-31T12:00:00Z",
        "study": "study",
    }
    if "template_sha256" not in changes:
        fields["template_sha256"] = plan_sha256(problem.bucket(), plan)
    return Entry(**{**fields, **changes})  # type: ignore[arg-type]
