"""`latune explain`: what it tells of an entry and of the searches behind it, and what it says it does not know."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result
from entries import valid_entry

from latune import paths
from latune.cache.device import DeviceCache
from latune.cache.entry import Entry
from latune.cache.standing import Standing
from latune.cache.store import cache_path, write_entries
from latune.cli.regrets import RegretFile
from latune.codegen.space import load_space
from latune.gpu import find_gpu
from latune.measurement import Measurement
from latune.ops.dispatch import resolve
from latune.plan import KERNELS, Plan, Step
from latune.problem import Problem
from latune.tuner.grid import Grid
from latune.tuner.regret import Regret
from latune.tuner.stored import FEWEST_TRIALS
from latune.tuner.study import Study, Trial

H200 = find_gpu("h200")
PROBLEM = Problem(
    direction="fwd", decay="constant", dtype="bf16", batch=1, num_heads=4, seqlen=256, head_dim_k=16, head_dim_v=16
)
SHAPE = ("1,4,256,16", "--gpu", "h200", "--direction", "fwd")
OPTIONS = "--gpu h200 --shape 1,4,256,16,16 --dtype bf16 --direction fwd --decay constant"
TUNE, REGRET = f"latune tune {OPTIONS}", f"latune regret {OPTIONS}"

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def grid() -> Grid:
    return Grid(load_space("stream"), PROBLEM, H200, KERNELS["o"])


@pytest.fixture
def entry(grid: Grid, own_cache: Path) -> Entry:
    """The only one in the user's cache; its alternate has a stage more than its winner."""
    plans = [_plan(grid, num_stages) for num_stages in (2, 3)]
    entry = valid_entry(PROBLEM, plans[0], alternates=(plans[1],))
    write_entries(H200, [entry])
    return entry


def _plan(grid: Grid, num_stages: int) -> Plan:
    return Plan((Step(kernel="o", config=replace(grid.default, num_stages=num_stages)),))


def _search(grid: Grid, study: str, trials: int, storage: str | None = None) -> None:
    """A study whose trials were the faster the later, but for the first one, which failed."""
    kept = Study(grid, f"{study}-o-{grid.digest}", storage)
    kept.add(Trial(config=grid.configs[0], measurement=Measurement(outcome="timeout", detail="it hung")))
    for index in range(1, trials):
        kept.add(
            Trial(config=grid.configs[index], measurement=Measurement(outcome="ok", median_ms=1 - index / 1000, samples=9))
        )


