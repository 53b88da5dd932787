"""Who wins a race: the fastest, and among plans that tie the one that serves the whole bucket."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType

import pytest

from latune.cache.resources import Resources
from latune.cache.standing import Standing
from latune.measurement import Measurement
from latune.plan import Plan
from latune.problem import Problem
from latune.tuner.podium import podium, ranked, standing, with_alternates

PROBLEM = Problem(
    direction="fwd", decay="constant", dtype="bf16", batch=3, num_heads=32, seqlen=8192, head_dim_k=128, head_dim_v=128
)
PASSED = [1.0, 1.005, 1.02]


@dataclass
class Elsewhere:
    """Times plans by ``ms`` on other problems, one that has none there failing; a plan's shared memory is by its stages."""

    ms: dict[Plan, float] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    raced: list[Sequence[Plan]] = field(default_factory=list)

    def at(self, problem: Problem) -> Elsewhere:
        self.problems.append(problem)
        return self

    def race_here(self, plans: Sequence[Plan]) -> list[Measurement]:
        self.raced.append(plans)
        return [ok(self.ms[plan]) if plan in self.ms else Measurement(outcome="timeout") for plan in plans]

    def resources(self, plan: Plan) -> tuple[Resources, ...]:
        stages = plan.steps[0].config.num_stages
        return (Resources(name="o_kernel", registers=100, spill_bytes=0, shared_bytes=stages, num_warps=8),)


def ok(median_ms: float) -> Measurement:
    return Measurement(outcome="ok", median_ms=median_ms, samples=3)


@pytest.fixture
def plans(fake_builds: ModuleType) -> list[Plan]:
    """The first takes the most shared memory, the last the least."""
    return [fake_builds.one("o", fake_builds.config(num_stages=stages)) for stages in (4, 3, 2)]


def placed(plans: Sequence[Plan], evaluate: Elsewhere, times_ms: Sequence[float] = PASSED) -> list[Plan]:
    raced = list(zip(plans, map(ok, times_ms), strict=True))
    order = podium(PROBLEM, raced, evaluate)  # type: ignore[arg-type]
    assert sorted(order, key=str) == sorted(raced, key=str)
    return [plan for plan, _ in order]


def test_plans_that_tie_are_raced_on_the_buckets_smallest_problem(plans: list[Plan]) -> None:
    evaluate = Elsewhere(ms={plans[0]: 0.5, plans[1]: 0.6})
    assert placed(plans, evaluate) == plans
    assert evaluate.problems == [PROBLEM.bucket().smallest_problem()]
    assert evaluate.raced == [plans[:2]]
    assert placed(plans, Elsewhere(ms={plans[0]: 0.6, plans[1]: 0.5})) == [plans[1], plans[0], plans[2]]


def test_what_ties_there_too_goes_by_shared_memory(plans: list[Plan]) -> None:
    assert placed(plans, Elsewhere(ms={plans[0]: 0.5, plans[1]: 0.504}))[0] == plans[1]


def test_shared_memory_decides_only_among_the_closest(plans: list[Plan]) -> None:
    both = Elsewhere(ms={plans[0]: 0.5, plans[1]: 0.5})
    assert placed(plans, both, [1.0, 1.006, 1.02])[0] == plans[0]
    assert placed(plans, both, [1.006, 1.0, 1.02])[0] == plans[1]


def test_where_none_runs_there_shared_memory_decides(plans: list[Plan]) -> None:
    assert placed(plans, Elsewhere())[0] == plans[1]


def test_the_fastest_alone_needs_no_other_race(plans: list[Plan]) -> None:
    evaluate = Elsewhere()
    assert placed(plans, evaluate, [1.0, 1.02, 1.005 * 1.02])[0] == plans[0]
    assert evaluate.raced == []


def test_what_failed_has_no_place(plans: list[Plan]) -> None:
    raced = [(plans[0], Measurement(outcome="wrong_result")), (plans[1], ok(2.0)), (plans[2], ok(1.0))]
    assert ranked(raced) == [raced[2], raced[1]]
    assert podium(PROBLEM, raced[:1], Elsewhere()) == []  # type: ignore[arg-type]


def test_among_the_alternates_is_one_that_reads_no_checkpoints(fake_builds: ModuleType) -> None:
    """It runs where there are none."""
    walks = [fake_builds.one("dqdkdv", fake_builds.config(num_stages=stages)) for stages in (2, 3, 4)]
    alone = [fake_builds.one("dq", fake_builds.config(num_stages=stages)) for stages in (2, 3)]
    placed = [(plan, ok(time)) for time, plan in enumerate([*walks, *alone], start=1)]
    assert with_alternates(placed, 1) == [*walks[:2], alone[0]]
    assert with_alternates(placed, 3) == [*walks, alone[0]]
    assert with_alternates(placed[:3], 1) == walks[:2]
    assert with_alternates(placed[3:], 1) == alone
    assert with_alternates(placed[3:], 0) == alone[:1]


@pytest.mark.parametrize(
    ("times_ms", "expected"),
    [
        # What ties is counted from the fastest, which need not be the winner.
        ([1.009, 1.0, 1.0101, 2.0], Standing(rivals=3, ties=1, certainty=1.0)),
        ([1.0], Standing(rivals=0, ties=0, certainty=1.0)),
        ([1.02, 1.0], Standing(rivals=1, ties=0, certainty=0.0)),
    ],
)
def test_what_a_winner_stands_against(plans: list[Plan], times_ms: list[float], expected: Standing) -> None:
    """Times without intervals are certain."""
    assert standing([(plans[0], ok(time_ms)) for time_ms in times_ms]) == expected


def test_of_plans_that_tie_throughout_the_one_without_launch_options_wins(plans: list[Plan]) -> None:
    plain = plans[0]
    assert placed([plain.chained(), plain], Elsewhere(ms={plain: 0.5, plain.chained(): 0.5}), [1.0, 1.0])[0] == plain
