"""Searches over a landscape known in closed form: what they evaluate, and what they find."""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from latune.config import Config
from latune.measurement import Measurement
from latune.plan import Plan
from latune.tuner.grid import Grid
from latune.tuner.route import Route
from latune.tuner.search import TrialEvent
from latune.tuner.study import Trial, propose

FEW = """
kernel: stream
parameters:
  algorithm: {kind: algorithm, values: [sequential], about: where states come from}
  state_layout: {kind: choice, values: [plain, transposed], about: layout of the state}
  branched: {kind: choice, values: [none], when: state_layout == 'transposed', about: products under a branch}
  loads: {kind: choice, values: [pointer], about: how tiles come from memory}
  decay_mode: {kind: choice, values: [matrix], about: the decay inside a chunk}
  decayed: {kind: choice, values: [value], about: the operand that carries the decay}
  BLOCK_D: {kind: constexpr, values: [128], about: columns of a tile}
  BLOCK_E: {kind: constexpr, powers_of_two: [32, 128], about: columns}
  BLOCK_N: {kind: constexpr, powers_of_two: [32, 64], about: rows}
  PROGRAMS: {kind: constexpr, values: [128], when: algorithm == 'split', about: programs}
  num_warps: {kind: launch, values: [8], about: warps}
  num_stages: {kind: launch, values: [3], about: stages}
constraints:
  - {require: BLOCK_E * BLOCK_N < 8192, why: the tile is too large}
default: {algorithm: sequential, state_layout: transposed, branched: none, loads: pointer, decay_mode: matrix,
  decayed: value, BLOCK_E: 64, BLOCK_N: 32, BLOCK_D: 128, PROGRAMS: 128, num_warps: 8, num_stages: 3}
"""


