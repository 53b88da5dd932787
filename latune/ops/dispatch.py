"""Problem -> the loaded module that serves it, decided once a bucket and device, under a lock."""

from __future__ import annotations

import functools
import gc
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
import triton
from torch import Tensor
from triton.compiler.errors import CompilationError
from triton.runtime.errors import OutOfResources, PTXASError

from latune.cache import resolve as ladder
from latune.cache.entry import Entry
from latune.cache.resolve import Resolution
from latune.codegen.load import generated_sha256, load_plan
from latune.errors import RenderError, UnknownGpuError
from latune.gpu import Gpu, find_gpu, gpu_of
from latune.ops.memo import forget_calls
from latune.ops.recording import HostFunction, Recording, Tensors
from latune.ops.tape import record
from latune.plan import Plan
from latune.problem import Bucket, Problem

_T = TypeVar("_T")
_UNLAUNCHABLE = (CompilationError, OutOfResources, PTXASError)
LAUNCH_ERRORS = (*_UNLAUNCHABLE, RuntimeError)
"""Among what these say may be that a plan cannot be compiled or launched; a decision tells (``Decision.refused``)."""

# Of RuntimeErrors: a pass of the compiler that failed, and launches that the driver refuses, such as of too large a grid, or
# of more programs than can run at once where they wait for one another.
_UNLAUNCHABLE_PHRASES = ("PassManager", "Triton Error [CUDA]: invalid argument", "too many blocks in cooperative launch")

_decisions: dict[tuple[int, Bucket, Plan | None, bool], Decision] = {}
_lock = threading.Lock()
_warned_of_tritons: set[str | None] = set()


class Decision:
    """What runs a bucket on one device: the first plan of the ladder that compiles and launches here.

    Called with the arguments of the generated module's host function; returns its tuple.

    Args:
        unsaid: warnings to be said with those of its own.

    Attributes:
        plan: the present one.
        refused: it does not launch here, nor did any before it.
    """

    def __init__(self, problem: Problem, candidates: Iterator[tuple[Plan, str]], unsaid: Sequence[str] = ()) -> None:
        self.problem = problem
        self._candidates = candidates
        self._lock = threading.Lock()
        self.refused = False
        self._unsaid = list(unsaid)
        self.plan, self.why = next(self._candidates)
        self._function = self._load()

    def __call__(self, *arguments: Tensor | float) -> Tensors:
        return self._launch(lambda function: function(*arguments))

    def record(self, *arguments: Tensor | float) -> tuple[Tensors, Recording | None]:
        """The same, and a recording of it where it can be repeated."""
        return self._launch(lambda function: record(function, arguments))

    def _launch(self, call: Callable[[HostFunction], _T]) -> _T:
        """``call`` of the first host function that launches."""
        while True:
            function = self._function
            try:
                return call(function)
            except _UNLAUNCHABLE as error:
                self._fall_back(function, error)
            except RuntimeError as error:
                if not any(phrase in str(error) for phrase in _UNLAUNCHABLE_PHRASES):
                    raise
                self._fall_back(function, error)
            collect_frames()

    def _load(self) -> HostFunction:
        """The host function of the first candidate from the present one on that can be rendered."""
        while True:
            try:
                module = load_plan(self.problem, self.plan)
            except RenderError as error:
                self._step_down(error)
            else:
                return getattr(module, {"fwd": "forward", "bwd": "backward"}[self.problem.direction])

    def _fall_back(self, failed: HostFunction, error: Exception) -> None:
        """Replaces the function that failed, once, however many threads it failed."""
        with self._lock:
            if self._function is failed:
                self._step_down(error)
                self._function = self._load()
        self.say()

    def _step_down(self, error: Exception) -> None:
        """Takes the next candidate; the last one's error is the caller's."""
        following = next(self._candidates, None)
        if following is None:
            self.refused = True
            raise error
        failed, (self.plan, self.why) = self.why, following
        self._unsaid.append(f"latune: falls back to {self.why}: {_first_line(error)} ({failed})")

    def say(self) -> None:
        """Warns of what serves and what gave way, once all is done: who has warnings raise goes on with the next call."""
        while self._unsaid:
            _warn(self._unsaid.pop(0))

    def say_refused(self, error: Exception) -> None:
        """Warns that passes do without what a variant of a plan, which this is, would hand over."""
        _warn(f"latune: passes hand nothing over, and take longer: {_first_line(error)} ({self.why})")


