"""What a plan is worth: measured by a worker process on its GPU, or predicted for a GPU that is not there."""

from __future__ import annotations

import statistics
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from typing import Protocol

from latune.cache.resources import Resources
from latune.codegen.build import Build
from latune.codegen.render import Source, render
from latune.errors import BuildError, RenderError
from latune.gpu import Gpu
from latune.measurement import Measurement
from latune.plan import Plan
from latune.problem import Problem
from latune.tuner.builders import Builder
from latune.tuner.failures import Failures
from latune.tuner.jobs import Arm, DeviceReport
from latune.tuner.occupancy import over_limit
from latune.tuner.predict import predict
from latune.tuner.resumed import Handover
from latune.tuner.worker import RACE_TIMEOUT_S, Worker

STATIC_PROTOCOL = "static-2"
"""Changes whenever ``predict`` does: its figures cannot be compared with those of another model."""

MEASURED_PROTOCOL = "measured-3"
"""Changes whenever candidates are verified or timed in another way."""

# A candidate this many times slower than the incumbent is not timed to the end.
_GIVE_UP_RATIO = 2.0
_RACE_PROCESSES = 2
_RACE_ROUNDS = 10

_Binaries = tuple[tuple[str, int], ...]


class Evaluator(Protocol):
    """Judges plans of one problem on one GPU.

    Attributes:
        gpu: the GPU it judges for.
        evidence: ``measured`` or ``static``.
        ahead: the forward plan that backward plans are judged behind, from what that keeps for them; None: not known.
    """

    gpu: Gpu
    evidence: str
    ahead: Plan | None

    @property
    def bandwidth_gbps(self) -> float:
        """What the roof is drawn from: the measured copy bandwidth, or the catalogue's."""

    @property
    def toolchain(self) -> Mapping[str, str | None]:
        """Versions of what the figures depend on, by the names of ``cache.entry.TOOLCHAIN``."""

    def prepare(self, plans: Sequence[Plan], *, urgent: bool = True) -> None:
        """Begins to compile plans that will be evaluated next or, not ``urgent``, after all that others will be."""

    def has_compiled(self, plans: Sequence[Plan]) -> bool:
        """Whether to evaluate these plans would wait for no compiler."""

    def __call__(self, plan: Plan) -> Measurement:
        """One plan, complete or not."""

    def race(self, plans: Sequence[Plan]) -> list[Measurement]:
        """Complete plans, compared with one another as carefully as this evaluator can."""

    def race_here(self, plans: Sequence[Plan]) -> list[Measurement]:
        """As ``race``, at less cost: for plans that have proved sound and fast elsewhere."""

    def at(self, problem: Problem) -> Evaluator:
        """The same judge of another problem."""

    def resources(self, plan: Plan) -> tuple[Resources, ...]:
        """What each kernel of a plan that is ok takes."""


class _Built(ABC):
    """Judges what a builder has built for one problem and GPU, equal binaries once; what cannot run is data too."""

    def __init__(self, problem: Problem, gpu: Gpu, builder: Builder) -> None:
        self.problem = problem
        self.gpu = gpu
        self._builder = builder
        self._known: dict[_Binaries, Measurement] = {}

    def __call__(self, plan: Plan) -> Measurement:
        built = self.build(plan)
        if isinstance(built, Measurement):
            return built
        binaries = _binaries(built)
        if binaries not in self._known:
            self._known[binaries] = self._judge(plan, built)
        return self._known[binaries]

    @abstractmethod
    def _judge(self, plan: Plan, built: Build) -> Measurement: ...

    def prepare(self, plans: Sequence[Plan], *, urgent: bool = True) -> None:
        self._builder.prepare(self.problem, plans, self.gpu, urgent=urgent)

    def has_compiled(self, plans: Sequence[Plan]) -> bool:
        return self._builder.has_compiled(self.problem, plans, self.gpu)

    def build(self, plan: Plan) -> Build | Measurement:
        """The build, or why there is none that this GPU could run."""
        try:
            built = self._builder(self.problem, plan, self.gpu)
        except (BuildError, RenderError) as error:
            return Measurement(outcome="compile_error", detail=str(error))
        why = over_limit(built, self.gpu)
        return built if why is None else Measurement(outcome="out_of_resources", detail=why)

    def resources(self, plan: Plan) -> tuple[Resources, ...]:
        kernels = self._builder(self.problem, plan, self.gpu).kernels
        return tuple(
            Resources(
                name=kernel.name,
                registers=kernel.registers,
                spill_bytes=kernel.spill_bytes,
                shared_bytes=kernel.shared_bytes,
                num_warps=kernel.num_warps,
            )
            for kernel in kernels
        )


