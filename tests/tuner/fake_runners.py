"""Runners for worker processes without a GPU; each ``start_*`` is named in ``Worker(runner=...)``.

The plan's source says what the candidate does, so that one process can be taken through several fates.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from latune.measurement import Measurement
from latune.tuner.jobs import Arm, Describe, DeviceReport, Evaluate, Job, Prepare, Race, Ready


class OutOfMemoryError(RuntimeError):
    """Named as torch's, which the classification goes by."""


class AcceleratorError(RuntimeError):
    """Named as torch's."""


class CompilationError(Exception):
    """Named as Triton's."""


def _hang() -> None:
    """Until killed; touches the file named by FAKE_HANGING first, so that a test can wait for it."""
    if marker := os.environ.get("FAKE_HANGING"):
        Path(marker).touch()
    threading.Event().wait()


def _kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _raise(error: Exception) -> None:
    raise error


def _complain_and_fail() -> None:
    print("error: Failures have been detected", file=sys.stderr, flush=True)
    raise RuntimeError("PassManager::run failed")


TOOLCHAIN = (("torch", "1.0"), ("triton", "2.0"), ("cuda", "1.0"), ("driver", "1.0"))

FATES: dict[str, Callable[[], object]] = {
    "hang": _hang,
    "exit": lambda: os._exit(7),
    "segfault": _kill_itself,
    "oom": lambda: _raise(OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")),
    "illegal": lambda: _raise(AcceleratorError("CUDA error: an illegal memory access was encountered\nmore")),
    "compile": lambda: _raise(CompilationError("at 3:4:\n  tl.dot(a, b)\nshapes do not match")),
    "pass_manager": _complain_and_fail,
    "bug": lambda: _raise(KeyError("our own mistake")),
}


def start(device_index: int) -> Callable[[Job], object]:
    """Answers with its own process id in ``detail``, unless the source names a fate."""
    prepared: list[str] = []

    def run(job: Job) -> object:
        match job:
            case Describe():
                return report(device_index)
            case Prepare():
                prepared.append(f"{job.problem}{f' behind {job.ahead.outputs[0]}' if job.ahead else ''}")
                return Ready()
            case Evaluate():
                return evaluate(str(job.source))
            case Race():
                return [Arm(measurement=evaluate(str(source)), rounds_ms=(1.0,) * job.rounds) for _, source in job.candidates]

    def evaluate(source: str) -> Measurement:
        FATES.get(source, lambda: None)()
        outcome = source if source == "wrong_result" else "ok"
        return Measurement(outcome=outcome, median_ms=1.0, detail=f"{os.getpid()} prepared {'; '.join(prepared)}")

    return run


def start_racing(device_index: int) -> Callable[[Job], object]:
    """Races candidates: a source's text is a fate, ``wrong_result``, or the times of its rounds in ms, repeated ("1.0 1.1")."""

    def run(job: Job) -> object:
        match job:
            case Describe():
                return replace(report(device_index), toolchain=TOOLCHAIN)
            case Prepare():
                return Ready()
            case Race():
                return [arm(source.text, job.rounds) for _, source in job.candidates]

    def arm(text: str, rounds: int) -> Arm:
        FATES.get(text, lambda: None)()
        if text == "wrong_result":
            return Arm(measurement=Measurement(outcome=text, detail="o[0]: expected 1, got 2"))
        rounds_ms = tuple(itertools.islice(itertools.cycle(map(float, text.split())), rounds))
        return Arm(measurement=Measurement(outcome="ok", median_ms=rounds_ms[0], samples=rounds), rounds_ms=rounds_ms)

    return run


def report(device_index: int) -> DeviceReport:
    return DeviceReport(
        title=f"fake {device_index}",
        memory_bytes=1,
        free_bytes=1,
        copy_gbps=1.0,
        toolchain=(("pid", str(os.getpid())),),
    )


def start_broken(device_index: int) -> Callable[[Job], object]:
    raise RuntimeError(f"no device {device_index}")


def start_small(device_index: int) -> Callable[[Job], object]:
    """Has room for short sequences; forgets what was prepared when there is none for the next, as the real one does."""
    inner, prepared = start(device_index), []

    def run(job: Job) -> object:
        if isinstance(job, Prepare):
            prepared.clear()
            if job.problem.seqlen > 64:
                raise OutOfMemoryError("CUDA out of memory")
            prepared.append(job.problem)
        assert prepared
        return inner(job)

    return run


def start_too_small(device_index: int) -> Callable[[Job], object]:
    def run(job: Job) -> object:
        raise OutOfMemoryError("CUDA out of memory")

    return run
