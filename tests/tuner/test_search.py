"""Searches over a landscape known in closed form: what they find, and that killing one loses nothing."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from latune.config import Config
from latune.errors import StudyError
from latune.measurement import Measurement
from latune.plan import Plan
from latune.tuner.grid import Grid
from latune.tuner.search import Route, SearchResult, TrialEvent
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


def digests(result: SearchResult) -> list[str]:
    return [trial.config.digest for trial in result.trials]


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
    assert len(result.trials) == len(set(digests(result))) == 60
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
    assert digests(first) != digests(other)


def test_it_beats_random_search(synthetic: ModuleType, grid: Grid) -> None:
    def searched_ms(seed: int) -> float:
        route, trials = Route(grid=grid, starts=(grid.default,), trials=50, seed=seed, batch=5), []
        while batch := route.following(trials):
            trials += [Trial(config=config, measurement=synthetic.measure(config)) for config in batch]
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
    trials = [Trial(config=config, measurement=synthetic.measure(config)) for config in (*far, near)]
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


def test_batches_are_prepared_before_they_are_evaluated(synthetic: ModuleType, tmp_path: Path) -> None:
    prepared: list[Plan] = []

    def evaluate(plan: Plan) -> Measurement:
        assert plan in prepared
        return synthetic.evaluate(plan)

    result = synthetic.run(tmp_path / "a.journal", evaluate, batch=8, prepare=prepared.extend)
    assert [plan.steps[0].config for plan in prepared] == [trial.config for trial in result.trials]


def test_events_tell_index_total_and_best(synthetic: ModuleType, tmp_path: Path) -> None:
    events: list[TrialEvent] = []
    result = synthetic.run(tmp_path / "a.journal", on_trial=events.append)
    assert [(event.index, event.total) for event in events] == [(index, 30) for index in range(1, 31)]
    assert events[-1].best == result.best
    assert [event.config for event in events] == [trial.config for trial in result.trials]


def test_no_evaluation_begins_after_the_time_is_up(synthetic: ModuleType, tmp_path: Path) -> None:
    result = synthetic.run(tmp_path / "a.journal", time_budget_s=0.0)
    assert (result.trials, result.stopped, result.best) == ((), "time", None)


def test_ctrl_c_keeps_the_best_so_far(synthetic: ModuleType, tmp_path: Path) -> None:
    result = synthetic.run(tmp_path / "a.journal", interrupt_at(7, synthetic))
    assert result.stopped == "interrupted"
    assert len(result.trials) == 6
    assert result.best is not None


def interrupt_at(call: int, synthetic: ModuleType) -> Callable[[Plan], Measurement]:
    calls: list[Plan] = []

    def evaluate(plan: Plan) -> Measurement:
        calls.append(plan)
        if len(calls) == call:
            raise KeyboardInterrupt
        return synthetic.evaluate(plan)

    return evaluate


@pytest.mark.parametrize("batch", [1, 4])
def test_an_interrupted_search_ends_where_an_uninterrupted_one_does(synthetic: ModuleType, tmp_path: Path, batch: int) -> None:
    whole = synthetic.run(tmp_path / "whole.journal", batch=batch)
    for call in (2, 5, 20):
        synthetic.run(tmp_path / "parts.journal", interrupt_at(call, synthetic), batch=batch)
    resumed = synthetic.run(tmp_path / "parts.journal", batch=batch)
    assert resumed.resumed == 1 + 4 + 19
    assert resumed.trials == whole.trials


@pytest.mark.parametrize(("stay_at", "batch"), [(1, 1), (12, 1), (12, 4), (29, 4)])
def test_a_killed_search_loses_only_what_was_in_flight(synthetic: ModuleType, tmp_path: Path, stay_at: int, batch: int) -> None:
    journal = tmp_path / "killed.journal"
    begun = kill_at(synthetic, journal, stay_at, batch)
    assert len(begun) == stay_at

    again: list[str] = []

    def evaluate(plan: Plan) -> Measurement:
        again.append(plan.steps[0].config.digest)
        return synthetic.evaluate(plan)

    result = synthetic.run(journal, evaluate, batch=batch)
    assert result.resumed == stay_at - 1
    assert digests(result) == begun[:-1] + again
    assert again[0] == begun[-1]
    assert result.trials == synthetic.run(tmp_path / "whole.journal", batch=batch).trials


def kill_at(synthetic: ModuleType, journal: Path, stay_at: int, batch: int) -> list[str]:
    """Runs the search in a process, kills it with SIGKILL inside an evaluation; returns those that had begun."""
    command = [sys.executable, str(synthetic.__file__), str(journal), "30", str(batch), str(stay_at)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        begun = [process.stdout.readline().strip() for _ in range(stay_at)]
        process.kill()
    assert all(begun), "the process ended before it was killed"
    return begun


def test_a_torn_last_line_is_cut_off(synthetic: ModuleType, tmp_path: Path) -> None:
    journal = tmp_path / "a.journal"
    synthetic.run(journal, trials=5)
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-20])
    result = synthetic.run(journal, trials=8)
    assert result.resumed == 4
    assert len(result.trials) == 8


def test_a_damaged_study_is_set_aside_and_begun_anew(synthetic: ModuleType, tmp_path: Path) -> None:
    journal = tmp_path / "a.journal"
    synthetic.run(journal, trials=5)
    first, _, *rest = journal.read_bytes().splitlines(keepends=True)
    damaged = b"".join([first, b"garbage\n", *rest])
    journal.write_bytes(damaged)
    with pytest.warns(UserWarning, match=r"damaged and was set aside as a\.journal\.damaged-1"):
        assert synthetic.run(journal, trials=5).resumed == 0
    assert (tmp_path / "a.journal.damaged-1").read_bytes() == damaged


@pytest.mark.parametrize("content", [b"SQLite format 3\0\1\2", b"my notes\nof today", b"no end"])
def test_a_file_that_is_no_journal_is_left_as_it_is(synthetic: ModuleType, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "study.db").write_bytes(content)
    with pytest.raises(StudyError, match=r"expected a journal at .* sqlite:///FILE"):
        synthetic.run(tmp_path / "unused.journal", storage=str(tmp_path / "study.db"), trials=2)
    assert (tmp_path / "study.db").read_bytes() == content


def test_a_config_that_two_runs_evaluated_counts_once(synthetic: ModuleType, tmp_path: Path) -> None:
    journal = tmp_path / "a.journal"
    first = synthetic.run(journal, trials=5)
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines, lines[-1]]))
    again = synthetic.run(journal, trials=8)
    assert (again.resumed, len(set(digests(again)))) == (5, 8)
    assert again.trials[:5] == first.trials


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        ("foo://bar", ["'foo://bar'", "NoSuchModuleError", "--storage"]),
        ("sqlite:////proc/x.db", ["OperationalError", "--storage"]),
        ("/dev/null/studies", ["NotADirectoryError", "--storage"]),
        (None, ["NotADirectoryError", "LATUNE_CACHE_DIR"]),
    ],
)
def test_a_storage_that_cannot_be_used_is_one_line_with_a_remedy(
    synthetic: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str | None, words: list[str]
) -> None:
    monkeypatch.setenv("LATUNE_CACHE_DIR", "/dev/null/cache")
    with pytest.raises(StudyError) as error:
        synthetic.run(tmp_path / "unused.journal", storage=storage, trials=2)
    assert [word for word in words if word not in str(error.value)] == [], str(error.value)


def test_a_folder_with_a_dot_in_its_name_is_a_folder(synthetic: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "v1.2").mkdir()
    synthetic.run(tmp_path / "unused.journal", storage=str(tmp_path / "v1.2"), trials=2)
    assert [path.suffix for path in (tmp_path / "v1.2").glob("*.journal")] == [".journal"]


def test_any_seed_is_one(synthetic: ModuleType, tmp_path: Path) -> None:
    assert len(synthetic.run(tmp_path / "a.journal", trials=20, seed=10**12).trials) == 20


def test_more_trials_go_on_with_the_same_study(synthetic: ModuleType, tmp_path: Path) -> None:
    short = synthetic.run(tmp_path / "a.journal", trials=10)
    longer = synthetic.run(tmp_path / "a.journal", trials=25)
    assert longer.resumed == 10
    assert longer.trials[:10] == short.trials
    assert len(set(digests(longer))) == 25
    assert synthetic.run(tmp_path / "a.journal", trials=25).resumed == 25


def test_fresh_forgets(synthetic: ModuleType, tmp_path: Path) -> None:
    synthetic.run(tmp_path / "a.journal", trials=10)
    assert synthetic.run(tmp_path / "a.journal", trials=10, fresh=True).resumed == 0


def test_a_database_keeps_a_study_too(synthetic: ModuleType, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    first = synthetic.run(tmp_path / "unused.journal", storage=url, trials=6)
    assert synthetic.run(tmp_path / "unused.journal", storage=url, trials=6).trials == first.trials
    assert not (tmp_path / "unused.journal").exists()


def test_studies_live_under_the_cache_root(synthetic: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATUNE_CACHE_DIR", str(tmp_path / "cache"))
    synthetic.run(tmp_path / "unused.journal", storage=None, trials=2)
    assert [path.name.split("-")[0] for path in (tmp_path / "cache" / "studies").glob("*.journal")] == ["synthetic"]


def test_a_constraint_of_today_hides_trials_of_yesterday(synthetic: ModuleType, tmp_path: Path) -> None:
    journal = tmp_path / "a.journal"
    before = synthetic.run(journal, trials=30)
    stricter = synthetic.SPACE.replace("BLOCK_E * BLOCK_N <= 8192", "BLOCK_E * BLOCK_N <= 2048")
    after = synthetic.run(journal, trials=30, space=synthetic.space(tmp_path, stricter))
    kept = [trial for trial in before.trials if trial in after.trials]
    assert 0 < after.resumed == len(kept) < 30
