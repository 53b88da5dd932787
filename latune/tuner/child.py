"""The worker process: reads jobs from a pipe, answers them, and turns failures into data.

It imports neither torch nor Triton itself (the runner does), and it dies with its parent.
"""

from __future__ import annotations

import importlib
import os
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import cast

from latune.tuner.jobs import Failure, Job, Obstacle, Ready, Start, Taken

_PARENT_POLL_S = 0.2

# By name: the classes live in torch and Triton, whose import is the runner's business, and differ by version.
_CLASSES = {
    "out_of_resources": {"OutOfResources", "OutOfMemoryError", "MemoryError"},
    "illegal_access": {"AcceleratorError"},
    "compile_error": {"CompilationError", "PTXASError", "BuildError", "RenderError", "SyntaxError"},
}
# Tried in this order: "CUDA error: out of memory" is not a reason to replace the process.
_PHRASES = {
    "out_of_resources": (
        "out of memory",
        "out of resource",
        "too many resources requested",
        "too many blocks in cooperative launch",
        "triton error [cuda]: invalid argument",
    ),
    "compile_error": ("passmanager::run failed", "ptxas", "ptx codegen", "kernel image", "invalid ptx", "ptx jit"),
    "illegal_access": (
        "illegal memory access",
        "illegal address",
        "misaligned address",
        "unspecified launch failure",
        "device-side assert",
        "illegal instruction",
        "invalid program counter",
        "invalid address space",
        "hardware stack error",
        "launch timed out",
        "uncorrectable ecc",
        "cuda error",
        "triton error [cuda]",
    ),
}


def serve(descriptor: int, parent: int) -> None:
    """Runs jobs until the pipe closes.

    Args:
        descriptor: the inherited end of the pipe.
        parent: process id of the parent; the process exits when that is no longer its parent.
    """
    os.set_inheritable(descriptor, False)
    threading.Thread(target=_exit_with, args=(parent,), daemon=True).start()
    connection = Connection(descriptor)
    start = cast(Start, connection.recv())
    os.nice(start.niceness)
    connection.send(Taken())
    run = _find(start.runner)(start.device_index)
    connection.send(Ready())
    while (job := _next(connection)) is not None:
        connection.send(Taken())
        connection.send(_attempt(run, job))


def _exit_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PARENT_POLL_S)
    # The main thread may be stuck in a kernel that never ends: no clean-up can be waited for.
    os._exit(1)


def _find(runner: str) -> Callable[[int], Callable[[Job], object]]:
    module, _, function = runner.partition(":")
    return cast(Callable[[int], Callable[[Job], object]], getattr(importlib.import_module(module), function))


def _next(connection: Connection) -> Job | None:
    try:
        return cast(Job, connection.recv())
    except EOFError:
        return None


def _attempt(run: Callable[[Job], object], job: Job) -> object:
    try:
        return run(job)
    except Exception as error:
        outcome = outcome_of(error)
        if outcome is None and isinstance(error, OSError):
            return Obstacle(detail=str(error))
        if outcome is None:
            raise  # A mistake of ours, not of the candidate: the traceback goes to the log, the process ends.
        return Failure(outcome=outcome, detail=_one_line(error, outcome))


def outcome_of(error: BaseException) -> str | None:
    """What an exception says about the candidate that raised it; None when it says nothing."""
    return _by_text(error) or _by_class(error)


def _by_text(error: BaseException) -> str | None:
    text = str(error).lower()
    if not isinstance(error, RuntimeError):
        return None
    return next((outcome for outcome, phrases in _PHRASES.items() if any(phrase in text for phrase in phrases)), None)


def _by_class(error: BaseException) -> str | None:
    names = {cls.__name__ for cls in type(error).__mro__}
    return next((outcome for outcome, known in _CLASSES.items() if names & known), None)


def _one_line(error: BaseException, outcome: str) -> str:
    """The telling line: a compiler's message ends with it, a driver's begins with it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no message"]
    return f"{type(error).__name__}: {lines[-1 if outcome == 'compile_error' else 0]}"
