"""The parent's side of the worker process: sends it metadata, waits with a deadline, replaces it when it falls.

A candidate may hang the GPU, poison its context or kill the process; whatever it does comes back as a
``Measurement``. Only what is no candidate's fault (the process cannot start, the problem does not fit) is raised.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from latune.errors import WorkerError
from latune.measurement import Measurement
from latune.plan import Plan
from latune.problem import Problem
from latune.tuner.jobs import Arm, Describe, DeviceReport, Evaluate, Failure, Job, Prepare, Race, Start
from latune.tuner.load import Load
from latune.tuner.process import Process, UntakenError

if TYPE_CHECKING:
    from latune.codegen.render import Source

GPU_RUNNER = "latune.tuner.runner:start"

RACE_TIMEOUT_S = 600.0
"""More than a race of many plans of the longest sequences takes."""

# Making float64 references of a long sequence takes a while on a device with few float64 units.
_PREPARE_TIMEOUT_S = 600.0


class Worker:
    """A process that evaluates plans on one GPU; it is started on first use, if not before, and replaced when it falls.

    Its successor comes up beside it, idle, so that nobody waits for one.

    Args:
        device_index: the device, as torch counts them.
        seed: of the inputs and of a race's order.
        runner: ``module:function``; called in the process with the device index, returns what answers jobs.

    Attributes:
        load: how busy it has been with problems.
    """

    def __init__(self, device_index: int = 0, *, seed: int = 0, runner: str = GPU_RUNNER) -> None:
        self._start = Start(runner=runner, device_index=device_index)
        self._seed = seed
        self._process: Process | None = None
        self._successor: Process | None = None
        self._prepared: tuple[Problem, Plan | None] | None = None
        self._report: DeviceReport | None = None
        # Each race has an order of its own: two in one order would share what depends on it.
        self._races = 0
        self.load = Load()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def begin(self) -> None:
        """Starts the process, if there is none; it comes up while the caller goes on."""
        if self._process is None and self._successor is None:
            self._successor = Process.begin(self._start)

    def device(self) -> DeviceReport:
        """The device and its toolchain; asked once.

        Raises:
            WorkerError: the process cannot start or the device does not answer.
        """
        if self._report is None:
            answer = self._ask(Describe(), _PREPARE_TIMEOUT_S)
            if isinstance(answer, Failure):
                raise WorkerError(f"device {self._start.device_index} cannot be described: {answer.detail}")
            self._report = cast(DeviceReport, answer)
        return self._report

    def prepare(self, problem: Problem, ahead: Plan | None = None) -> None:
        """Makes the problem's inputs and references, which ``evaluate`` and ``race`` would else begin with.

        Raises:
            WorkerError: the process cannot start, or the problem does not fit the device.
        """
        # A process that has died idle is replaced by the next job, which begins with this.
        with self.load.working(), suppress(UntakenError):
            self._prepare(problem, ahead)

    def evaluate(
        self,
        problem: Problem,
        plan: Plan,
        source: Source,
        *,
        ahead: Plan | None = None,
        give_up_above_ms: float | None = None,
        timeout_s: float = 120.0,
    ) -> Measurement:
        """Loads, verifies and times one plan.

        Args:
            source: the module rendered for ``problem`` and ``plan``.
            ahead: the forward plan that a backward one runs behind, from what that keeps for it; None: not known.
            give_up_above_ms: stop timing after the first samples when their median is above this (twice the incumbent's).
            timeout_s: seconds after which the process is killed; making the problem's references is not counted.

        Raises:
            WorkerError: the process cannot start, or the problem does not fit the device.
        """
        job = Evaluate(plan=plan, source=source, give_up_above_ms=give_up_above_ms)
        answer = self._ask(job, timeout_s, problem, ahead)
        return answer.measurement() if isinstance(answer, Failure) else cast(Measurement, answer)

    def race(
        self,
        problem: Problem,
        candidates: Sequence[tuple[Plan, Source]],
        *,
        ahead: Plan | None = None,
        rounds: int = 20,
        timeout_s: float = RACE_TIMEOUT_S,
    ) -> list[Measurement]:
        """Verifies the candidates and times them in turns, in random order each round.

        Args:
            ahead: as in ``evaluate``.

        Returns:
            A measurement for each candidate; when the race as a whole failed, the same failure for all.

        Raises:
            WorkerError: the process cannot start, or the problem does not fit the device.
        """
        arms = self.race_arms(problem, candidates, ahead=ahead, rounds=rounds, timeout_s=timeout_s)
        return [arm.measurement for arm in arms]

    def race_arms(
        self,
        problem: Problem,
        candidates: Sequence[tuple[Plan, Source]],
        *,
        ahead: Plan | None = None,
        rounds: int = 20,
        timeout_s: float = RACE_TIMEOUT_S,
    ) -> list[Arm]:
        """As ``race``, with each candidate's median of every round for ``timing.paired_ratio``."""
        self._races += 1
        job = Race(candidates=tuple(candidates), rounds=rounds, seed=self._seed + self._races)
        answer = self._ask(job, timeout_s, problem, ahead)
        return (
            [Arm(measurement=answer.measurement())] * len(candidates)
            if isinstance(answer, Failure)
            else cast(list[Arm], answer)
        )

    def restart(self) -> None:
        """Ends the process; the next job runs in a fresh one."""
        process, self._process, self._prepared = self._process, None, None
        if process is not None:
            process.kill()

    def close(self) -> None:
        """Ends the process and its successor."""
        successor, self._successor = self._successor, None
        try:
            self.restart()
        finally:
            if successor is not None:
                successor.kill()

    def _ask(self, job: Job, timeout_s: float, problem: Problem | None = None, ahead: Plan | None = None) -> object:
        """The answer to a job, about a prepared problem where one is given; a process that has died idle is replaced unseen.

        Raises:
            WorkerError: no process takes it, or the problem cannot be prepared.
        """
        try:
            return self._ask_prepared(job, timeout_s, problem, ahead)
        except UntakenError:
            return self._ask_prepared(job, timeout_s, problem, ahead)

    def _ask_prepared(self, job: Job, timeout_s: float, problem: Problem | None, ahead: Plan | None) -> object:
        if problem is None:
            return self._ask_once(job, timeout_s)
        with self.load.working():
            self._prepare(problem, ahead)
            return self._ask_once(job, timeout_s)

    def _prepare(self, problem: Problem, ahead: Plan | None) -> None:
        if self._prepared == (problem, ahead):
            return
        self._prepared = None
        answer = self._ask_once(Prepare(problem=problem, seed=self._seed, ahead=ahead), _PREPARE_TIMEOUT_S)
        if isinstance(answer, Failure):
            raise WorkerError(
                f"cannot prepare {problem} ({answer.outcome}): {answer.detail}; free the device or choose a smaller shape"
            )
        self._prepared = problem, ahead

    def _ask_once(self, job: Job, timeout_s: float) -> object:
        """One job, one answer; a process that did not survive it is gone afterwards."""
        self._process = self._process or self._fresh()
        try:
            answer = self._process.ask(job, timeout_s)
        except BaseException:
            # An answer to a job nobody waits for any more must not meet the next one.
            self.restart()
            raise
        if isinstance(answer, Failure) and answer.outcome in ("illegal_access", "timeout"):
            self.restart()
        if isinstance(answer, Failure) and answer.outcome == "out_of_resources":
            # There may have been too little memory to make inputs anew that were written over: the next job has them made.
            self._prepared = None
        return answer

    def _fresh(self) -> Process:
        """The process that stands by, or a new one where that has died; and another one to stand by.

        Raises:
            WorkerError: no process comes up.
        """
        waiting, self._successor = self._successor, None
        process = self._up(waiting) or Process.launch(self._start)
        self._successor = Process.begin(self._start)
        return process

    def _up(self, waiting: Process | None) -> Process | None:
        if waiting is None:
            return None
        with suppress(WorkerError):
            return waiting.wait_until_up(self._start)
        return None
