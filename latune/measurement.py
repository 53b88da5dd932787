"""What came of one evaluation. Once a search runs, failure is data, not an exception."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

OUTCOMES = (
    "ok",
    "constraint",
    "compile_error",
    "out_of_resources",
    "wrong_result",
    "illegal_access",
    "timeout",
    "faster_than_physics",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The outcome of one evaluation of one plan.

    Attributes:
        outcome: one of ``OUTCOMES``.
        median_ms: median time of a call; None unless it was timed (or predicted, for evidence ``static``).
        ci_low_ms: lower end of the 95% confidence interval of the median.
        ci_high_ms: upper end of it.
        samples: how many timed samples the median stands on; 0 for a prediction.
        errors: for each output, the relative root-mean-square error against the float64 reference.
        detail: one line that explains the outcome to a reader.
    """

    outcome: str
    median_ms: float | None = None
    ci_low_ms: float | None = None
    ci_high_ms: float | None = None
    samples: int = 0
    errors: tuple[tuple[str, float], ...] = ()
    detail: str = ""

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise ValueError(f"measurement: expected outcome to be one of {', '.join(OUTCOMES)}, got {self.outcome!r}")
        if self.outcome == "ok" and not (self.median_ms and self.median_ms > 0):
            raise ValueError(f"measurement: an ok outcome needs median_ms > 0, got {self.median_ms!r}")

    @property
    def ok(self) -> bool:
        return self.outcome == "ok"

    def to_json(self) -> dict[str, object]:
        return asdict(self) | {"errors": dict(self.errors)}

    @classmethod
    def from_json(cls, fields: Mapping[str, object]) -> Measurement:
        """The inverse of ``to_json``.

        Raises:
            TypeError, ValueError: a field is missing, unknown or out of range.
        """
        errors = dict(fields.get("errors", {}))  # type: ignore[call-overload]
        return cls(**{**fields, "errors": tuple(sorted(errors.items()))})  # type: ignore[arg-type]
