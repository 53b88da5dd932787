"""Served plans beside fresh winners."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from latune.cache.resources import Resources
from latune.config import Config
from latune.errors import LatuneError
from latune.gpu import Gpu, find_gpu
from latune.measurement import Measurement
from latune.plan import Plan
from latune.problem import Problem
from latune.tuner import regret
from latune.tuner.regret import regret_of
from latune.tuner.tune import Settings

PROBLEM = Problem(
    direction="fwd", decay="constant", dtype="bf16", batch=3, num_heads=32, seqlen=2000, head_dim_k=128, head_dim_v=128
)


@dataclass
class Judge:
    """A millisecond for each warp and half of one for each stage, and twice that in the second race; ``fails`` do not run."""

    fails: tuple[Plan, ...] = ()
    gpu: Gpu = field(default_factory=lambda: find_gpu("h200"))
    evidence: str = "measured"
    bandwidth_gbps: float = 4000.0
    ahead: Plan | None = None
    races: list[list[Plan]] = field(default_factory=list)
    toolchain: Mapping[str, str | None] = field(
        default_factory=lambda: dict.fromkeys(("torch", "triton", "cuda", "driver", "latune", "protocol"), "1")
    )

    def prepare(self, plans: Sequence[Plan], *, urgent: bool = True) -> None:
        pass

    def __call__(self, plan: Plan) -> Measurement:
        if plan in self.fails:
            return Measurement(outcome="illegal_access", detail="it fell")
        config = plan.steps[0].config
        return Measurement(outcome="ok", median_ms=config.num_warps + config.num_stages / 2, samples=3)

    def race(self, plans: Sequence[Plan]) -> list[Measurement]:
        self.races.append(list(plans))
        alone = [self(plan) for plan in plans]
        return [replace(one, median_ms=one.median_ms * len(self.races)) if one.ok else one for one in alone]

    def race_here(self, plans: Sequence[Plan]) -> list[Measurement]:
        return [self(plan) for plan in plans]

    def at(self, problem: Problem) -> Judge:
        return self

    def resources(self, plan: Plan) -> tuple[Resources, ...]:
        return (Resources(name="o_kernel", registers=100, spill_bytes=0, shared_bytes=1, num_warps=8),)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(trials=40, storage=str(tmp_path / "a.journal"))


def served_by(fake_builds: ModuleType, config: Config) -> SimpleNamespace:
    return SimpleNamespace(plan=fake_builds.one("o", config), step="nearest", why="nearest bucket")


def test_the_served_plan_is_compared_in_the_final_race(fake_builds: ModuleType, settings: Settings) -> None:
    evaluate, served = Judge(), served_by(fake_builds, fake_builds.config(num_warps=8, num_stages=3))
    found = regret_of(PROBLEM, served, evaluate, settings)
    assert len(evaluate.races) == 1 and served.plan in evaluate.races[0]
    assert (found.served_ms, found.step, found.problem) == (9.5, "nearest", str(PROBLEM))
    assert found.tuned_ms < 9.5 and found.share == pytest.approx(9.5 / found.tuned_ms - 1)


def test_a_served_plan_that_is_no_candidate_here_has_a_race_with_the_winner(
    fake_builds: ModuleType, settings: Settings
) -> None:
    evaluate, served = Judge(), served_by(fake_builds, fake_builds.config(num_warps=1, num_stages=1, block_n=256))
    found = regret_of(PROBLEM, served, evaluate, settings)
    assert [served.plan in race for race in evaluate.races] == [False, True]
    assert (found.served_ms, found.tuned_ms, found.share) == (3.0, 3.0, 0.0)


def test_a_served_plan_that_fails_is_an_error(fake_builds: ModuleType, settings: Settings) -> None:
    served = served_by(fake_builds, fake_builds.config(num_stages=3))
    with pytest.raises(LatuneError, match="failed \\(illegal_access\\): it fell; tune it anew"):
        regret_of(PROBLEM, served, Judge(fails=(served.plan,)), settings)


def test_an_interrupted_search_has_no_figure(
    fake_builds: ModuleType, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regret, "tune_problem", lambda *_, **__: SimpleNamespace(interrupted=True))
    with pytest.raises(KeyboardInterrupt):
        regret_of(PROBLEM, served_by(fake_builds, fake_builds.config()), Judge(), settings)
