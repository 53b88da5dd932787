"""Ways to search a landscape: latune's own, and those that it has to beat.

Each evaluates so many configs, and then has its fastest raced, of which the winner is chosen, as ``latune tune`` does.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import optuna

from latune.config import Config
from latune.tuner.compose import CONFIGS_OF_A_KERNEL
from latune.tuner.effort import DEFAULT
from latune.tuner.evaluators import Evaluator
from latune.tuner.grid import Grid
from latune.tuner.landscapes.landscape import Landscape
from latune.tuner.podium import podium
from latune.tuner.route import Route, rank
from latune.tuner.study import Trial

Search = Callable[[Grid, Evaluator, int, int], list[Trial]]
"""Of a grid, by an evaluator, with so many trials at most, from a seed: the trials in order."""

# Of those that the space forbids, which cost nothing, in a row.
_MOST_REFUSALS = 2000


def latune(grid: Grid, evaluate: Evaluator, trials: int, seed: int) -> list[Trial]:
    """What ``latune tune`` does without winners of neighbours."""
    return _routed(Route.of(grid, trials=trials, seed=seed, patience=DEFAULT.patience), evaluate)


def without_starts(grid: Grid, evaluate: Evaluator, trials: int, seed: int) -> list[Trial]:
    """As ``latune``, from the space's default alone: nothing that has won before is known."""
    route = Route.of(grid, trials=trials, seed=seed, patience=DEFAULT.patience)
    return _routed(replace(route, starts=(grid.default,)), evaluate)


def at_random(grid: Grid, evaluate: Evaluator, trials: int, seed: int) -> list[Trial]:
    """Feasible configs, each once, in random order."""
    chosen = random.Random(seed).sample(grid.configs, min(trials, len(grid.configs)))
    return [_trial(grid, evaluate, config) for config in chosen]


def plain_tpe(grid: Grid, evaluate: Evaluator, trials: int, seed: int) -> list[Trial]:
    """Optuna's TPE as it comes, each parameter a category; what the space forbids is told so, and costs no trial."""
    study = _study(seed)
    done: list[Trial] = []
    refusals = 0
    while len(done) < trials and refusals < _MOST_REFUSALS:
        asked = study.ask()
        values = {axis.name: asked.suggest_categorical(axis.name, axis.values) for axis in grid.axes}
        config = _made(grid, values)
        if config not in grid:
            refusals += 1
            study.tell(asked, state=optuna.trial.TrialState.PRUNED)
            continue
        refusals = 0
        done.append(_trial(grid, evaluate, config))
        measurement = done[-1].measurement
        study.tell(asked, measurement.median_ms, state=None if measurement.ok else optuna.trial.TrialState.PRUNED)
    return done


STRATEGIES: Mapping[str, Search] = {
    "latune": latune,
    "without-starts": without_starts,
    "tpe": plain_tpe,
    "random": at_random,
}


def chosen(landscape: Landscape, trials: Sequence[Trial], evaluate: Evaluator) -> Config | None:
    """The config that a search with these trials ends with; None where none of them was ok."""
    configs = list(dict.fromkeys(trial.config for trial in rank(trials)))[:CONFIGS_OF_A_KERNEL]
    plans = [landscape.grid.plan(config) for config in configs]
    placed = podium(landscape.problem, list(zip(plans, evaluate.race(plans), strict=True)), evaluate)
    return placed[0][0].steps[0].config if placed else None


def _routed(route: Route, evaluate: Evaluator) -> list[Trial]:
    done: list[Trial] = []
    while batch := route.following(done):
        done += [replace(_trial(route.grid, evaluate, config), place=place) for config, place in batch.items()]
    return done


def _made(grid: Grid, values: Mapping[str, str | int]) -> Config:
    """The config of these values, feasible or not; what is no axis has one value."""
    known = {parameter.name: parameter.values[0] for parameter in grid.space.parameters}
    return grid.space.make({**known, **values}, grid.problem, grid.gpu, grid.kernel)


def _trial(grid: Grid, evaluate: Evaluator, config: Config) -> Trial:
    return Trial(config=config, measurement=evaluate(grid.plan(config)))


def _study(seed: int) -> optuna.Study:
    return optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
