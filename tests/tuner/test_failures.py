"""What took a worker down is not run again: not in a later run, by another search or another template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType

import pytest

from latune.codegen.build import Build
from latune.codegen.render import Source
from latune.errors import StudyError
from latune.gpu import Gpu, find_gpu
from latune.measurement import Measurement
from latune.plan import Plan
from latune.problem import Problem
from latune.tuner import evaluators
from latune.tuner.evaluators import MeasuredEvaluator
from latune.tuner.failures import Failures
from latune.tuner.jobs import Arm, DeviceReport

GPU = find_gpu("h200")
PROBLEM = Problem(
    direction="bwd", decay="constant", dtype="bf16", batch=4, num_heads=32, seqlen=2048, head_dim_k=128, head_dim_v=128
)
TOOLCHAIN = {"protocol": "measured-2", "triton": "3.6.0", "torch": "2.11.0+cu130", "cuda": "13.0", "driver": "580.1"}
HANG = Measurement(outcome="timeout", detail="no answer within 120 s")


@dataclass
class Builds:
    """Equal plans have equal machine code."""

    fake_builds: ModuleType

    def prepare(self, problem: Problem, plans: Sequence[Plan], gpu: Gpu, *, urgent: bool = True) -> None: ...

    def __call__(self, problem: Problem, plan: Plan, gpu: Gpu) -> Build:
        return self.fake_builds.build(problem, plan, gpu)


@dataclass
class Worker:
    """Every plan ends as ``fate`` says."""

    fate: Measurement
    asked: list[Plan] = field(default_factory=list)

    def device(self) -> DeviceReport:
        sizes = {"memory_bytes": 1, "free_bytes": 1}
        return DeviceReport(title="fake", copy_gbps=4270.0, toolchain=(), **sizes)

    def evaluate(self, problem: Problem, plan: Plan, source: Source, **_: object) -> Measurement:
        self.asked.append(plan)
        return self.fate

    def prepare(self, problem: Problem, ahead: Plan | None) -> None: ...

    def race_arms(self, problem: Problem, candidates: Sequence[tuple[Plan, Source]], **_: object) -> list[Arm]:
        self.asked += [plan for plan, _ in candidates]
        return [Arm(measurement=self.fate)] * len(candidates)


@pytest.fixture(autouse=True)
def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluators, "render", lambda problem, plan: Source(text=str(plan), sha256=plan.digest))


@pytest.fixture
def plan(fake_builds: ModuleType) -> Plan:
    return fake_builds.one("dq", fake_builds.config())


@pytest.fixture
def storage(tmp_path: Path) -> str:
    return str(tmp_path / "kept.journal")


def run(
    fake_builds: ModuleType,
    worker: Worker,
    storage: str | None,
    *,
    fresh: bool = False,
    problem: Problem = PROBLEM,
    ahead: Plan | None = None,
    **versions: str,
) -> MeasuredEvaluator:
    """What judges in a run of its own."""
    failures = Failures(GPU.name, TOOLCHAIN | versions, storage, fresh=fresh)
    return MeasuredEvaluator(problem, GPU, Builds(fake_builds), worker, ahead, failures)  # type: ignore[arg-type]


@pytest.mark.parametrize("outcome", ["timeout", "illegal_access"])
def test_a_later_run_passes_over_it_and_says_so(fake_builds: ModuleType, plan: Plan, storage: str, outcome: str) -> None:
    first, second = Worker(replace(HANG, outcome=outcome)), Worker(HANG)
    assert run(fake_builds, first, storage)(plan) == first.fate
    judge = run(fake_builds, second, storage)
    known = replace(first.fate, detail="no answer within 120 s (known, not tried again)")
    assert judge(plan) == known
    assert judge.race_here([plan]) == judge.race([plan]) == [known]
    assert first.asked == [plan] and second.asked == []


@pytest.mark.parametrize("outcome", ["wrong_result", "faster_than_physics", "out_of_resources"])
def test_what_leaves_the_process_alive_is_tried_again(fake_builds: ModuleType, plan: Plan, storage: str, outcome: str) -> None:
    worker = Worker(Measurement(outcome=outcome))
    for _ in range(2):
        run(fake_builds, worker, storage)(plan)
    assert worker.asked == [plan, plan]


def test_another_problem_toolchain_or_plan_ahead_may_fare_otherwise(fake_builds: ModuleType, plan: Plan, storage: str) -> None:
    run(fake_builds, Worker(HANG), storage)(plan)
    others = [
        {"problem": replace(PROBLEM, seqlen=4096)},
        {"problem": replace(PROBLEM, needs_final_state=True)},
        {"driver": "590.1"},
        {"ahead": fake_builds.one("o", fake_builds.config())},
    ]
    for other in others:
        worker = Worker(Measurement(outcome="ok", median_ms=1.0, samples=9))
        assert run(fake_builds, worker, storage, **other)(plan).ok, other  # type: ignore[arg-type]


def test_a_fresh_run_tries_it_again_and_remembers_what_it_finds(fake_builds: ModuleType, plan: Plan, storage: str) -> None:
    run(fake_builds, Worker(HANG), storage)(plan)
    again = Worker(replace(HANG, detail="no answer within 60 s"))
    assert run(fake_builds, again, storage, fresh=True)(plan) == again.fate
    assert run(fake_builds, Worker(HANG), storage)(plan).detail.startswith("no answer within 60 s")


def test_nothing_is_kept_until_something_is_judged(fake_builds: ModuleType, plan: Plan, tmp_path: Path) -> None:
    """A storage that cannot be used fails the problem that asks, not the run."""
    judge = run(fake_builds, Worker(HANG), str(tmp_path / "no" / "folder.txt" / "kept.journal"))
    (tmp_path / "no").write_text("a file")
    with pytest.raises(StudyError, match="cannot keep evaluations in"):
        judge(plan)
