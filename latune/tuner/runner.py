"""What the worker process does on its GPU: describe it, verify and time one plan, race several."""

from __future__ import annotations

import importlib
import math
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import triton

from latune.codegen.build import hash_triton
from latune.measurement import Measurement
from latune.plan import FORMS, Plan
from latune.problem import Problem
from latune.tuner import timing
from latune.tuner.cases import Inputs, small_problems
from latune.tuner.jobs import Arm, Describe, DeviceReport, Evaluate, Job, Prepare, Race, Ready
from latune.tuner.resumed import Forms
from latune.tuner.sampling import copy_gbps, gpu_sampler, input_sets
from latune.tuner.verify import Fixture, Verification, prepare, prepare_small, verify

if TYPE_CHECKING:
    from latune.codegen.render import Source

_DRIVER = Path("/proc/driver/nvidia/version")


def start(device_index: int) -> Callable[[Job], object]:
    """Takes the device and returns what answers jobs on it."""
    warming = threading.Thread(target=_warm_up, daemon=True)
    warming.start()
    torch.cuda.set_device(device_index)
    # Two threads that take turns in Python wait 5 ms for one another: nothing could be timed beside it.
    warming.join()
    return GpuRunner(device=torch.device("cuda", device_index))


def _warm_up() -> None:
    """What else the first candidate would wait for, for seconds, and the GPU is not needed for."""
    hash_triton()
    # torch.use_deterministic_algorithms imports it.
    importlib.import_module("torch._inductor.config")


