"""A search's evaluations as an Optuna study, and what Optuna proposes next."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from latune.config import Config
from latune.measurement import Measurement
from latune.tuner.grid import Grid
from latune.tuner.leases import Lease
from latune.tuner.storage import opened_study, storage_errors

optuna.logging.set_verbosity(optuna.logging.WARNING)

_MEASUREMENT = "measurement"
"""What a trial has that stands for an evaluation, and no lease has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One evaluation of a search.

    Attributes:
        place: where it stands in the search's order, which is not that in which several processes end evaluations.
    """

    config: Config
    measurement: Measurement
    place: int = 0


class Study:
    """The evaluations of one search, in the search's order, each on disk once ``add`` returns.

    A trial is stored whole, in one write, when its evaluation has ended: a killed process leaves nothing half done.
    Stored trials whose config the space no longer allows are left out. Several processes may work on one study.

    Args:
        storage: see ``open_storage``.
        fresh: forget what an earlier run stored under the name.

    Raises:
        StudyError: the storage cannot be opened or read; so do all methods.
    """

    def __init__(self, grid: Grid, name: str, storage: str | None = None, *, fresh: bool = False) -> None:
        self._grid, self._storage = grid, storage
        self._study = opened_study(name, storage, fresh=fresh)
        self.refresh()

    def refresh(self) -> None:
        """Takes note of what other processes have evaluated."""
        with storage_errors(self._storage):
            stored = trials_of(self._study)
        self.trials = [trial for trial in stored if trial.config in self._grid]

    @contextmanager
    def taken(self, config: Config) -> Iterator[bool]:
        """Whether this process is to evaluate the config: no other has, or is at it, until the block ends."""
        with storage_errors(self._storage):
            lease = Lease.take(self._study, config.digest)
        try:
            if lease is not None:
                self.refresh()
            yield lease is not None and all(trial.config != config for trial in self.trials)
        finally:
            if lease is not None:
                with storage_errors(self._storage):
                    lease.release()

    def add(self, trial: Trial) -> None:
        """Keeps one more evaluation."""
        with storage_errors(self._storage):
            attributes = {"config": trial.config.to_json(), _MEASUREMENT: trial.measurement.to_json(), "place": trial.place}
            self._study.add_trial(_freeze(self._grid, trial, _distributions(self._grid), attributes))
        self.trials = sorted([*self.trials, trial], key=lambda trial: trial.place)


def trials_of(study: optuna.Study) -> list[Trial]:
    """The evaluations that a study holds, in the search's order.

    Two processes may both have evaluated a config, when one was taken for dead: the first counts.
    """
    stored = [_thaw(trial) for trial in study.get_trials(deepcopy=False) if _MEASUREMENT in trial.user_attrs]
    first = {trial.config: trial for trial in reversed(stored)}
    return sorted(reversed(first.values()), key=lambda trial: trial.place)


def _freeze(
    grid: Grid, trial: Trial, distributions: dict[str, BaseDistribution], attributes: dict[str, object] | None = None
) -> FrozenTrial:
    ok = trial.measurement.ok
    return create_trial(
        state=TrialState.COMPLETE if ok else TrialState.PRUNED,
        value=trial.measurement.median_ms if ok else None,
        params=_params(grid, trial.config),
        distributions=distributions,
        user_attrs=attributes,
    )


def _thaw(frozen: FrozenTrial) -> Trial:
    attributes = frozen.user_attrs
    config, measurement = Config.from_json(attributes["config"]), Measurement.from_json(attributes[_MEASUREMENT])
    # Studies of before there were places are of one process each.
    return Trial(config=config, measurement=measurement, place=attributes.get("place", frozen.number))


def propose(grid: Grid, trials: Sequence[Trial], pending: Sequence[Config] = (), *, seed: int) -> Iterator[Config]:
    """Configs that TPE would try next: feasible, not among the trials, each once; depends on the arguments alone.

    A proposal that breaks a constraint or repeats another gives way to the nearest config that does neither.

    Args:
        pending: configs whose results are not known yet; none of them is proposed again.
    """
    study, distributions = _rehearsal(seed), _distributions(grid)

    def add_pending(config: Config) -> None:
        study.add_trial(create_trial(state=TrialState.RUNNING, params=_params(grid, config), distributions=distributions))

    study.add_trials([_freeze(grid, trial, distributions) for trial in trials])
    for config in pending:
        add_pending(config)
    seen = {*(trial.config for trial in trials), *pending}
    while True:
        asked = study.ask(distributions)
        study.tell(asked, state=TrialState.FAIL)
        config = grid.nearest(_values(grid, asked.params), seen)
        if config is None:
            return
        seen.add(config)
        add_pending(config)
        yield config


def _rehearsal(seed: int) -> optuna.Study:
    """A study in memory: proposals that come to nothing leave no trace on disk."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(multivariate=True, constant_liar=True, seed=seed)
    return optuna.create_study(sampler=sampler)


def _distributions(grid: Grid) -> dict[str, BaseDistribution]:
    """Ordinals by index, so that powers of two are evenly spaced."""
    return {
        axis.name: IntDistribution(0, len(axis.values) - 1) if axis.ordinal else CategoricalDistribution(axis.values)
        for axis in grid.axes
    }


def _params(grid: Grid, config: Config) -> dict[str, str | int]:
    values = grid.full(config)
    return {axis.name: axis.values.index(values[axis.name]) if axis.ordinal else values[axis.name] for axis in grid.axes}


def _values(grid: Grid, params: Mapping[str, str | int]) -> dict[str, str | int]:
    return {axis.name: axis.values[int(params[axis.name])] if axis.ordinal else params[axis.name] for axis in grid.axes}
