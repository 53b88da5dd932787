"""Plans of other problems raced on this one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType

import pytest

from latune.cache.resources import Resources
from latune.errors import LatuneError
from latune.gpu import Gpu, find_gpu
from latune.measurement import Measurement
from latune.plan import Plan
from latune.problem import Problem
from latune.tuner.transfer import begin_transfer, foresee_transfer
from latune.tuner.tune import Tuned

LONG = Problem(
    direction="fwd", decay="constant", dtype="bf16", batch=1, num_heads=64, seqlen=32768, head_dim_k=128, head_dim_v=128
)


@dataclass
class Raced:
    """Gives plans the times of ``ms``, by number of programs; what has no time there fails."""

    ms: Mapping[object, float]
    evidence: str = "measured"
    gpu: Gpu = field(default_factory=lambda: find_gpu("h200"))
    bandwidth_gbps: float = 4000.0
    ahead: Plan | None = None
    races: list[Sequence[Plan]] = field(default_factory=list)
    foreseen: list[Plan] = field(default_factory=list)
    prepared: list[Plan] = field(default_factory=list)
    toolchain: Mapping[str, str | None] = field(
        default_factory=lambda: dict.fromkeys(("torch", "triton", "cuda", "driver", "latune", "protocol"), "1")
    )

    def prepare(self, plans: Sequence[Plan], *, urgent: bool = True) -> None:
        (self.prepared if urgent else self.foreseen).extend(plans)

    def has_compiled(self, plans: Sequence[Plan]) -> bool:
        return len(plans) < 2

    def race_here(self, plans: Sequence[Plan]) -> list[Measurement]:
        self.races.append(plans)
        return [self._judge(plan.steps[0].config.values().get("PROGRAMS")) for plan in plans]

    def _judge(self, programs: object) -> Measurement:
        if programs in self.ms:
            return Measurement(outcome="ok", median_ms=self.ms[programs], samples=int(self.evidence == "measured"))
        return Measurement(outcome="illegal_access", detail="it fell")

    def at(self, problem: Problem) -> Raced:
        return self

    def resources(self, plan: Plan) -> tuple[Resources, ...]:
        return (Resources(name="o_kernel", registers=100, spill_bytes=0, shared_bytes=1, num_warps=8),)


@pytest.fixture
def starts(fake_builds: ModuleType) -> list[Plan]:
    """Splits in 512 and, fewer than heads allow, 64 programs."""
    return [
        fake_builds.one("o", fake_builds.config(algorithm="split", programs=programs, num_stages=3)) for programs in (512, 64)
    ]


def programs(plan: Plan) -> object:
    return plan.steps[0].config.values().get("PROGRAMS")


def transfer_problem(problem: Problem, evaluate: Raced, starts: Sequence[Plan]) -> Tuned:
    return begin_transfer(problem, None, evaluate, starts).finish()


def test_the_fastest_start_wins_and_the_entry_says_where_it_comes_from(starts: list[Plan]) -> None:
    evaluate = Raced(ms={None: 0.5, 512: 0.2, 128: 0.25})
    tuned = transfer_problem(LONG, evaluate, starts)
    assert (tuned.entry.plan, tuned.entry.evidence) == (starts[0], "transferred")
    assert (tuned.entry.problem, tuned.entry.measurement.median_ms) == (LONG, 0.2)
    assert [programs(plan) for plan in evaluate.races[0]] == [512, 128, None]
    (alternate,) = tuned.entry.alternates
    assert programs(alternate) == 512, "as fast: chained, or a stage deeper"
    assert not tuned.searches and not tuned.interrupted


def test_the_best_start_runs_again_with_its_variants_and_may_lose_to_one(starts: list[Plan]) -> None:
    evaluate = Raced(ms={None: 0.5, 512: 0.2, 128: 0.25, 256: 0.1})
    tuned = transfer_problem(LONG, evaluate, starts)
    first, second, *_ = evaluate.races
    assert [programs(plan) for plan in second[:3]] == [512, 128, None], "the podium of the first race"
    assert not set(second[3:]) & set(first)
    assert (programs(tuned.entry.plan), tuned.entry.measurement.median_ms) == (256, 0.1)
    assert dict(tuned.finalists).keys() == set(second)


def test_what_is_compiled_ahead_is_what_races_if_the_likeliest_start_wins(starts: list[Plan]) -> None:
    evaluate = Raced(ms={None: 0.5, 512: 0.2, 128: 0.25})
    guess = foresee_transfer(LONG, None, evaluate, starts)
    of_first = len(evaluate.foreseen)
    guess()
    assert evaluate.races == [] and evaluate.prepared == []
    transfer_problem(LONG, evaluate, starts)
    first, second, *_ = evaluate.races
    assert set(second) - set(first), "the likeliest start has variants"
    assert evaluate.foreseen[:of_first] == first and set(evaluate.foreseen) == {*first, *second}


def test_between_its_races_a_problem_has_no_claim_to_the_gpu(starts: list[Plan]) -> None:
    evaluate = Raced(ms={None: 0.5, 512: 0.2, 128: 0.25})
    begun = begin_transfer(LONG, None, evaluate, starts)
    assert len(evaluate.races) == 1 and evaluate.prepared == begun.plans and not begun.has_compiled
    begun.finish()
    assert evaluate.races[1:] and evaluate.races[1] == begun.plans


def test_the_first_race_stands_when_the_second_one_fails(starts: list[Plan]) -> None:
    class Falling(Raced):
        def race_here(self, plans: Sequence[Plan]) -> list[Measurement]:
            fell = [Measurement(outcome="timeout", detail="it hung")] * len(plans)
            return fell if self.races else super().race_here(plans)

    tuned = transfer_problem(LONG, Falling(ms={512: 0.2}), starts)
    assert (tuned.entry.plan, tuned.entry.measurement.median_ms) == (starts[0], 0.2)


def test_what_is_only_predicted_stays_static(starts: list[Plan]) -> None:
    assert transfer_problem(LONG, Raced(ms={512: 0.2}, evidence="static"), starts).entry.evidence == "static"


def test_plans_of_the_other_direction_are_no_starts(starts: list[Plan]) -> None:
    evaluate = Raced(ms={None: 0.5})
    transfer_problem(replace(LONG, direction="bwd"), evaluate, starts)
    [plan] = evaluate.races[0]
    assert plan.outputs == ("dq", "dk", "dv")


def test_when_none_passes_the_way_out_is_named(starts: list[Plan]) -> None:
    with pytest.raises(LatuneError, match=r"none of 3 plans of its neighbours passed; it fell; .* without --transfer"):
        transfer_problem(LONG, Raced(ms={}), starts)