@dataclass(kw_only=True)
class GpuRunner:
    """Answers jobs on the current GPU; keeps the inputs and references of the last prepared problem."""

    device: torch.device
    _seed: int = 0
    _fixture: Fixture | None = None
    _small: dict[tuple[str, int], Fixture] = field(default_factory=dict)
    """The last one of each direction and seed."""
    _ahead: Plan | None = None
    _sets: list[Inputs] = field(default_factory=list)
    _verified: dict[str, Verification] = field(default_factory=dict)
    """Of the prepared problem, by the source's digest: what passed once is not run through all cases again for each race."""

    @cached_property
    def copy_gbps(self) -> float:
        """Measured bandwidth of a copy, GB/s; on first use, since a process that stands by must leave the GPU alone."""
        return copy_gbps()

    def __call__(self, job: Job) -> object:
        # A candidate that ran out of memory, or took much scratch, must not starve the next.
        torch.cuda.empty_cache()
        match job:
            case Describe():
                return self._describe()
            case Prepare():
                return self._prepare(job.problem, job.seed, job.ahead)
            case Evaluate():
                return self._evaluate(job)
            case Race():
                return self._race(job)

    def _describe(self) -> DeviceReport:
        device = torch.cuda.get_device_properties(self.device)
        return DeviceReport(
            title=device.name,
            memory_bytes=device.total_memory,
            free_bytes=torch.cuda.mem_get_info(self.device)[0],
            copy_gbps=self.copy_gbps,
            toolchain=toolchain(),
        )

    def _prepare(self, problem: Problem, seed: int, ahead: Plan | None) -> Ready:
        # Freed first: the last problem's tensors and the next one's need not fit together.
        self._fixture, self._sets, self._verified, self._seed, self._ahead = None, [], {}, seed, ahead
        torch.cuda.empty_cache()
        self._fixture = prepare(problem, self.device, seed, self._small_fixture(problem, seed))
        timed = self._fixture.timed.inputs
        self._sets = timed.copies(input_sets(timed.bytes, torch.cuda.get_device_properties(self.device).L2_cache_size))
        return Ready()

    def _small_fixture(self, problem: Problem, seed: int) -> Fixture:
        """That of the problem before, where it has the same small shapes and no candidate has written into them."""
        kept = self._small.get((problem.direction, seed))
        if kept is None or small_problems(kept.problem) != small_problems(problem) or kept.damaged():
            kept = self._small[problem.direction, seed] = prepare_small(problem, self.device, seed)
        return kept

    @property
    def _prepared(self) -> Fixture:
        assert self._fixture is not None, "Prepare comes before Evaluate and Race"
        return self._fixture

    def _evaluate(self, job: Evaluate) -> Measurement:
        forms = Forms.load(self._prepared.problem, job.plan, job.source, self._ahead)
        verification = self._verify(forms, job.plan, job.source)
        if not verification.ok:
            return _wrong(verification)
        result = timing.measure(gpu_sampler(forms.calls(self._sets)), give_up_above_ms=job.give_up_above_ms)
        return self._judge(job.plan, verification, result)

    def _race(self, job: Race) -> list[Arm]:
        loaded = [Forms.load(self._prepared.problem, *candidate, self._ahead) for candidate in job.candidates]
        verified = [self._verify(forms, *candidate) for forms, candidate in zip(loaded, job.candidates, strict=True)]
        fit = [index for index, verification in enumerate(verified) if verification.ok]
        pool = torch.cuda.graph_pool_handle()
        samplers = [gpu_sampler(loaded[index].calls(self._sets), pool) for index in fit]
        drawn = timing.interleave(samplers, rounds=job.rounds, seed=job.seed)
        arms = {index: Arm(measurement=_wrong(verification)) for index, verification in enumerate(verified)}
        for index, rounds in zip(fit, drawn, strict=True):
            arms[index] = self._arm(job.candidates[index][0], verified[index], rounds)
        return list(arms.values())

    def _arm(self, plan: Plan, verification: Verification, rounds: list[list[float]]) -> Arm:
        rounds_ms = tuple(timing.median(drawn) for drawn in rounds)
        # Samples of one round follow one another and are alike: the interval is one over rounds.
        result = replace(timing.summarise(rounds_ms), samples=sum(map(len, rounds)))
        return Arm(measurement=self._judge(plan, verification, result), rounds_ms=rounds_ms)

    def _verify(self, forms: Forms, plan: Plan, source: Source) -> Verification:
        if source.sha256 in self._verified:
            return self._verified[source.sha256]
        verification = self._verify_now(forms, plan)
        if verification.ok:
            self._verified[source.sha256] = verification
        return verification

    def _verify_now(self, forms: Forms, plan: Plan) -> Verification:
        """Verifies; once more on fresh inputs when those at hand were written over, by this candidate or one before."""
        verification = self._verify_all(forms, plan)
        if verification.ok or not self._prepared.damaged():
            return verification
        self._prepare(self._prepared.problem, self._seed, self._ahead)
        return self._verify_all(forms, plan)

    def _verify_all(self, forms: Forms, plan: Plan) -> Verification:
        """Of all forms, with the largest errors of any; the first that fails speaks for the candidate."""
        errors: dict[str, float] = {}
        for launch, cases in forms.launches(self._prepared.cases):
            verification = verify(launch, plan, replace(self._prepared, cases=cases))
            if not verification.ok:
                return verification
            errors = {name: max(error, errors.get(name, 0.0)) for name, error in verification.errors}
        return Verification(ok=True, errors=tuple(errors.items()))

    def _judge(self, plan: Plan, verification: Verification, result: timing.Timing) -> Measurement:
        compulsory = compulsory_bytes(self._prepared.problem, plan)
        impossible = self._beats_any_copy(result.median_ms, compulsory)
        detail = "too slow to matter: timing stopped after the race" if result.gave_up else ""
        if impossible:
            roof_ms = timing.roof_ms(compulsory, self.copy_gbps)
            detail = f"{result.median_ms:.4g} ms for {compulsory} bytes that take {roof_ms:.4g} ms to move: it skips work"
        return Measurement(
            outcome="faster_than_physics" if impossible else "ok",
            median_ms=result.median_ms,
            ci_low_ms=result.ci_low_ms,
            ci_high_ms=result.ci_high_ms,
            samples=result.samples,
            errors=tuple(sorted(verification.errors)),
            detail=detail,
        )

    def _beats_any_copy(self, median_ms: float, compulsory: int) -> bool:
        """Also one made now: whatever disturbed the first copy would else condemn every candidate that it did not disturb."""
        if not timing.faster_than_physics(median_ms, compulsory, self.copy_gbps):
            return False
        self.copy_gbps = max(self.copy_gbps, copy_gbps())
        return timing.faster_than_physics(median_ms, compulsory, self.copy_gbps)


def _wrong(verification: Verification) -> Measurement:
    # NaN has no place in JSON; the detail says which output has it.
    errors = tuple(sorted((name, error) for name, error in verification.errors if math.isfinite(error)))
    return Measurement(outcome="wrong_result", errors=errors, detail=verification.detail)


def compulsory_bytes(problem: Problem, plan: Plan) -> int:
    """Bytes no implementation of the plan can avoid: the problem's, or those of an incomplete plan's largest kernel."""
    if tuple(step.kernel for step in plan.steps) in FORMS[problem.direction]:
        return problem.compulsory_bytes
    return max(kernel.compulsory_bytes(problem) for kernel in plan.kernels)


def toolchain() -> tuple[tuple[str, str], ...]:
    """Versions of what compiles and runs a module, by name."""
    versions = {"torch": torch.__version__, "triton": triton.__version__, "cuda": str(torch.version.cuda), "driver": _driver()}
    return tuple(versions.items())


def _driver() -> str:
    """The kernel driver's version; ``unknown`` where the system does not show it."""
    text = _DRIVER.read_text(encoding="utf-8") if _DRIVER.is_file() else ""
    version = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", text)
    return version[0] if version else "unknown"