def _binaries(build: Build) -> _Binaries:
    """What tells two plans apart on a GPU: plans of equal machine code and grids perform alike."""
    return tuple((kernel.binary_sha256, kernel.programs) for kernel in build.kernels)


class StaticEvaluator(_Built):
    """Compiles plans for a GPU that need not be there and predicts their time (``predict`` states the model)."""

    evidence = "static"
    ahead = None

    @property
    def bandwidth_gbps(self) -> float:
        return self.gpu.bandwidth_gbps

    @property
    def toolchain(self) -> Mapping[str, str | None]:
        versions = {name: _version(name) for name in ("torch", "triton", "latune")}
        return {**versions, "cuda": None, "driver": None, "protocol": STATIC_PROTOCOL}

    def _judge(self, plan: Plan, built: Build) -> Measurement:
        prediction = predict(self.problem, plan, self.gpu, built)
        return Measurement(outcome="ok", median_ms=prediction.total_ms, detail=f"predicted: {prediction}")

    def race(self, plans: Sequence[Plan]) -> list[Measurement]:
        self.prepare(plans)
        return [self(plan) for plan in plans]

    race_here = race

    def at(self, problem: Problem) -> StaticEvaluator:
        return StaticEvaluator(problem, self.gpu, self._builder)


class MeasuredEvaluator(_Built):
    """Compiles plans on the CPU, then has the worker verify and time them on its GPU.

    Args:
        ahead: the forward plan that a backward problem's plans run behind.
        failures: what earlier runs found to take a process down is not tried again; None: everything is.
    """

    evidence = "measured"

    def __init__(
        self,
        problem: Problem,
        gpu: Gpu,
        builder: Builder,
        worker: Worker,
        ahead: Plan | None = None,
        failures: Failures | None = None,
    ) -> None:
        super().__init__(problem, gpu, builder)
        self.ahead = ahead
        self._worker = worker
        self._failures = failures
        self._best_ms: dict[tuple[str, ...], float] = {}

    @property
    def bandwidth_gbps(self) -> float:
        return self._worker.device().copy_gbps

    @property
    def toolchain(self) -> Mapping[str, str | None]:
        return measured_toolchain(self._worker.device())

    def prepare(self, plans: Sequence[Plan], *, urgent: bool = True) -> None:
        """With the variants that the worker will load, so that it finds them compiled."""
        super().prepare(plans, urgent=urgent)
        for problem, variant in self._variants(plans):
            self._builder.prepare(problem, [variant], self.gpu, urgent=urgent)

    def has_compiled(self, plans: Sequence[Plan]) -> bool:
        """Their variants, too."""
        variants = (self._builder.has_compiled(problem, [variant], self.gpu) for problem, variant in self._variants(plans))
        return super().has_compiled(plans) and all(variants)

    def _variants(self, plans: Sequence[Plan]) -> Iterable[tuple[Problem, Plan]]:
        """What runs of these plans behind the forward plan ahead, each with its problem."""
        handovers = filter(None, (Handover.of(plan, self.problem, self.ahead) for plan in plans))
        return dict.fromkeys(chain.from_iterable(handover.variants for handover in handovers))

    def build(self, plan: Plan) -> Build | Measurement:
        """As any evaluator's; there is none, either, of a build that is known to take a process down."""
        built = super().build(plan)
        if self._failures is None or isinstance(built, Measurement):
            return built
        return self._failures.recall(self.problem, self._identity(built)) or built

    def _identity(self, built: Build) -> str:
        """Of all that runs: a backward plan also runs from what the plan ahead keeps."""
        return f"{_binaries(built)} {self.ahead}"

    def _judge(self, plan: Plan, built: Build) -> Measurement:
        best_ms = self._best_ms.get(plan.outputs)
        give_up_above_ms = None if best_ms is None else best_ms * _GIVE_UP_RATIO
        source = render(self.problem, plan)
        measurement = self._worker.evaluate(self.problem, plan, source, ahead=self.ahead, give_up_above_ms=give_up_above_ms)
        if measurement.ok and measurement.median_ms is not None:
            self._best_ms[plan.outputs] = min(measurement.median_ms, best_ms or measurement.median_ms)
        if self._failures is not None:
            self._failures.keep(self.problem, self._identity(built), measurement)
        return measurement

    def race(self, plans: Sequence[Plan]) -> list[Measurement]:
        """Each plan alone first, since one that fails would end the race for all; then those that passed, in turns."""
        self.prepare(plans)
        alone = {plan: self(plan) for plan in plans}
        candidates = [(plan, render(self.problem, plan)) for plan, measurement in alone.items() if measurement.ok]
        raced = self._race(candidates)
        # No arm is ok: the race as a whole failed, which says nothing about any of them.
        if any(measurement.ok for measurement in raced):
            alone.update(zip((plan for plan, _ in candidates), raced, strict=True))
        return [alone[plan] for plan in plans]

    def race_here(self, plans: Sequence[Plan]) -> list[Measurement]:
        """In turns, in the process that is running; each alone only where the race as a whole fails."""
        raced = [arm.measurement for arm in self.race_arms(plans)]
        return raced if any(measurement.ok for measurement in raced) else [self(plan) for plan in plans]

    def race_arms(self, plans: Sequence[Plan], *, fresh: bool = False, timeout_s: float = RACE_TIMEOUT_S) -> list[Arm]:
        """In turns, with each plan's median of every round; when the race as a whole fails, its failure for all that took part.

        Args:
            fresh: in a process of its own, not in the one that is running.
            timeout_s: as in ``Worker.race_arms``.
        """
        self.prepare(plans)
        if fresh:
            self._worker.restart()
        # While the compilers work.
        self._worker.prepare(self.problem, self.ahead)
        built = {plan: self.build(plan) for plan in plans}
        arms = {plan: Arm(measurement=build) for plan, build in built.items() if isinstance(build, Measurement)}
        candidates = [(plan, render(self.problem, plan)) for plan in plans if plan not in arms]
        raced = self._worker.race_arms(self.problem, candidates, ahead=self.ahead, rounds=_RACE_ROUNDS, timeout_s=timeout_s)
        arms.update(zip((plan for plan, _ in candidates), raced, strict=True))
        return [arms[plan] for plan in plans]

    def at(self, problem: Problem) -> MeasuredEvaluator:
        return MeasuredEvaluator(problem, self.gpu, self._builder, self._worker, self.ahead, self._failures)

    def _race(self, candidates: Sequence[tuple[Plan, Source]]) -> list[Measurement]:
        runs = []
        for _ in range(_RACE_PROCESSES if candidates else 0):
            self._worker.restart()
            runs.append(self._worker.race(self.problem, candidates, ahead=self.ahead, rounds=_RACE_ROUNDS))
        return [_pooled(results) for results in zip(*runs, strict=True)]


def _pooled(results: Sequence[Measurement]) -> Measurement:
    """One candidate's results in several processes as one; a failure in any of them stands."""
    failed = next((result for result in results if not result.ok), None)
    if failed is not None:
        return failed
    return Measurement(
        outcome="ok",
        median_ms=statistics.median(result.median_ms for result in results if result.median_ms is not None),
        ci_low_ms=min((result.ci_low_ms for result in results if result.ci_low_ms is not None), default=None),
        ci_high_ms=max((result.ci_high_ms for result in results if result.ci_high_ms is not None), default=None),
        samples=sum(result.samples for result in results),
        errors=results[0].errors,
        detail=f"raced in {len(results)} processes",
    )


def measured_toolchain(report: DeviceReport) -> dict[str, str | None]:
    """Versions of what figures measured on the device depend on, by the names of ``cache.entry.TOOLCHAIN``."""
    return {**dict(report.toolchain), "latune": _version("latune"), "protocol": MEASURED_PROTOCOL}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
