"""How much `latune tune` searches, and how it says why it stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
from entries import valid_entry

from latune.cache.entry import Entry
from latune.cli import racing, searching, tuned
from latune.config import Config
from latune.errors import LatuneError
from latune.measurement import Measurement
from latune.plan import Plan, Step
from latune.problem import Problem
from latune.tuner.effort import EFFORTS
from latune.tuner.search import SearchResult
from latune.tuner.study import Trial
from latune.tuner.target import Target
from latune.tuner.tune import Settings, Tuned

SHAPE = ("--gpu", "a100", "--shape", "1,2,100,16")
PROBLEM = Problem(
    direction="fwd", decay="constant", dtype="bf16", batch=1, num_heads=2, seqlen=100, head_dim_k=16, head_dim_v=16
)


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> list[Settings]:
    """What is asked of each search, none of which finds anything."""
    asked: list[Settings] = []

    def nothing(*_: object, settings: Settings, **__: object) -> Tuned:
        asked.append(settings)
        raise LatuneError("enough")

    monkeypatch.setattr(searching, "tune_problem", nothing)
    return asked


@pytest.mark.parametrize(
    ("options", "trials", "patience"),
    [
        ((), EFFORTS["default"].trials["static"], EFFORTS["default"].patience),
        (("--effort", "max"), EFFORTS["max"].trials["static"], None),
        (("--effort", "max", "--trials", "7"), 7, None),
        (("--trials", "7"), 7, EFFORTS["default"].patience),
    ],
)
def test_effort_bounds_each_search(
    settled: list[Settings], run, options: tuple[str, ...], trials: int, patience: int | None
) -> None:
    assert run("tune", *SHAPE, *options).exit_code == 1
    assert {(settings.trials, settings.patience) for settings in settled} == {(trials, patience)}


@pytest.mark.parametrize(("options", "expected"), [(("--effort", "quick"), [PROBLEM]), (("--transfer",), [])])
def test_a_quick_run_races_what_has_an_entry_too_and_a_transfer_does_not(
    monkeypatch: pytest.MonkeyPatch, own_cache: Path, run, options: tuple[str, ...], expected: list[Problem]
) -> None:
    raced: list[Problem] = []

    def transfer(problem: Problem, *_: object, **__: object) -> Tuned:
        raced.append(problem)
        raise LatuneError("enough")

    monkeypatch.setattr(racing, "begin_transfer", transfer)
    monkeypatch.setattr(searching, "tune_problem", lambda *_, **__: pytest.fail("searched"))
    monkeypatch.setattr(racing, "pending", lambda *_, **__: [])
    assert run("tune", *SHAPE, "--direction", "fwd", *options).exit_code == len(expected)
    assert raced == expected


@pytest.mark.parametrize("other", [("--trials", "3"), ("--storage", "sqlite:///x.db")])
def test_a_quick_run_takes_no_options_of_a_search(run, other: tuple[str, str]) -> None:
    result = run("tune", *SHAPE, "--effort", "quick", *other)
    assert (
        result.exit_code == 2 and "--effort quick searches nothing: expected it without --trials and --storage" in result.stderr
    )


def test_the_more_effort_the_more_trials() -> None:
    quick, default, most = EFFORTS.values()
    for evidence in ("measured", "static"):
        assert quick.trials[evidence] < default.trials[evidence] < most.trials[evidence]


def test_transfer_has_no_effort(run) -> None:
    result = run("tune", *SHAPE, "--transfer", "--effort", "quick")
    assert result.exit_code == 2 and "without --effort" in result.stderr


@pytest.mark.parametrize(("options", "expected"), [((), [True]), (("--transfer",), []), (("--effort", "quick"), [])])
def test_only_searches_ask_what_failed_before(
    monkeypatch: pytest.MonkeyPatch, own_cache: Path, run, options: tuple[str, ...], expected: list[bool]
) -> None:
    """A transfer stores nothing but entries: where it writes those, it needs no other place."""
    asked: list[bool] = []

    def remembering(self: Target, storage: str | None, *, fresh: bool) -> Target:
        asked.append(True)
        return self

    def nothing(*_: object, **__: object) -> Tuned:
        raise LatuneError("enough")

    monkeypatch.setattr(Target, "remembering", remembering)
    monkeypatch.setattr(searching, "tune_problem", nothing)
    monkeypatch.setattr(racing, "begin_transfer", nothing)
    assert run("tune", *SHAPE, *options).exit_code == 1
    assert asked == expected


def test_a_summary_accounts_for_every_trial_and_says_why_searches_ended() -> None:
    config = Config.of("sequential")
    entry: Entry = valid_entry(PROBLEM, Plan((Step(kernel="o", config=config),)), template_sha256="a" * 64)
    fates = (Measurement(outcome="ok", median_ms=1.0), *[Measurement(outcome="timeout")] * 2)
    trials = tuple(Trial(config=config, measurement=fate) for fate in fates)

    def told(stopped: str) -> tuple[str, dict]:
        found = Tuned(entry=entry, searches={"o": SearchResult(trials=trials, resumed=0, stopped=stopped)}, finalists=())
        return tuned.row(PROBLEM, found)[-1], tuned.to_json(PROBLEM, found)

    row, document = told("settled")
    assert row.splitlines() == ["2 timeout", "1 ok", "o ended: no more improvement expected"]
    assert document["searches"] == {"o": {"trials": 3, "outcomes": {"ok": 1, "timeout": 2}, "stopped": "settled"}}
    assert told("trials")[0].splitlines() == ["2 timeout", "1 ok"]