def decide(problem: Problem, device_index: int, plan: Plan | None = None, *, alone: bool = False) -> Decision:
    """The decision for ``problem`` on a CUDA device: one look-up when its bucket was met before.

    Args:
        plan: runs this one and no other.
        alone: runs none that reads checkpoints, since there are none; asked of buckets decided before.
    """
    key = (device_index, problem.bucket(), plan, alone)
    decision = _decisions.get(key)
    if decision is None:
        with _lock:
            decision = _decisions.get(key) or _decisions.setdefault(key, _decide(*key, problem=problem))
    decision.say()
    return decision


def resolve(problem: Problem, gpu: Gpu | str) -> Resolution:
    """What would run ``problem`` on ``gpu`` (a catalogue name or a ``Gpu``), and why. Loads and compiles nothing.

    The modules of entries that could serve are generated where no earlier process has: that tells which are current.
    Head dims are padded as ``lightning_attn`` pads them.

    Raises:
        UnknownGpuError: no GPU of that name is in the catalogue.
        ValueError: nothing serves packed sequences.
    """
    if problem.varlen:
        raise ValueError(f"expected a problem without varlen, got {problem.bucket()}; packed sequences are not supported")
    found = find_gpu(gpu) if isinstance(gpu, str) else gpu
    return ladder.resolve(problem.padded(), found, plan_sha256=generated_sha256)


def _decide(device_index: int, bucket: Bucket, plan: Plan | None, alone: bool, *, problem: Problem) -> Decision:
    if plan is not None:
        return Decision(problem, iter([(plan, f"a plan for {bucket}")]))
    gpu = device_gpu(device_index)
    resolution = resolve(problem, gpu)
    if alone:
        # Whatever there is to warn of was said when the bucket itself was decided.
        return Decision(problem, ladder.without_checkpoints(resolution.candidates))
    inexact = [] if resolution.step == "exact" else [f"latune: {resolution.why}; tune it: {tune_command(problem, gpu)}"]
    tritons = [] if resolution.entry is None else _warnings_of_another_triton(resolution.entry, problem, gpu)
    return Decision(problem, resolution.candidates, [*inexact, *tritons])


def _warnings_of_another_triton(entry: Entry, problem: Problem, gpu: Gpu) -> list[str]:
    """Once for each version: a cache is tuned by one and brought up to date as a whole."""
    tuned_with = entry.toolchain["triton"]
    if tuned_with in (triton.__version__, *_warned_of_tritons):
        return []
    _warned_of_tritons.add(tuned_with)
    plans = f"plans tuned with Triton {tuned_with} serve under Triton {triton.__version__}"
    return [f"latune: {plans}; tune it anew: {tune_command(problem, gpu)}"]


def _warn(text: str) -> None:
    """Warns at the line of the caller's that led here, whatever of latune and torch lies between."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in ("latune", "torch"):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, stacklevel=level)


def tune_command(problem: Problem, gpu: Gpu) -> str:
    """The command line that tunes exactly this problem."""
    return f"latune tune {problem_options(problem, gpu)}"


def problem_options(problem: Problem, gpu: Gpu) -> str:
    """The options by which a command line means exactly this problem on this GPU."""
    shape = ",".join(map(str, (problem.batch, problem.num_heads, problem.seqlen, problem.head_dim_k, problem.head_dim_v)))
    options = (
        f"--gpu {gpu.name} --shape {shape} --dtype {problem.dtype} --direction {problem.direction} --decay {problem.decay}"
    )
    flags = {"--initial-state": problem.has_initial_state, "--final-state": problem.needs_final_state}
    return " ".join([options, *(flag for flag, given in flags.items() if given)])


@functools.cache
def device_gpu(device_index: int) -> Gpu:
    """The GPU behind a CUDA device index, recognised by its silicon.

    Raises:
        UnknownGpuError: nothing is generated for a device of its kind.
    """
    if torch.version.hip:
        raise UnknownGpuError(
            "expected an NVIDIA GPU, got one of ROCm; on CPU tensors lightning_attn runs the PyTorch reference"
        )
    return gpu_of(torch.cuda.get_device_properties(device_index))


def forget_decisions() -> None:
    """Drops every decision, so that the next call reads the cache anew (after a tuning run in the same process)."""
    with _lock:
        _decisions.clear()
    forget_calls()


def collect_frames() -> None:
    """Frees what a call allocated that did not launch: its frames, which an error has held, may be part of a cycle.

    Whoever warms up for a CUDA graph looks for memory that is still in use.
    """
    gc.collect()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