def _explained(run: Run, *arguments: str) -> dict:
    result = run("explain", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    (explanation,) = json.loads(result.stdout)["explanations"]
    return explanation


def test_an_entry_is_told_with_its_alternates_and_what_it_takes(entry: Entry, run: Run) -> None:
    result = run("explain", *SHAPE)
    assert result.exit_code == 0 and result.stderr == ""
    lines = [line.strip() for line in result.stdout.splitlines()]
    assert lines[0] == f"{PROBLEM} on NVIDIA H200" and lines[1] == "step: exact"
    assert "time: 0.3 ms [0.29, 0.31], 40 samples; 83% of the roof, 0.25 ms" in lines
    assert f"tuned: on {PROBLEM}, measured, 2026-01-31T12:00:00Z" in lines
    assert "1. o: num_stages 2 -> 3" in lines
    (kernel,) = (line for line in lines if line.startswith("o_kernel: 168 registers"))
    assert kernel.endswith("8 warps; 1 program on an SM, limited by registers")
    assert "tune it" not in result.stdout


@pytest.mark.parametrize(
    ("standing", "told"),
    [
        (None, None),
        (Standing(rivals=0, ties=0, certainty=1.0), "race: no other plan passed"),
        (
            Standing(rivals=1, ties=1, certainty=0.9999),
            "race: against 1 other plan; 1 ties with the fastest; at least 99% sure to be within 1% of the best",
        ),
        (
            Standing(rivals=12, ties=2, certainty=0.004),
            "race: against 12 other plans; 2 tie with the fastest; not settled whether it is within 1% of the best",
        ),
    ],
)
def test_how_the_winner_stands_is_told_where_it_is_known(
    entry: Entry, run: Run, standing: Standing | None, told: str | None
) -> None:
    write_entries(H200, [replace(entry, standing=standing)])
    lines = [line.strip() for line in run("explain", *SHAPE).stdout.splitlines()]
    assert [line for line in lines if line.startswith("race:")] == ([] if told is None else [told])


def test_what_is_not_known_is_said_with_what_finds_it_out(entry: Entry, run: Run) -> None:
    lines = [line.strip() for line in run("explain", *SHAPE).stdout.splitlines()]
    assert f"searches: none are kept on this machine; `{TUNE}` makes them" in lines
    assert f"regret: not measured; `{REGRET}` measures it" in lines
    write_entries(H200, [replace(entry, evidence="transferred", bucket=replace(entry.bucket, seqlen=1024))])
    transferred = run("explain", "1,4,1024,16", *SHAPE[1:]).stdout
    assert "searches: the winner was transferred from other buckets; `latune tune" in transferred


def test_both_passes_are_told_by_default_and_a_default_has_no_entry(entry: Entry, run: Run) -> None:
    result = run("explain", *SHAPE[:3])
    forward, backward = result.stdout.split("\n\n")
    assert "step: exact" in forward and "step: default" in backward
    assert "time:" not in backward and f"tune it: {TUNE.replace('fwd', 'bwd')}" in backward


def test_json_has_the_same(entry: Entry, run: Run) -> None:
    explained = _explained(run, *SHAPE)
    assert (explained["step"], explained["problem"], explained["entry"]) == ("exact", str(PROBLEM), entry.to_json())
    assert explained["share_of_roof"] == pytest.approx(0.25 / 0.3)
    assert explained["alternates"] == [{"plan": entry.alternates[0].to_json(), "changes": {"o": {"num_stages": [2, 3]}}}]
    (kernel,) = explained["occupancy"]
    assert (kernel["name"], kernel["programs_per_sm"], kernel["limited_by"]) == ("o_kernel", 1, ["registers"])
    assert (explained["tune"], explained["regret"]) == (TUNE, REGRET)
    assert explained["searched"] is None and explained["regrets"] == []
    static = replace(entry, evidence="static", measurement=Measurement(outcome="ok", median_ms=0.3), roof_ms=None)
    cache_path(paths.user_cache(), H200).unlink()
    write_entries(H200, [static])
    assert _explained(run, *SHAPE)["share_of_roof"] is None and "time: 0.3 ms, predicted; -" in run("explain", *SHAPE).stdout


def test_runners_up_and_the_importance_of_parameters_are_those_of_the_searches(entry: Entry, grid: Grid, run: Run) -> None:
    _search(grid, entry.study, FEWEST_TRIALS + 1)
    lines = [line.strip() for line in run("explain", *SHAPE).stdout.splitlines()]
    assert f"searches of {PROBLEM}, measured:" in lines
    first = next(
        index for index, line in enumerate(lines) if line.startswith(f"o: {FEWEST_TRIALS} of {FEWEST_TRIALS + 1} trials")
    )
    best, second, *_, importance = lines[first + 1 : first + 7]
    assert best.startswith("0.95 ms: ") and "BLOCK_N=" in best
    assert second.startswith("0.951 ms: ") and " -> " in second and "=" not in second
    assert importance.startswith("importance of parameters, by PED-ANOVA: ") and "%" in importance
    (study,) = _explained(run, *SHAPE)["searched"]["studies"]
    assert (study["kernel"], study["trials"], study["correct"]) == ("o", FEWEST_TRIALS + 1, FEWEST_TRIALS)
    assert [fastest["measurement"]["median_ms"] for fastest in study["fastest"]] == [0.95, 0.951, 0.952, 0.953, 0.954]
    assert study["fastest"][0]["changes"] == {} and study["fastest"][0]["config"] == grid.configs[FEWEST_TRIALS].to_json()
    assert sum(study["importance"].values()) == pytest.approx(1)


def test_too_few_trials_tell_no_importance(entry: Entry, grid: Grid, run: Run, tmp_path: Path) -> None:
    storage = ("--storage", str(tmp_path / "mine.journal"))
    _search(grid, entry.study, 3, storage[1])
    text = run("explain", *SHAPE, *storage).stdout
    assert f"2 correct trials are too few, PED-ANOVA takes {FEWEST_TRIALS}; `{TUNE}` with more --trials goes on with it" in text
    (study,) = _explained(run, *SHAPE, *storage)["searched"]["studies"]
    assert study["importance"] is None
    assert _explained(run, *SHAPE)["searched"] is None


def test_where_what_serves_was_not_searched_here_the_buckets_other_entry_may_have_been(
    entry: Entry, grid: Grid, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after `latune tune` for a GPU that is not there, whose shipped entry goes on serving."""
    static = replace(
        entry,
        evidence="static",
        study="here",
        measurement=Measurement(outcome="ok", median_ms=0.4),
        tuned_at="2026-03-01T00:00:00Z",
    )
    shipped = cache_path(paths.user_root() / "shipped", H200)
    shipped.parent.mkdir()
    shipped.write_text(DeviceCache.of(H200, [entry]).to_text(), encoding="utf-8")
    cache_path(paths.user_cache(), H200).unlink()
    write_entries(H200, [static])
    monkeypatch.setattr(paths, "shipped_cache", lambda: shipped.parent)
    _search(grid, "here", 3)
    explained = _explained(run, *SHAPE)
    assert (explained["entry"]["evidence"], explained["searched"]["evidence"]) == ("measured", "static")
    _search(grid, entry.study, 4)
    assert _explained(run, *SHAPE)["searched"]["evidence"] == "measured"


def test_a_regret_is_known_as_long_as_the_same_entry_serves(entry: Entry, run: Run) -> None:
    fields = {"served_ms": 1.02, "tuned_ms": 1.0, "served_plan": "o", "tuned_plan": "o"}
    near = str(replace(PROBLEM, seqlen=250))
    RegretFile.kept(H200, "measured").add(Regret(problem=near, step="exact", served=resolve(PROBLEM, H200).why, **fields))
    RegretFile.kept(H200, "measured").add(Regret(problem="another", step="exact", served="another entry", **fields))
    assert f"  regret: 2.0% at {near}, measured: 1.02 ms served, 1 ms tuned\n" in run("explain", *SHAPE).stdout + "\n"
    (known,) = _explained(run, *SHAPE)["regrets"]
    assert (known["problem"], known["evidence"], known["share"]) == (near, "measured", pytest.approx(0.02))
    write_entries(H200, [replace(entry, tuned_at="2026-03-01T00:00:00Z")])
    assert _explained(run, *SHAPE)["regrets"] == []


def test_of_a_problem_with_states_no_command_measures_the_regret(entry: Entry, run: Run) -> None:
    explained = _explained(run, *SHAPE, "--initial-state")
    assert explained["regret"] is None and explained["step"] == "nearest"
    assert "regret: not measured\n" in run("explain", *SHAPE, "--initial-state").stdout