@pytest.fixture(scope="module")
def grid(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Grid:
    return Grid(synthetic.space(tmp_path_factory.mktemp("grid")), synthetic.PROBLEM, synthetic.GPU, synthetic.KERNEL)


def test_a_small_space_is_enumerated_default_first(synthetic: ModuleType, tmp_path: Path) -> None:
    space = synthetic.space(tmp_path, FEW)
    result = synthetic.run(tmp_path / "few.journal", space=space, trials=50)
    feasible = list(space.configs(synthetic.PROBLEM, synthetic.GPU, synthetic.KERNEL))
    assert len(feasible) == 10
    assert result.trials[0].config == space.default(synthetic.PROBLEM, synthetic.GPU, synthetic.KERNEL)
    assert sorted(trial.config for trial in result.trials) == sorted(feasible)
    assert result.stopped == "exhausted"
    assert result.best is not None
    assert result.best.measurement.median_ms == min(synthetic.measure(config).median_ms for config in feasible)


def test_every_evaluation_is_feasible_and_new(synthetic: ModuleType, grid: Grid, tmp_path: Path) -> None:
    result = synthetic.run(tmp_path / "a.journal", trials=60)
    assert len(result.trials) == len(set(synthetic.digests(result))) == 60
    assert all(trial.config in grid for trial in result.trials)
    assert result.stopped == "trials"


def test_failures_are_data(synthetic: ModuleType, tmp_path: Path) -> None:
    def fail_some(plan: Plan) -> Measurement:
        warps = plan.steps[0].config.num_warps
        return synthetic.evaluate(plan) if warps == 8 else Measurement(outcome="wrong_result", detail=f"{warps} warps")

    result = synthetic.run(tmp_path / "a.journal", fail_some)
    assert sum(result.outcomes.values()) == 30
    assert result.outcomes["wrong_result"] > 0
    assert result.ranked
    assert {trial.config.num_warps for trial in result.ranked} == {8}
    assert [t.measurement.median_ms for t in result.ranked] == sorted(t.measurement.median_ms for t in result.ranked)


def test_starts_follow_the_default_and_strangers_are_passed_over(synthetic: ModuleType, grid: Grid, tmp_path: Path) -> None:
    known = grid.configs[-1]
    stranger = Config.of("sequential", constexprs={"BLOCK_E": 7})
    result = synthetic.run(tmp_path / "a.journal", trials=5, starts=(stranger, known, grid.default))
    assert [trial.config for trial in result.trials[:2]] == [grid.default, known]


@pytest.mark.parametrize("batch", [1, 4])
def test_same_seed_same_search(synthetic: ModuleType, tmp_path: Path, batch: int) -> None:
    first, second, other = (
        synthetic.run(tmp_path / name / "a.journal", seed=seed, batch=batch) for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert first == second
    assert synthetic.digests(first) != synthetic.digests(other)


def test_it_beats_random_search(synthetic: ModuleType, grid: Grid) -> None:
    def searched_ms(seed: int) -> float:
        route, trials = Route(grid=grid, starts=(grid.default,), trials=50, seed=seed, batch=5), []
        while batch := route.following(trials):
            trials += [
                Trial(config=config, measurement=synthetic.measure(config), place=place) for config, place in batch.items()
            ]
        return fastest_ms(trials)

    def random_ms(seed: int) -> float:
        drawn = random.Random(seed).sample(grid.configs, 50)
        return fastest_ms([Trial(config=config, measurement=synthetic.measure(config)) for config in drawn])

    searched = statistics.median(searched_ms(seed) for seed in range(5))
    by_chance = statistics.median(random_ms(seed) for seed in range(50))
    assert len(grid.configs) > 2000
    assert searched <= synthetic.BEST_MS / 0.98
    assert by_chance > synthetic.BEST_MS / 0.92


def fastest_ms(trials: list[Trial]) -> float:
    return min(trial.measurement.median_ms for trial in trials if trial.measurement.median_ms is not None)


def test_the_polish_tries_the_neighbours_of_the_best(synthetic: ModuleType, grid: Grid) -> None:
    near = next(c for c in grid.configs if synthetic.measure(c).median_ms == pytest.approx(1.08 * synthetic.BEST_MS))
    far = [config for config in grid.configs if (synthetic.measure(config).median_ms or 9) > 1.5][:14]
    trials = [Trial(config=config, measurement=synthetic.measure(config)) for config in (near, *far)]
    route = Route(grid=grid, starts=(), trials=20, seed=0, batch=5)
    assert set(route.following(trials)) <= set(grid.neighbours(near))


def test_proposals_depend_on_what_was_found(synthetic: ModuleType, grid: Grid) -> None:
    def proposed(layout: str) -> int:
        trials = [
            Trial(config=config, measurement=Measurement(outcome="ok", median_ms=1.0 if layout in str(config) else 2.0))
            for config in random.Random(0).sample(grid.configs, 40)
        ]
        proposals = propose(grid, trials, seed=0)
        return sum("plain" in str(next(proposals)) for _ in range(20))

    assert proposed("plain") > 12
    assert proposed("transposed") < 8


def test_a_batch_is_prepared_while_the_one_before_it_is_evaluated(synthetic: ModuleType, tmp_path: Path) -> None:
    prepared: dict[bool, list[Config]] = {True: [], False: []}
    ahead_of: list[int] = []

    def prepare(plans: Sequence[Plan], *, urgent: bool) -> None:
        prepared[urgent] += [plan.steps[0].config for plan in plans]

    def evaluate(plan: Plan) -> Measurement:
        assert plan.steps[0].config in prepared[True]
        ahead_of.append(len(prepared[False]))
        return synthetic.evaluate(plan)

    result = synthetic.run(tmp_path / "a.journal", evaluate, batch=8, prepare=prepare)
    configs = [trial.config for trial in result.trials]
    assert prepared == {True: configs, False: configs[8:]}
    assert ahead_of == [8] * 8 + [16] * 8 + [22] * 14


def test_events_tell_index_total_and_best(synthetic: ModuleType, tmp_path: Path) -> None:
    events: list[TrialEvent] = []
    result = synthetic.run(tmp_path / "a.journal", on_trial=events.append)
    assert [(event.index, event.total) for event in events] == [(index, 30) for index in range(1, 31)]
    assert events[-1].best == result.best
    assert [event.config for event in events] == [trial.config for trial in result.trials]


def test_no_evaluation_begins_after_the_time_is_up(synthetic: ModuleType, tmp_path: Path) -> None:
    result = synthetic.run(tmp_path / "a.journal", time_budget_s=0.0)
    assert (result.trials, result.stopped, result.best) == ((), "time", None)


def evaluated(synthetic: ModuleType, route: Route) -> list[Trial]:
    """All of the route, one batch after another."""
    trials: list[Trial] = []
    while batch := route.following(trials):
        trials += [Trial(config=config, measurement=synthetic.measure(config), place=place) for config, place in batch.items()]
    return trials


@pytest.mark.parametrize("batch", [4, 12])
def test_a_search_ends_when_its_patience_and_the_best_ones_neighbours_do(synthetic: ModuleType, grid: Grid, batch: int) -> None:
    route = Route(grid=grid, starts=(grid.default,), trials=200, seed=0, batch=batch, patience=30)
    trials = evaluated(synthetic, route)
    assert 31 < len(trials) < 200 and route.is_settled(trials)
    best = sorted(trials, key=lambda trial: (trial.measurement.median_ms or 9, trial.config))[:3]
    tried = {trial.config for trial in trials}
    assert all(tried.issuperset(grid.neighbours(trial.config)) for trial in best)
    patient = Route(grid=grid, starts=(grid.default,), trials=200, seed=0, batch=batch)
    assert not patient.is_settled(trials) and len(evaluated(synthetic, patient)) == 200


def test_until_its_patience_ends_a_search_goes_as_one_without(synthetic: ModuleType, grid: Grid) -> None:
    """And then, once the batch that was under way has come in, to the neighbours of the best."""
    plain = Route(grid=grid, starts=(grid.default,), trials=120, seed=0, batch=1)
    route = replace(plain, patience=30)
    patient, impatient = evaluated(synthetic, plain), evaluated(synthetic, route)
    end = next(count for count in range(120) if route.is_settled(patient[:count]))
    best_ms = [min(trial.measurement.median_ms or 9 for trial in patient[:count]) for count in range(1, end + 1)]
    assert best_ms[-31] <= 1.01 * best_ms[-1] and all(best_ms[i - 31] > 1.01 * best_ms[i - 1] for i in range(31, end))
    assert impatient[: end + 1] == patient[: end + 1]
    fastest = sorted(patient[:end], key=lambda trial: (trial.measurement.median_ms or 9, trial.config))[:3]
    assert impatient[end + 1].config in {config for trial in fastest for config in grid.neighbours(trial.config)}


def test_starts_have_all_been_tried_before_patience_counts(synthetic: ModuleType, grid: Grid) -> None:
    starts = (grid.default, *random.Random(0).sample(grid.configs, 40))
    route = Route(grid=grid, starts=starts, trials=400, seed=0, batch=1, patience=5)
    trials = evaluated(synthetic, route)
    assert {trial.config for trial in trials[: len(set(starts))]} == set(starts)
    assert not any(route.is_settled(trials[:count]) for count in range(len(set(starts)) + 5))


def test_while_nothing_is_correct_there_is_no_end_to_patience(grid: Grid) -> None:
    failed = [Trial(config=config, measurement=Measurement(outcome="timeout")) for config in grid.configs[:60]]
    route = Route(grid=grid, starts=(grid.default,), trials=400, seed=0, batch=1, patience=5)
    assert not route.is_settled(failed)
    correct = Trial(config=grid.configs[60], measurement=Measurement(outcome="ok", median_ms=1.0))
    assert not route.is_settled([*failed, correct]) and route.is_settled([*failed, correct, *failed[:5]])


@pytest.mark.parametrize("share", [0.5, 0.999], ids=["better", "tied"])
@pytest.mark.parametrize("batch", [4, 12])
def test_a_last_batch_that_changes_the_best_three_is_not_the_last(
    synthetic: ModuleType, grid: Grid, batch: int, share: float
) -> None:
    """Where it finds what is better, and where it finds no more than a tie, with which the search stays settled."""
    route = Route(grid=grid, starts=(grid.default,), trials=200, seed=0, batch=batch, patience=30)
    trials = evaluated(synthetic, route)
    assert len(trials) % batch == 0 and route.following(trials) == {}
    tried = {trial.config for trial in trials}
    last = next(i for i in range(-batch, 0) if not tried.issuperset(grid.neighbours(trials[i].config)))
    best_ms = min(trial.measurement.median_ms or 9 for trial in trials)
    found = replace(trials[last], measurement=Measurement(outcome="ok", median_ms=share * best_ms))
    changed = [found if trial is trials[last] else trial for trial in trials]
    assert route.is_settled(changed) == (share > 0.99)
    following = route.following(changed)
    assert set(following) & set(grid.neighbours(found.config))
    assert len(following) == batch and not set(following) & tried


def test_a_search_says_that_it_settled(synthetic: ModuleType, tmp_path: Path) -> None:
    result = synthetic.run(tmp_path / "a.journal", trials=400, batch=10, patience=20)
    assert result.stopped == "settled" and len(result.trials) < 200
    assert result.best is not None and result.best.measurement.median_ms <= 1.05 * synthetic.BEST_MS
    again = synthetic.run(tmp_path / "a.journal", trials=400, batch=10, patience=20)
    assert (again.stopped, again.resumed) == ("settled", len(result.trials))


@pytest.mark.parametrize("batch", [1, 6])
def test_what_is_ahead_is_what_follows(synthetic: ModuleType, grid: Grid, batch: int) -> None:
    """Whatever comes of the batch in hand, in whatever order, and for another process, which has chosen none of it before."""
    route, trials = Route(grid=grid, starts=(grid.default,), trials=40, seed=0, batch=batch, patience=12), []
    while following := route.following(trials):
        ahead = route.ahead(trials)
        results = [(config, place, synthetic.measure(config)) for config, place in following.items()]
        other = [Trial(config=config, measurement=Measurement(outcome="timeout"), place=place) for config, place, _ in results]
        trials += [Trial(config=config, measurement=measurement, place=place) for config, place, measurement in results]
        assert list(replace(route).following(trials)) == ahead
        assert list(replace(route).following([*trials[: -len(other)], *other])) == ahead
    assert len({trial.config for trial in trials}) == len(trials) > 12


def test_a_batch_is_chosen_once(synthetic: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though it is asked for ahead, and when its turn comes."""
    seeds: list[int] = []

    def counted(*arguments: object, seed: int) -> Iterator[Config]:
        seeds.append(seed)
        return propose(*arguments, seed=seed)

    monkeypatch.setattr("latune.tuner.route.propose", counted)
    synthetic.run(tmp_path / "a.journal", trials=40, batch=8)
    assert len(set(seeds)) == len(seeds) > 2
