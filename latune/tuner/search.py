"""One search: the fastest configs of one kernel for one problem, found with few evaluations.

``route`` says which. A search that is killed goes on where it stopped, and ends where an uninterrupted one does.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from latune.config import Config
from latune.measurement import Measurement
from latune.plan import Plan
from latune.problem import Problem
from latune.tuner.route import Route, rank
from latune.tuner.study import Study, Trial

# Between looks at what other processes do, when they have all that is left of a batch.
_POLL_S = 0.2

Evaluate = Callable[[Plan], Measurement]


class Prepare(Protocol):
    """As ``evaluators.Evaluator.prepare``."""

    def __call__(self, plans: Sequence[Plan], *, urgent: bool) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialEvent:
    """What a search reports after each evaluation.

    Attributes:
        index: evaluations made so far, those of an earlier run included.
        total: how many there will be.
        best: the fastest one so far; None while none is ok.
    """

    problem: Problem
    kernel: str
    index: int
    total: int
    config: Config
    measurement: Measurement
    best: Trial | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """What a search found.

    Attributes:
        trials: every evaluation, in order.
        resumed: how many of them an earlier run had made.
        stopped: why it ended: ``trials``, ``settled`` (its patience was at an end), ``exhausted`` (no config is left), ``time``
            or ``interrupted``.
    """

    trials: tuple[Trial, ...]
    resumed: int
    stopped: str

    @property
    def ranked(self) -> tuple[Trial, ...]:
        """As ``rank`` has them."""
        return rank(self.trials)

    @property
    def best(self) -> Trial | None:
        return next(iter(self.ranked), None)

    @property
    def outcomes(self) -> Counter[str]:
        """How many trials came out how."""
        return Counter(trial.measurement.outcome for trial in self.trials)


def search(
    route: Route,
    evaluate: Evaluate,
    *,
    study_name: str,
    storage: str | None = None,
    fresh: bool = False,
    time_budget_s: float | None = None,
    on_trial: Callable[[TrialEvent], None] | None = None,
    prepare: Prepare | None = None,
    later: Sequence[Plan] = (),
) -> SearchResult:
    """Follows the route, or goes on with the study of that name.

    Args:
        evaluate: called with a plan of the grid's kernel alone.
        study_name: names problem, GPU, kernel, seed and whatever else a stored evaluation depends on.
        storage: see ``Study``.
        fresh: forget the study's earlier runs.
        time_budget_s: begin no evaluation later than this.
        on_trial: called after each evaluation.
        prepare: called with each batch's plans before the first of them is evaluated, and, not urgent, with the next one's.
        later: what will be evaluated after this search; prepared, not urgent, behind its first batches.

    Several processes may search one study at a time: each evaluates what no other does, and all end with the same trials.

    Raises:
        StudyError: evaluations cannot be kept in the storage.
    """
    deadline = math.inf if time_budget_s is None else time.monotonic() + time_budget_s
    study = Study(route.grid, f"{study_name}-{route.grid.digest}", storage, fresh=fresh)
    resumed = len(study.trials)
    try:
        stopped = _walk(route, study, evaluate, deadline, on_trial or _ignore, prepare or _ignore, later)
    except KeyboardInterrupt:
        stopped = "interrupted"
    return SearchResult(trials=tuple(study.trials), resumed=resumed, stopped=stopped)


def _walk(
    route: Route,
    study: Study,
    evaluate: Evaluate,
    deadline: float,
    on_trial: Callable[[TrialEvent], None],
    prepare: Prepare,
    later: Sequence[Plan],
) -> str:
    """Evaluates what the route says, and no other process does, until it ends or the time is up; returns which."""
    while batch := route.following(study.trials):
        plans = {config: route.grid.plan(config) for config in batch}
        prepare(list(plans.values()), urgent=True)
        # Compiled while this batch is evaluated: the GPU does not wait between the two.
        prepare([*(route.grid.plan(config) for config in route.ahead(study.trials)), *later], urgent=False)
        later = ()
        known = len(study.trials)
        for config, place in batch.items():
            if time.monotonic() >= deadline:
                return "time"
            with study.taken(config) as is_taken:
                if is_taken:
                    study.add(Trial(config=config, measurement=evaluate(plans[config]), place=place))
                    on_trial(_event(route, study.trials, config))
        study.refresh()
        if len(study.trials) == known:
            time.sleep(_POLL_S)
    if len(study.trials) >= route.trials:
        return "trials"
    return "settled" if route.is_settled(study.trials) else "exhausted"


def _event(route: Route, trials: Sequence[Trial], config: Config) -> TrialEvent:
    last = next(trial for trial in trials if trial.config == config)
    return TrialEvent(
        problem=route.grid.problem,
        kernel=route.grid.kernel.name,
        index=len(trials),
        total=route.total,
        config=last.config,
        measurement=last.measurement,
        best=next(iter(rank(trials)), None),
    )


def _ignore(_: object, *, urgent: bool = True) -> None:
    pass
