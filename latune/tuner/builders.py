"""Plans compiled ahead of need, on all CPU cores, without a GPU."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Protocol, cast

from latune.errors import BuildError, WorkerError
from latune.gpu import Gpu
from latune.plan import Plan
from latune.problem import Problem
from latune.tuner.backlog import Backlog
from latune.tuner.jobs import Compile, Failure, Start
from latune.tuner.process import Process, UntakenError

if TYPE_CHECKING:
    from latune.codegen.build import Build

COMPILER = "latune.tuner.compiler:start"
VERIFIED_COMPILER = "latune.tuner.compiler:start_verified"

# The slowest compilations seen took a tenth of this.
_TIMEOUT_S = 180.0
# Compilers fill all cores: the process that feeds the GPU, and the one that chooses what to try, must not wait for one.
_NICENESS = 10


class Builder(Protocol):
    """Compiles plans, each one once."""

    def prepare(self, problem: Problem, plans: Sequence[Plan], gpu: Gpu, *, urgent: bool = True) -> None:
        """Begins with plans that will soon be asked for or, not ``urgent``, later: those wait for all that are."""

    def has_compiled(self, problem: Problem, plans: Sequence[Plan], gpu: Gpu) -> bool:
        """Whether nobody who asks for these plans would wait."""

    def __call__(self, problem: Problem, plan: Plan, gpu: Gpu) -> Build:
        """The plan's build.

        Raises:
            BuildError: it cannot be rendered or does not compile.
        """


class ParallelBuilder:
    """Compiles in processes of its own; a plan that crashes the compiler, or stalls it, fails alone.

    Args:
        workers: processes at most, each started when it is first needed, if not before; None: one a CPU core.
        runner: ``module:function`` that serves a process, as those of ``compiler`` do.
        timeout_s: after which a compilation is given up.
    """

    def __init__(self, *, workers: int | None = None, runner: str = COMPILER, timeout_s: float = _TIMEOUT_S) -> None:
        self.workers = workers or len(os.sched_getaffinity(0))
        self._start = Start(runner=runner, device_index=0, niceness=_NICENESS)
        self._timeout_s = timeout_s
        self._threads = ThreadPoolExecutor(self.workers)
        self._futures: dict[Compile, Future[Build]] = {}
        self._backlog: Backlog[Compile] = Backlog()
        self._lock = threading.Lock()
        self._idle: SimpleQueue[Process] = SimpleQueue()
        self._coming_up: SimpleQueue[Process] = SimpleQueue()
        self._processes: list[Process] = []
        self._closing = False

    def __enter__(self) -> ParallelBuilder:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def begin(self) -> None:
        """Starts the processes that have not been started; they come up while the caller goes on."""
        for _ in range(self.workers - len(self._processes)):
            self._coming_up.put(self._begin_one())

    def close(self) -> None:
        """Ends all processes; compilations that have not ended are lost."""
        self._closing = True
        with self._lock:
            for future in self._futures.values():
                future.cancel()
        for process in list(self._processes):
            process.popen.kill()
        self._threads.shutdown()
        for process in self._processes:
            process.kill()

    def prepare(self, problem: Problem, plans: Sequence[Plan], gpu: Gpu, *, urgent: bool = True) -> None:
        for plan in plans:
            self._future(Compile(problem=problem, plan=plan, gpu=gpu), urgent)

    def has_compiled(self, problem: Problem, plans: Sequence[Plan], gpu: Gpu) -> bool:
        with self._lock:
            futures = [self._futures.get(Compile(problem=problem, plan=plan, gpu=gpu)) for plan in plans]
        return all(future is not None and future.done() for future in futures)

    def __call__(self, problem: Problem, plan: Plan, gpu: Gpu) -> Build:
        """As ``Builder``.

        Raises:
            BuildError: it cannot be rendered, does not compile, crashes the compiler or takes too long.
            WorkerError: no compiler process can be started, or something is in its way that is no plan's fault.
        """
        return self._future(Compile(problem=problem, plan=plan, gpu=gpu), urgent=True).result()

    def _future(self, job: Compile, urgent: bool) -> Future[Build]:
        with self._lock:
            future = self._futures.get(job)
            if future is None:
                self._backlog.add(job, job.kernels, urgent=urgent)
                future = self._futures[job] = Future()
                self._threads.submit(self._serve_the_first)
            elif urgent:
                self._backlog.hurry(job)
        return future

    def _serve_the_first(self) -> None:
        with self._lock:
            job = self._backlog.take()
        try:
            self._serve(job, self._futures[job])
        finally:
            with self._lock:
                self._backlog.done(job)

    def _serve(self, job: Compile, future: Future[Build]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(self._compile(job))
        # Whatever it is: who waits for the future would wait for ever.
        except BaseException as error:
            future.set_exception(error)

    def _compile(self, job: Compile) -> Build:
        process, answer = self._ask(job)
        if not isinstance(answer, Failure) or answer.outcome == "compile_error":
            self._idle.put(process)
        else:
            self._drop(process)
        if isinstance(answer, Failure):
            raise BuildError(answer.detail)
        return cast("Build", answer)

    def _ask(self, job: Compile) -> tuple[Process, object]:
        """Who answered, and what; a process that has died idle is replaced unseen."""
        while True:
            process = self._take()
            try:
                return process, process.ask(job, self._timeout_s)  # type: ignore[arg-type]
            except UntakenError:
                self._drop(process)
                if self._closing:
                    raise
            except WorkerError:
                self._idle.put(process)
                raise

    def _drop(self, process: Process) -> None:
        self._processes.remove(process)
        process.kill()

    def _take(self) -> Process:
        """An idle process, else one that comes up, else a new one: there are never more than threads that hold one."""
        with suppress(Empty):
            return self._idle.get_nowait()
        # One that has died on its way is replaced unseen.
        with suppress(Empty, WorkerError):
            return self._coming_up.get_nowait().wait_until_up(self._start)
        return self._begin_one().wait_until_up(self._start)

    def _begin_one(self) -> Process:
        process = Process.begin(self._start)
        self._processes.append(process)
        if self._closing:  # The others have been ended.
            process.popen.kill()
        return process
