"""Evaluators: what is rejected before a GPU sees it, what is evaluated once, and how a race is pooled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType

import pytest

from latune.cache.entry import TOOLCHAIN
from latune.codegen.build import Build
from latune.codegen.render import Source
from latune.errors import BuildError
from latune.gpu import Gpu, find_gpu
from latune.measurement import Measurement
from latune.plan import Plan
from latune.problem import Problem
from latune.tuner import evaluators
from latune.tuner.evaluators import MeasuredEvaluator, StaticEvaluator
from latune.tuner.jobs import Arm, DeviceReport
from latune.tuner.resumed import Handover

GPU = find_gpu("h200")
PROBLEM = Problem(
    direction="fwd", decay="constant", dtype="bf16", batch=4, num_heads=32, seqlen=2048, head_dim_k=128, head_dim_v=128
)


@dataclass
class Builds:
    """A builder of fake builds that can be told to refuse plans."""

    fake_builds: ModuleType
    refused: set[Plan] = field(default_factory=set)
    prepared: list[Plan] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    urgent: set[bool] = field(default_factory=set)
    compiled: Sequence[Plan] = ()

    def has_compiled(self, problem: Problem, plans: Sequence[Plan], gpu: Gpu) -> bool:
        return set(plans) <= set(self.compiled)

    def prepare(self, problem: Problem, plans: Sequence[Plan], gpu: Gpu, *, urgent: bool = True) -> None:
        self.prepared += plans
        self.problems += [problem] * len(plans)
        self.urgent.add(urgent)

    def __call__(self, problem: Problem, plan: Plan, gpu: Gpu) -> Build:
        if plan in self.refused:
            raise BuildError("o_kernel does not compile: refused")
        return self.fake_builds.build(problem, plan, gpu)


@dataclass
class FakeWorker:
    """Answers with times by ``num_warps``; ``race_fails``: the plans whose arm fails in the second race."""

    calls: list[tuple[Plan, float | None]] = field(default_factory=list)
    restarts: int = 0
    races: int = 0
    race_fails: tuple[Plan, ...] = ()
    raced: list[Problem] = field(default_factory=list)
    ahead: list[Plan | None] = field(default_factory=list)
    prepared: list[tuple[Problem, Plan | None, int]] = field(default_factory=list)
    """With how many restarts had been before."""

    def prepare(self, problem: Problem, ahead: Plan | None) -> None:
        self.prepared.append((problem, ahead, self.restarts))

    def device(self) -> DeviceReport:
        versions = (("torch", "2"), ("triton", "3"), ("cuda", "13"), ("driver", "600"))
        sizes = {"memory_bytes": 1, "free_bytes": 1}
        return DeviceReport(title="fake", copy_gbps=4270.0, toolchain=versions, **sizes)

    def evaluate(
        self, problem: Problem, plan: Plan, source: Source, *, ahead: Plan | None, give_up_above_ms: float | None
    ) -> Measurement:
        self.calls.append((plan, give_up_above_ms))
        self.ahead.append(ahead)
        return ok(float(plan.steps[0].config.num_warps), samples=10)

    def race(
        self, problem: Problem, candidates: Sequence[tuple[Plan, Source]], *, ahead: Plan | None, rounds: int
    ) -> list[Measurement]:
        self.races += 1
        self.ahead.append(ahead)
        self.raced.append(problem)
        fails = self.race_fails if self.races == 2 else ()
        return [
            Measurement(outcome="wrong_result") if plan in fails else ok(self.races + plan.steps[0].config.num_warps, rounds)
            for plan, _ in candidates
        ]

    def race_arms(
        self, problem: Problem, candidates: Sequence[tuple[Plan, Source]], *, ahead: Plan | None, rounds: int, timeout_s: float
    ) -> list[Arm]:
        raced = self.race(problem, candidates, ahead=ahead, rounds=rounds)
        return [Arm(measurement=measurement, rounds_ms=(timeout_s,) * rounds) for measurement in raced]

    def restart(self) -> None:
        self.restarts += 1


def ok(median_ms: float, samples: int) -> Measurement:
    interval = {"ci_low_ms": 0.9 * median_ms, "ci_high_ms": 1.1 * median_ms}
    return Measurement(outcome="ok", median_ms=median_ms, samples=samples, errors=(("o", 0.001),), **interval)


@pytest.fixture
def plans(fake_builds: ModuleType) -> list[Plan]:
    return [fake_builds.one("o", fake_builds.config(block_e=64, num_warps=warps)) for warps in (4, 2, 8)]


@pytest.fixture
def too_large(fake_builds: ModuleType) -> Plan:
    return fake_builds.one("o", fake_builds.config(block_n=128, num_stages=4))


@pytest.fixture
def builds(fake_builds: ModuleType) -> Builds:
    return Builds(fake_builds)


@pytest.fixture(autouse=True)
def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """No template is needed to see what evaluators do with a source."""
    monkeypatch.setattr(evaluators, "render", lambda problem, plan: Source(text=str(plan), sha256=plan.digest))


def test_what_does_not_compile_or_fit_is_an_outcome(builds: Builds, plans: list[Plan], too_large: Plan) -> None:
    builds.refused.add(plans[0])
    worker = FakeWorker()
    for evaluate in (StaticEvaluator(PROBLEM, GPU, builds), MeasuredEvaluator(PROBLEM, GPU, builds, worker)):
        assert evaluate(plans[0]).outcome == "compile_error"
        assert "refused" in evaluate(plans[0]).detail
        assert evaluate(too_large).outcome == "out_of_resources"
        assert "shared memory" in evaluate(too_large).detail
    assert worker.calls == []


def test_static_evaluation_is_a_prediction(builds: Builds, plans: list[Plan]) -> None:
    evaluate = StaticEvaluator(PROBLEM, GPU, builds)
    measurement = evaluate(plans[0])
    assert measurement.ok
    assert (measurement.samples, measurement.ci_low_ms) == (0, None)
    assert measurement.median_ms > PROBLEM.compulsory_bytes / GPU.bandwidth_gbps * 1e-6
    assert measurement.detail.startswith("predicted: o_kernel")
    assert evaluate.race(plans) == [evaluate(plan) for plan in plans]
    assert builds.prepared == plans


def test_what_the_worker_will_load_of_a_plan_is_compiled_with_it(builds: Builds, fake_builds: ModuleType) -> None:
    problem = replace(PROBLEM, direction="bwd", head_dim_k=64, head_dim_v=64)
    forward, segments = replace(problem, direction="fwd"), {"algorithm": "split", "programs": 256}
    walk = fake_builds.one("dqdkdv", fake_builds.config("plain", block_d=None, block_e=None))
    whole, cut = (fake_builds.one("dq", fake_builds.config("plain", **one)) for one in ({}, segments))
    MeasuredEvaluator(problem, GPU, builds, FakeWorker()).prepare([walk, whole, cut])
    checkpoints = Handover.of(walk, problem, None)
    assert builds.prepared == [walk, whole, cut, checkpoints.keeper, checkpoints.taker]
    assert builds.problems == [problem] * 5
    ahead = fake_builds.one("o", fake_builds.config("plain", **segments))
    measured = MeasuredEvaluator(problem, GPU, builds, FakeWorker(), ahead)
    builds.prepared.clear(), builds.problems.clear()
    measured.prepare([whole, cut])
    states = Handover.of(cut, problem, ahead)
    assert builds.prepared == [whole, cut, states.keeper, states.taker]
    assert builds.problems == [problem, problem, forward, problem]
    assert builds.urgent == {True}
    builds.urgent.clear()
    measured.prepare([whole, cut], urgent=False)
    assert builds.urgent == {False}


def test_what_runs_behind_the_forward_plan_is_to_be_compiled_too(builds: Builds, fake_builds: ModuleType) -> None:
    problem = replace(PROBLEM, direction="bwd", head_dim_k=64, head_dim_v=64)
    segments = {"algorithm": "split", "programs": 256}
    cut, ahead = (fake_builds.one(kernel, fake_builds.config("plain", **segments)) for kernel in ("dq", "o"))
    measured, states = MeasuredEvaluator(problem, GPU, builds, FakeWorker(), ahead), Handover.of(cut, problem, ahead)
    assert states is not None
    for compiled in ([], [cut], [cut, states.keeper], [states.keeper, states.taker]):
        builds.compiled = compiled
        assert not measured.has_compiled([cut])
    builds.compiled = [cut, states.keeper, states.taker]
    assert measured.has_compiled([cut]) and measured.has_compiled([])


def test_backward_plans_are_judged_behind_the_forward_plan(builds: Builds, plans: list[Plan]) -> None:
    worker, ahead = FakeWorker(), plans[2]
    evaluate = MeasuredEvaluator(PROBLEM, GPU, builds, worker, ahead)
    evaluate(plans[0])
    evaluate.race_here(plans[:2])
    evaluate.race(plans[:2])
    evaluate.at(replace(PROBLEM, seqlen=1024)).race_here(plans[:2])
    assert evaluate.ahead == ahead and len(worker.ahead) == 6 and set(worker.ahead) == {ahead}


def test_equal_binaries_are_evaluated_once(builds: Builds, plans: list[Plan], fake_builds: ModuleType) -> None:
    def same(problem: Problem, plan: Plan, gpu: Gpu) -> Build:
        kernels = fake_builds.build(problem, plan, gpu).kernels
        return Build(kernels=tuple(replace(kernel, binary_sha256="same") for kernel in kernels))

    builder = type("Same", (), {"__call__": staticmethod(same), "prepare": builds.prepare})()
    worker = FakeWorker()
    static = StaticEvaluator(PROBLEM, GPU, builder)
    measured = MeasuredEvaluator(PROBLEM, GPU, builder, worker)
    assert static(plans[0]) is static(plans[1])
    assert measured(plans[0]) is measured(plans[1])
    assert len(worker.calls) == 1


def test_a_candidate_is_given_up_at_twice_the_best(builds: Builds, plans: list[Plan]) -> None:
    worker = FakeWorker()
    evaluate = MeasuredEvaluator(PROBLEM, GPU, builds, worker)
    assert [evaluate(plan).median_ms for plan in plans] == [4.0, 2.0, 8.0]
    assert [limit for _, limit in worker.calls] == [None, 8.0, 4.0]


def test_a_race_pools_two_fresh_processes(builds: Builds, plans: list[Plan], too_large: Plan) -> None:
    worker = FakeWorker()
    raced = MeasuredEvaluator(PROBLEM, GPU, builds, worker).race([plans[0], too_large, plans[1]])
    assert (worker.races, worker.restarts) == (2, 2)
    assert [measurement.outcome for measurement in raced] == ["ok", "out_of_resources", "ok"]
    assert (raced[0].median_ms, raced[0].ci_low_ms, raced[0].ci_high_ms) == pytest.approx((5.5, 4.5, 6.6))
    assert (raced[0].samples, raced[0].errors) == (20, (("o", 0.001),))


def test_a_failure_in_either_process_stands(builds: Builds, plans: list[Plan]) -> None:
    raced = MeasuredEvaluator(PROBLEM, GPU, builds, FakeWorker(race_fails=(plans[1],))).race(plans)
    assert [measurement.outcome for measurement in raced] == ["ok", "wrong_result", "ok"]


def test_a_race_that_fails_as_a_whole_leaves_the_plans_own_times(builds: Builds, plans: list[Plan]) -> None:
    raced = MeasuredEvaluator(PROBLEM, GPU, builds, FakeWorker(race_fails=tuple(plans))).race(plans)
    assert [measurement.median_ms for measurement in raced] == [4.0, 2.0, 8.0]


def test_a_race_in_the_running_process_is_one(builds: Builds, plans: list[Plan], too_large: Plan) -> None:
    worker = FakeWorker()
    raced = MeasuredEvaluator(PROBLEM, GPU, builds, worker).race_here([plans[0], too_large, plans[1]])
    assert (worker.races, worker.restarts, worker.calls) == (1, 0, [])
    assert [measurement.median_ms for measurement in raced] == [5.0, None, 3.0]


def test_a_race_in_the_running_process_that_falls_is_run_one_by_one(builds: Builds, plans: list[Plan]) -> None:
    worker = FakeWorker(races=1, race_fails=tuple(plans))
    raced = MeasuredEvaluator(PROBLEM, GPU, builds, worker).race_here(plans)
    assert [measurement.median_ms for measurement in raced] == [4.0, 2.0, 8.0]


def test_the_rounds_of_a_race_are_kept_with_their_failures(builds: Builds, plans: list[Plan], too_large: Plan) -> None:
    worker = FakeWorker(races=1, race_fails=(plans[0],))
    evaluate = MeasuredEvaluator(PROBLEM, GPU, builds, worker)
    arms = evaluate.race_arms([plans[0], too_large, plans[1]], timeout_s=7.0)
    assert [arm.measurement.outcome for arm in arms] == ["wrong_result", "out_of_resources", "ok"]
    assert [set(arm.rounds_ms) for arm in arms] == [{7.0}, set(), {7.0}]
    assert (worker.races, worker.restarts, worker.calls) == (2, 0, [])
    evaluate.race_arms(plans, fresh=True)
    assert (worker.races, worker.restarts) == (3, 1)
    assert worker.prepared == [(PROBLEM, None, 0), (PROBLEM, None, 1)]


def test_the_problem_is_prepared_while_the_plans_of_a_race_compile(builds: Builds, plans: list[Plan]) -> None:
    compiling: list[int] = []

    class Watching(FakeWorker):
        def prepare(self, problem: Problem, ahead: Plan | None) -> None:
            compiling.append(len(builds.prepared))

    MeasuredEvaluator(PROBLEM, GPU, builds, Watching()).race_arms(plans)
    assert compiling == [len(plans)]


def test_evaluators_say_what_an_entry_needs(builds: Builds, plans: list[Plan]) -> None:
    static, measured = StaticEvaluator(PROBLEM, GPU, builds), MeasuredEvaluator(PROBLEM, GPU, builds, FakeWorker())
    assert (static.evidence, static.bandwidth_gbps) == ("static", 4800)
    assert (measured.evidence, measured.bandwidth_gbps) == ("measured", 4270.0)
    for evaluate in (static, measured):
        assert sorted(evaluate.toolchain) == sorted(TOOLCHAIN)
        (resources,) = evaluate.resources(plans[0])
        assert (resources.name, resources.num_warps) == ("o_kernel", 4)
    assert static.toolchain["protocol"] != measured.toolchain["protocol"]


def test_the_judge_of_another_problem_shares_builder_and_worker(builds: Builds, plans: list[Plan]) -> None:
    longer, worker = replace(PROBLEM, seqlen=2 * PROBLEM.seqlen), FakeWorker()
    static = StaticEvaluator(PROBLEM, GPU, builds)
    assert static.at(longer)(plans[0]).median_ms > static(plans[0]).median_ms
    MeasuredEvaluator(PROBLEM, GPU, builds, worker).at(longer).race_here(plans)
    assert worker.raced == [longer]
