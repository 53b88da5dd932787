"""One entry of the cache, as JSON and back."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime, timezone

from latune.cache.node import Node
from latune.cache.reading import read_bucket, read_measurement, read_plan
from latune.cache.resources import Resources
from latune.cache.standing import Standing
from latune.errors import RenderError
from latune.measurement import Measurement
from latune.plan import FORMS, Plan
from latune.problem import Bucket, Problem

EVIDENCE = ("measured", "transferred", "static")
"""The strongest first."""

TOOLCHAIN = ("torch", "triton", "cuda", "driver", "latune", "protocol")

PlanSha256 = Callable[[Bucket, Plan], str]
"""SHA-256 of the code that would be generated now to serve a bucket by a plan; a ``RenderError`` where none would."""

_TIMESTAMP = "%Y-%m-%dT%H:%M:%SZ"
_TIMESTAMP_PATTERN = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_SHAPE = ("batch", "num_heads", "seqlen")


def utc_now() -> str:
    """The time as entries state it: ISO 8601, UTC, whole seconds (``2026-01-31T12:00:00Z``); sorts as text."""
    return datetime.now(timezone.utc).strftime(_TIMESTAMP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """The plan that serves a bucket on one GPU, and everything needed to trust it.

    Attributes:
        bucket: what it is looked up by.
        batch: batch of the problem it was tuned on.
        num_heads: heads of that problem.
        seqlen: length of that problem.
        plan: the winner; complete for the bucket's direction.
        alternates: complete plans to fall back to, best first.
        measurement: the winner's outcome; a prediction (``samples`` 0) for evidence ``static``.
        standing: the winner among what it was raced against; None: nothing, or an older latune did not say.
        evidence: ``measured`` on this GPU, ``transferred`` from another bucket or GPU, or ``static`` (compiled and modelled).
        resources: figures of each kernel in the winner's binary.
        roof_ms: time that no implementation can beat on this GPU; None when unknown.
        toolchain: version of each of ``TOOLCHAIN``; None for what was not there (the driver of a static entry).
        template_sha256: digest of the code that was generated for bucket and plan: of the module's text without its header.
        tuned_at: when, as ``utc_now`` writes it.
        study: name of the study it came from.
    """

    bucket: Bucket
    batch: int
    num_heads: int
    seqlen: int
    plan: Plan
    alternates: tuple[Plan, ...] = ()
    measurement: Measurement
    standing: Standing | None = None
    evidence: str
    resources: tuple[Resources, ...]
    roof_ms: float | None = None
    toolchain: Mapping[str, str | None] = field(hash=False)
    template_sha256: str
    tuned_at: str
    study: str

    def __post_init__(self) -> None:
        if self.evidence not in EVIDENCE:
            raise ValueError(f"evidence: expected one of {', '.join(EVIDENCE)}, got {self.evidence!r}")
        _check_plan("plan", self.plan, self.bucket.direction)
        for index, alternate in enumerate(self.alternates):
            _check_plan(f"alternates[{index}]", alternate, self.bucket.direction)
        if not _TIMESTAMP_PATTERN.fullmatch(self.tuned_at):
            raise ValueError(f"tuned_at: expected UTC time as 2026-01-31T12:00:00Z, got {self.tuned_at!r}")
        if sorted(self.toolchain) != sorted(TOOLCHAIN):
            raise ValueError(f"toolchain: expected the keys {', '.join(TOOLCHAIN)}, got {', '.join(self.toolchain) or 'none'}")
        self._check_measurement()
        self._check_shape()

    def _check_measurement(self) -> None:
        if not self.measurement.ok:
            raise ValueError(f"measurement.outcome: expected 'ok' of an entry's winner, got {self.measurement.outcome!r}")
        timed = self.measurement.samples > 0
        if self.evidence == "measured" and not timed:
            raise ValueError("measurement.samples: expected at least 1 for evidence 'measured', got 0")
        if self.evidence == "static" and timed:
            raise ValueError(f"measurement.samples: expected 0 for evidence 'static', got {self.measurement.samples}")

    def _check_shape(self) -> None:
        if self.evidence != "transferred" and self.problem.bucket() != self.bucket:
            raise ValueError(f"bucket: expected that of the shape tuned on ({self.problem.bucket()}), got {self.bucket}")

    @property
    def problem(self) -> Problem:
        """The problem the plan was tuned on."""
        return replace(self.bucket.problem(), batch=self.batch, num_heads=self.num_heads, seqlen=self.seqlen)

    def is_current(self, plan_sha256: PlanSha256) -> bool:
        """Whether the code that would be generated for it now is the code that it speaks of."""
        return self.why_stale(plan_sha256) is None

    def why_stale(self, plan_sha256: PlanSha256) -> str | None:
        """Why it is not current, in one line; None if it is."""
        try:
            sha256 = plan_sha256(self.bucket, self.plan)
        except RenderError as error:
            return f"of code {self.template_sha256[:8]}, {error}: the dispatcher ignores it"
        if sha256 == self.template_sha256:
            return None
        return f"of code {self.template_sha256[:8]}, its plan is generated as {sha256[:8]} now: the dispatcher ignores it"

    def to_json(self) -> dict[str, object]:
        return {
            "bucket": self.bucket.to_json(),
            "shape": {name: getattr(self, name) for name in _SHAPE},
            "plan": self.plan.to_json(),
            "alternates": [plan.to_json() for plan in self.alternates],
            "measurement": self.measurement.to_json(),
            **({} if self.standing is None else {"standing": asdict(self.standing)}),
            "evidence": self.evidence,
            "resources": [asdict(kernel) for kernel in self.resources],
            "roof_ms": self.roof_ms,
            "toolchain": dict(self.toolchain),
            "template_sha256": self.template_sha256,
            "tuned_at": self.tuned_at,
            "study": self.study,
        }

    @classmethod
    def from_json(cls, value: object, where: str = "entry") -> Entry:
        """The inverse of ``to_json``.

        Raises:
            ValueError: something is missing, unknown, of another type or contradictory; the message names its key.
        """
        node = Node(value, where)
        names = ["shape" if member.name == "batch" else member.name for member in fields(cls)]
        found = node.fields(*(name for name in names if name not in (*_SHAPE, "standing")), optional=("standing",))
        return node.make(
            cls,
            bucket=read_bucket(found["bucket"]),
            **{name: size.integer(1) for name, size in found["shape"].fields(*_SHAPE).items()},
            plan=read_plan(found["plan"]),
            alternates=tuple(read_plan(plan) for plan in found["alternates"].items()),
            measurement=read_measurement(found["measurement"]),
            standing=Standing.read(found["standing"]) if "standing" in found else None,
            resources=tuple(Resources.read(kernel) for kernel in found["resources"].items()),
            roof_ms=found["roof_ms"].optional(Node.number),
            toolchain={name: part.optional(Node.text) for name, part in found["toolchain"].mapping().items()},
            **{name: found[name].text() for name in ("evidence", "template_sha256", "tuned_at", "study")},
        )


def _check_plan(where: str, plan: Plan, direction: str) -> None:
    kernels = tuple(step.kernel for step in plan.steps)
    if kernels not in FORMS[direction]:
        forms = " or ".join("+".join(form) for form in FORMS[direction])
        raise ValueError(
            f"{where}: expected the kernels {forms} for direction {direction!r}, got {'+'.join(kernels) or 'none'}"
        )
