"""One search: the fastest configs of one kernel for one problem, found with few evaluations.

A space of no more configs than trials is enumerated. Of a larger one, the starting points come first (the space's
default, then what the caller knows), then what TPE proposes, and last a polish: the untried neighbours of the best
three, of which the best three may then be others. What comes next depends on the seed and on what has been
evaluated, on nothing else, so that a search killed and resumed ends where an uninterrupted one does.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

from latune.config import Config
from latune.measurement import Measurement
from latune.plan import Plan
from latune.problem import Problem
from latune.tuner.grid import Grid
from latune.tuner.study import Study, Trial, propose
from latune.tuner.timing import TIE

# Of the trials, for the polish.
_POLISH_SHARE = 0.25
_POLISHED = 3
# Configs are chosen a batch at a time, for compilers to work beside one another. So many batches leave enough to learn
# from; the number of compilers has no say, so that a seed chooses the same configs on every machine.
_BATCHES = 8
_SEED_STRIDE = 100_003
# Between looks at what other processes do, when they have all that is left of a batch.
_POLL_S = 0.2
# NumPy's generators take seeds of 32 bits.
_SEEDS = 2**32

Evaluate = Callable[[Plan], Measurement]


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


def batch_of(trials: int) -> int:
    """How many configs a search of so many trials chooses at once."""
    return max(trials // _BATCHES, 1)


def rank(trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """The correct ones, fastest first."""
    ok = [trial for trial in trials if trial.measurement.ok]
    return tuple(sorted(ok, key=lambda trial: (_median_ms(trial), trial.config)))


def _median_ms(trial: Trial) -> float:
    assert trial.measurement.median_ms is not None, "an ok measurement has a median"
    return trial.measurement.median_ms


def search(
    grid: Grid,
    evaluate: Evaluate,
    *,
    trials: int,
    seed: int,
    study_name: str,
    storage: str | None = None,
    fresh: bool = False,
    starts: Sequence[Config] = (),
    time_budget_s: float | None = None,
    on_trial: Callable[[TrialEvent], None] | None = None,
    batch: int = 1,
    patience: int | None = None,
    prepare: Callable[[Sequence[Plan]], None] | None = None,
) -> SearchResult:
    """Searches the grid, or goes on with the study of that name.

    Args:
        evaluate: called with a plan of the grid's kernel alone.
        trials: the most evaluations, those of the study's earlier runs included.
        study_name: names problem, GPU, kernel, seed and whatever else a stored evaluation depends on.
        storage: see ``Study``.
        fresh: forget the study's earlier runs.
        starts: configs to try after the default, before those of the space's file; those outside the grid are passed over.
        time_budget_s: begin no evaluation later than this.
        on_trial: called after each evaluation.
        batch: how many configs are chosen at once, from the results of the batches before.
        patience: as ``Route`` has it.
        prepare: called with each batch's plans before the first of them is evaluated.

    Several processes may search one study at a time: each evaluates what no other does, and all end with the same trials.

    Raises:
        SpaceError: the space has no config for this case.
        StudyError: evaluations cannot be kept in the storage.
    """
    deadline = math.inf if time_budget_s is None else time.monotonic() + time_budget_s
    all_starts = (grid.default, *starts, *grid.starts)
    route = Route(grid=grid, starts=all_starts, trials=trials, seed=seed, batch=batch, patience=patience)
    study = Study(grid, f"{study_name}-{grid.digest}", storage, fresh=fresh)
    resumed = len(study.trials)
    try:
        stopped = _walk(route, study, evaluate, deadline, on_trial or _ignore, prepare or _ignore)
    except KeyboardInterrupt:
        stopped = "interrupted"
    return SearchResult(trials=tuple(study.trials), resumed=resumed, stopped=stopped)


def _walk(
    route: Route,
    study: Study,
    evaluate: Evaluate,
    deadline: float,
    on_trial: Callable[[TrialEvent], None],
    prepare: Callable[[Sequence[Plan]], None],
) -> str:
    """Evaluates what the route says, and no other process does, until it ends or the time is up; returns which."""
    while batch := route.following(study.trials):
        plans = {config: route.grid.plan(config) for config in batch}
        prepare(list(plans.values()))
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


def _ignore(_: object) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Which configs to evaluate after which results: a function of these fields and those results alone.

    Attributes:
        starts: tried first; those that are not in the grid are passed over.
        batch: how many configs are chosen at once, from the results of the batches before.
        patience: after the starts, so many trials in a row that improve the best by no more than a tie bring the polish, and
            end the search where nothing is left of that; None: neither before its time.
    """

    grid: Grid
    starts: tuple[Config, ...]
    trials: int
    seed: int
    batch: int
    patience: int | None = None

    @property
    def total(self) -> int:
        return min(self.trials, len(self.grid.configs))

    def following(self, trials: Sequence[Trial]) -> dict[Config, int]:
        """The untried rest of the batch that these trials have reached, with their places; empty at the end of the route.

        Args:
            trials: in the route's order.
        """
        begun = len(trials) // self.batch * self.batch
        size = min(self.batch, self.total - begun)
        first = trials[begun - 1].place + 1 if begun else 0
        tried = {trial.config for trial in trials}
        batch = enumerate(islice(self._untried(trials[:begun]), max(size, 0)), start=first)
        rest = [(config, place) for place, config in batch if config not in tried]
        return dict(rest[: max(self.total - len(trials), 0)])

    def is_settled(self, trials: Sequence[Trial]) -> bool:
        """Whether the last of them, as many as there is patience, have brought nothing to speak of."""
        if self.patience is None or len(self.grid.configs) <= self.trials:
            return False
        starts = {config for config in self.starts if config in self.grid}
        before, best = (rank(part)[:1] for part in (trials[: -self.patience], trials))
        if len(trials) < len(starts) + self.patience or not before:
            return False
        return _median_ms(before[0]) <= TIE * _median_ms(best[0])

    def _untried(self, trials: Sequence[Trial]) -> Iterator[Config]:
        seen = {trial.config for trial in trials}
        for config in chain(self.starts, self._searched(trials)):
            if config in self.grid and config not in seen:
                seen.add(config)
                yield config

    def _searched(self, trials: Sequence[Trial]) -> Iterator[Config]:
        if len(self.grid.configs) <= self.trials:
            yield from self.grid.configs
            return
        is_settled = self.is_settled(trials)
        if is_settled or len(trials) + self.batch > self.trials * (1 - _POLISH_SHARE):
            around = [config for trial in rank(trials)[:_POLISHED] for config in self.grid.neighbours(trial.config)]
            yield from around
            if is_settled and {trial.config for trial in trials}.issuperset(around):
                return
        # A seed of its own for each batch: what is proposed does not depend on how often the search was resumed.
        yield from propose(self.grid, trials, seed=(self.seed * _SEED_STRIDE + len(trials)) % _SEEDS)
