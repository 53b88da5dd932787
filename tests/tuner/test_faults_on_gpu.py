"""A search among whose candidates are those that hang, lie, skip work, or take memory, a process or a compiler with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from faults import ABORTS, FAULTS, SKIPS, with_fault

from latune.codegen.render import Source, render
from latune.measurement import Measurement
from latune.plan import Plan
from latune.problem import Problem
from latune.tuner import evaluators
from latune.tuner.builders import ParallelBuilder
from latune.tuner.failures import Failures
from latune.tuner.search import SearchResult
from latune.tuner.target import Target, local_gpu
from latune.tuner.tune import Settings, Tuned, tune_problem
from latune.tuner.worker import Worker

PROBLEM = Problem(
    direction="fwd", decay="constant", dtype="bf16", batch=4, num_heads=16, seqlen=4096, head_dim_k=64, head_dim_v=64
)
"""Large enough for work to take longer than a launch: else what skips it is not found out."""
TRIALS = 40


class Impatient(Worker):
    """Waits a tenth as long for a candidate that hangs."""

    def evaluate(self, *arguments: object, **options: object) -> Measurement:
        return super().evaluate(*arguments, **options, timeout_s=12.0)  # type: ignore[arg-type]


@dataclass
class Sabotage:
    """Renders plans, the third and each second one after it with the next fault, and the same plan always with the same."""

    left: list[str] = field(default_factory=lambda: [*FAULTS, SKIPS])
    fates: dict[Plan, str | None] = field(default_factory=dict)

    def __call__(self, problem: Problem, plan: Plan) -> Source:
        if plan not in self.fates:
            is_due = len(self.fates) >= 2 and len(self.fates) % 2 == 0 and self.left
            self.fates[plan] = self.left.pop(0) if is_due else None
        fate = self.fates[plan]
        source = render(problem, plan)
        return source if fate is None else with_fault(source, fate)


@pytest.fixture
def sabotage(monkeypatch: pytest.MonkeyPatch) -> Sabotage:
    sabotage = Sabotage()
    monkeypatch.setattr(evaluators, "render", sabotage)
    return sabotage


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    gpu = local_gpu()
    assert gpu is not None
    with ParallelBuilder(runner="faults:start") as builder, Impatient() as worker:
        yield Target(gpu=gpu, builder=builder, worker=worker)


@pytest.fixture
def tuned(target: Target, sabotage: Sabotage, tmp_path: Path) -> Callable[..., Tuned]:
    """Tunes with the faults of ``sabotage``, from a seed; all runs share a storage."""

    def run(seed: int) -> Tuned:
        storage = str(tmp_path / "kept.journal")
        toolchain = evaluators.measured_toolchain(target.worker.device())  # type: ignore[union-attr]
        remembering = Target(
            gpu=target.gpu,
            builder=target.builder,
            worker=target.worker,
            failures=Failures(target.gpu.name, toolchain, storage),
        )
        settings = Settings(trials=TRIALS, patience=None, seed=seed, storage=storage)
        return tune_problem(PROBLEM, None, remembering.evaluator(PROBLEM), settings)

    return run


@pytest.mark.gpu
def test_a_search_goes_on_past_every_fault_and_names_each(
    tuned: Callable[..., Tuned], sabotage: Sabotage, target: Target
) -> None:
    found = tuned(0)
    result = found.searches["o"]
    assert sabotage.left == [] and result.stopped == "trials"
    assert sum(result.outcomes.values()) == len(result.trials) == TRIALS
    outcomes = {fate: _outcomes(result, sabotage, fate) for fate in (*FAULTS, SKIPS)}
    assert outcomes == {**{fate: {outcome} for fate, (_, outcome) in FAULTS.items()}, SKIPS: {"faster_than_physics"}}
    aborted = [trial for trial in result.trials if trial.config.num_stages == ABORTS]
    assert aborted and {trial.measurement.outcome for trial in aborted} == {"compile_error"}
    assert all(trial.measurement.detail for trial in result.trials if not trial.measurement.ok)
    assert sabotage.fates[found.entry.plan] is None and found.entry.measurement.ok

    # Another search, which comes upon them again.
    evaluate = target.evaluator(PROBLEM)
    known = tuned(1)
    assert sabotage.fates[known.entry.plan] is None
    again = {fate: [trial for trial in known.searches["o"].trials if _fate(sabotage, trial.config) == fate] for fate in FAULTS}
    tried_again = [trial.measurement for fate in ("hangs", "reads out of bounds") for trial in again[fate]]
    assert tried_again
    assert all(measurement.detail.endswith("(known, not tried again)") for measurement in tried_again)
    assert evaluate(found.entry.plan).ok


def _fate(sabotage: Sabotage, config: object) -> str | None:
    return next((fate for plan, fate in sabotage.fates.items() if plan.steps[0].config == config), None)


def _outcomes(result: SearchResult, sabotage: Sabotage, fate: str) -> set[str]:
    return {trial.measurement.outcome for trial in result.trials if _fate(sabotage, trial.config) == fate}
