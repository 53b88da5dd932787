"""What a problem loses by being served from the cache's ladder and not by a search of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

from latune.cache.node import Node
from latune.cache.resolve import Resolution
from latune.errors import LatuneError
from latune.measurement import Measurement
from latune.plan import Plan
from latune.problem import Problem
from latune.tuner.compose import Spaces
from latune.tuner.evaluators import Evaluator
from latune.tuner.podium import ranked
from latune.tuner.tune import Settings, Tuned, tune_problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Regret:
    """One problem, as served and as tuned, in one race.

    Attributes:
        step: of the ladder that served it.
        served: what served it, and how far that is from what was asked.
        served_ms: median time of the served plan.
        tuned_ms: of the fastest plan of a fresh search, the served one among its starts.
        served_plan: as its text.
        tuned_plan: that plan, likewise.
    """

    problem: str
    step: str
    served: str
    served_ms: float
    tuned_ms: float
    served_plan: str
    tuned_plan: str

    @property
    def share(self) -> float:
        """How much longer the served plan takes: 0.03 is 3%."""
        return self.served_ms / self.tuned_ms - 1

    def to_json(self) -> dict[str, object]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> Regret:
        """The inverse of ``to_json``.

        Raises:
            ValueError: something is missing, unknown or of another type; the message names its key.
        """
        found = Node(value, "regret").fields(*(member.name for member in fields(cls)))
        times = {name: found.pop(name).positive() for name in ("served_ms", "tuned_ms")}
        return cls(**times, **{name: text.text() for name, text in found.items()})


def regret_of(
    problem: Problem,
    served: Resolution,
    evaluate: Evaluator,
    settings: Settings,
    *,
    space: Spaces | None = None,
    starts: Sequence[Plan] = (),
) -> Regret:
    """Tunes the problem afresh, the served plan among the starts, and compares the two as they ran in the final race.

    Raises:
        KeyboardInterrupt: Ctrl-C ended the search before its time.
        LatuneError: no plan passed, or the served one failed.
    """
    tuned = tune_problem(problem, space, evaluate, settings, starts=[served.plan, *starts])
    if tuned.interrupted:
        raise KeyboardInterrupt
    # Not the winner, which may be a per cent slower here for the sake of the rest of its bucket.
    fastest, _ = ranked(tuned.finalists)[0]
    measured = _in_one_race(served.plan, tuned, fastest, evaluate)
    failed = next((measurement for measurement in measured if not measurement.ok), None)
    if failed is not None:
        raise LatuneError(f"{problem}: a plan that serves it failed ({failed.outcome}): {failed.detail}; tune it anew")
    served_ms, found_ms = (measurement.median_ms for measurement in measured)
    assert served_ms is not None and found_ms is not None, "both are ok"
    return Regret(
        problem=str(problem),
        step=served.step,
        served=served.why,
        served_ms=served_ms,
        tuned_ms=min(served_ms, found_ms),
        served_plan=str(served.plan),
        tuned_plan=str(served.plan if served_ms <= found_ms else fastest),
    )


def _in_one_race(served: Plan, tuned: Tuned, fastest: Plan, evaluate: Evaluator) -> list[Measurement]:
    """The served plan and the fastest: from the final race, or from one of theirs where the space keeps the served one out."""
    finalists = dict(tuned.finalists)
    pair = [served, fastest]
    return [finalists[plan] for plan in pair] if served in finalists else evaluate.race(pair)
