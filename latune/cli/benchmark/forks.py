"""Work that is done in forks of this process first, whose results on disk it then finds."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future

Task = Callable[[], object]

_TIMEOUT_S = 300.0


class ForkedAhead(Executor):
    """Does what is submitted when it is ``run``: on every core, in forks, and then once more here, one after another.

    For compiling by Triton, which leaves its results in a cache on disk. Threads would wait for one another, as most of the
    time of compiling one kernel is Python's. Forks launch nothing: the GPU is this process's.

    Args:
        timeout_s: after which forks are killed; what they have not done is done here.
    """

    def __init__(self, timeout_s: float = _TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._submitted: list[tuple[Task, Future[object]]] = []

    def submit(self, fn: Task, /) -> Future[object]:  # type: ignore[override]
        future: Future[object] = Future()
        self._submitted.append((fn, future))
        return future

    def run(self) -> None:
        """Until every future is done; interrupted, those that are not are cancelled, so that nobody waits for them."""
        tasks = [task for task, _ in self._submitted]
        forks = min(len(os.sched_getaffinity(0)), len(tasks))
        try:
            if forks > 1:
                _do_in_forks([tasks[first::forks] for first in range(forks)], self._timeout_s)
            for task, future in self._submitted:
                try:
                    future.set_result(task())
                except Exception as error:
                    future.set_exception(error)
        finally:
            for _, future in self._submitted:
                if future.cancel():
                    future.set_running_or_notify_cancel()


def _do_in_forks(shares: Sequence[Sequence[Task]], timeout_s: float) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_attempt, args=(share,), daemon=True) for share in shares]
    with warnings.catch_warnings():
        # That a thread may hold a lock which in a fork nobody gives back: that is what the time-out is for.
        warnings.simplefilter("ignore", DeprecationWarning)
        for process in processes:
            process.start()
    deadline = time.monotonic() + timeout_s
    try:
        for process in processes:
            process.join(max(deadline - time.monotonic(), 0))
    finally:
        for process in processes:
            process.kill()
            process.join()


def _attempt(tasks: Sequence[Task]) -> None:
    """Each of them, whatever the others come to: their errors are found again when they are done here."""
    # Ctrl-C reaches them too; this process ends them then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for task in tasks:
        try:
            task()
        except Exception:
            continue
