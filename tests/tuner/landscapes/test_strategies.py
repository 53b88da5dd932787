"""Searches of a landscape, and what they are found to be worth."""

from __future__ import annotations

import pytest

from latune.config import Config
from latune.tuner.landscapes.recorded import RecordedEvaluator
from latune.tuner.landscapes.score import score
from latune.tuner.landscapes.strategies import STRATEGIES, chosen
from latune.tuner.study import Trial


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_search_makes_so_many_trials_of_configs_that_are_there(landscape, name):
    trials = STRATEGIES[name](landscape.grid, RecordedEvaluator(landscape), 24, 0)
    assert len(trials) == 24 and all(trial.config in landscape.by_config for trial in trials)
    again = STRATEGIES[name](landscape.grid, RecordedEvaluator(landscape), 24, 0)
    other = STRATEGIES[name](landscape.grid, RecordedEvaluator(landscape), 24, 1)
    assert trials == again != other
    if name != "tpe":
        assert len({trial.config for trial in trials}) == 24


def test_latune_evaluates_the_space_s_default_first(landscape):
    for name in ("latune", "without-starts"):
        trials = STRATEGIES[name](landscape.grid, RecordedEvaluator(landscape), 8, 0)
        assert trials[0].config == landscape.grid.default


def test_the_winner_is_that_of_a_race_and_not_of_single_times(landscape):
    best = next(point for point in landscape.points if point.time_ms == landscape.best_ms)
    slower = next(point for point in landscape.points if point.measurement.ok and 1.05 < point.time_ms / best.time_ms < 1.1)

    times = {best.config: 1.1, slower.config: 0.5}
    lucky = [Trial(config=config, measurement=timed(landscape.by_config[config], ms)) for config, ms in times.items()]
    assert chosen(landscape, lucky, RecordedEvaluator(landscape)) == best.config


def timed(point, median_ms):
    return type(point.measurement)(outcome="ok", median_ms=median_ms)


def test_a_score_counts_what_was_chosen(landscape, monkeypatch):
    ok = [point for point in landscape.points if point.measurement.ok]
    best = min(ok, key=lambda point: point.time_ms).config
    slow = max(ok, key=lambda point: point.time_ms).config
    failing = next(point.config for point in landscape.points if not point.measurement.ok)
    picks: dict[int, Config] = {0: best, 1: slow, 2: best, 3: failing}

    def pick(grid, evaluate, trials, seed):
        return [Trial(config=picks[seed], measurement=landscape.by_config[picks[seed]].measurement)]

    monkeypatch.setattr("latune.tuner.landscapes.score.STRATEGIES", {"pick": pick})
    found = score(landscape, "pick", trials=1, seeds=range(4))
    assert found.trials == (1, 1, 1, 1)
    assert found.shares == (1, landscape.share_of_best(slow), 1, 0)
    assert (found.ties, found.tied, found.worst) == (2, 0.5, 0) and found.median == (1 + found.shares[1]) / 2


def test_it_finds_the_best_of_a_landscape_in_a_seventh_of_its_configs(landscape):
    found = score(landscape, "without-starts", trials=len(landscape.points) // 7, seeds=range(8))
    assert found.median >= 0.98 and found.worst >= 0.95, found
