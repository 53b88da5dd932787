"""Implementations side by side: each checked against float64, then all timed in turns, in one process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from triton.errors import TritonError

from latune.cli.accuracy import relative_rms, worst, worst_head_rms
from latune.cli.benchmark.case import Case
from latune.cli.benchmark.hosttime import HostTime
from latune.cli.benchmark.operators import Operator
from latune.cli.benchmark.peers import PEERS, Peer
from latune.cli.benchmark.result import Result
from latune.cli.benchmark.stopwatch import Timer
from latune.problem import Problem
from latune.tuner import timing

Call = Callable[[], tuple[Tensor, ...]]

WRONG_ABOVE = 2e-2
"""The relative RMS error of a head from which on an output is wrong: several times what rounding of bf16 explains."""

_OUTPUTS = {"fwd": ("o",), "bwd": ("dq", "dk", "dv")}
_ROUNDS = 20
# Of the GPU's time for one peer: the naive ones take a hundred times as long as the rest.
_MOST_MS = 1000.0
# Slower passes are nobody's choice, and their host time would take most of a run.
_MOST_EAGER_MS = 25.0
# A peer is somebody else's code in some version: whatever of these it raises is its result, not the command's.
_PEER_ERRORS = (
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    RuntimeError,
    TritonError,
    TypeError,
    ValueError,
)


class Measure(Protocol):
    """What is asked of ``stopwatch.Stopwatch``."""

    def stream(self) -> AbstractContextManager[None]: ...

    def input_sets(self, input_bytes: int) -> int: ...

    def timer(self, calls: Sequence[Callable[[], object]]) -> Timer: ...

    def unit_us(self) -> float: ...

    def host(self, call: Callable[[], object], unit_us: float) -> HostTime: ...

    def extra_bytes(self, call: Call) -> tuple[tuple[Tensor, ...], int]: ...

    def release(self) -> None: ...


@dataclass(slots=True, kw_only=True)
class _Arm:
    """A peer that is ready to be timed; one that fails later, or has had its share of time, draws no more samples.

    Attributes:
        eager: the call whose host time is measured.
    """

    result: Result
    timer: Timer | None = None
    eager: Call | None = None
    failure: str = ""
    spent_ms: float = 0.0

    def sample(self, count: int) -> list[float]:
        if self.failure or self.timer is None or self.spent_ms > _MOST_MS:
            return []
        try:
            times_ms = self.timer.sample(count)
        except _PEER_ERRORS as error:
            self.failure = _line(error)
            return []
        self.spent_ms += sum(times_ms) * self.timer.calls
        return times_ms


def contest(
    problem: Problem, case: Case, measure: Measure, *, peers: Sequence[Peer] = PEERS, rounds: int = _ROUNDS, seed: int = 0
) -> list[Result]:
    """All peers in one direction: checked one by one, then timed in turns, each round in a random order."""
    with measure.stream():
        arms = [_prepare(peer, problem.direction, case, measure) for peer in peers]
        drawn = timing.interleave([arm.sample for arm in arms], rounds=rounds, seed=seed)
        results = [_timed(arm, samples) for arm, samples in zip(arms, drawn, strict=True)]
        unit_us = measure.unit_us()
        results = [_with_host(result, arm.eager, measure, unit_us) for result, arm in zip(results, arms, strict=True)]
    return _with_ratios(results, drawn)


def _prepare(peer: Peer, direction: str, case: Case, measure: Measure) -> _Arm:
    one_pass = _forward if direction == "fwd" else _backward
    try:
        operator = peer.load(case)
        call = one_pass(peer, operator, case)
        # The first call compiles; what it allocates to choose a config is not the call's.
        result = _checked(peer, direction, call(), case)
        if result.verdict != "ok":
            return _Arm(result=result)
        outputs, extra_bytes = measure.extra_bytes(call)
        output_bytes = sum(output.numel() * output.element_size() for output in outputs)
        del outputs
        timer = measure.timer([call, *_on_copies(partial(one_pass, peer, operator), case, measure)])
        eager = call if direction == "fwd" else _step(peer, operator, case)
        step_bytes = None if direction == "fwd" else _step_bytes(eager, measure)
    except _PEER_ERRORS as error:
        failed = Result(peer=peer, verdict="unavailable", detail=_line(error))
    else:
        sizes = {"extra_bytes": extra_bytes, "output_bytes": output_bytes, "step_bytes": step_bytes}
        return _Arm(result=replace(result, replayed=timer.replayed, **sizes), timer=timer, eager=eager)
    # Here the error and its frames, which hold tensors, are gone.
    measure.release()
    return _Arm(result=failed)


def _on_copies(call_on: Callable[[Case], Call], case: Case, measure: Measure) -> list[Call]:
    """The call on each further set of inputs; none where what it keeps does not fit, and the L2 cache holds no set anyhow."""
    try:
        return [call_on(case.clone()) for _ in range(measure.input_sets(case.input_bytes) - 1)]
    except torch.OutOfMemoryError:
        pass
    # Here the error and its frames, which hold tensors, are gone.
    measure.release()
    return []


def _forward(peer: Peer, operator: Operator, case: Case) -> Call:
    q, k, v = peer.inputs(case)

    def call() -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (operator(q, k, v),)

    return call


def _backward(peer: Peer, operator: Operator, case: Case) -> Call:
    """Gradients from one graph that is kept, as every peer can be called."""
    inputs, do = _leaves(peer, case), peer.arrange(case.do)
    o = operator(*inputs)
    return lambda: torch.autograd.grad(o, inputs, do, retain_graph=True)


def _step(peer: Peer, operator: Operator, case: Case) -> Call:
    """Both passes, as a model takes them."""
    inputs, do = _leaves(peer, case), peer.arrange(case.do)
    return lambda: torch.autograd.grad(operator(*inputs), inputs, do)


def _step_bytes(step: Call, measure: Measure) -> int | None:
    """What a step that has run before holds; None where there is no room for one beside what is timed."""
    try:
        step()
        return measure.extra_bytes(step)[1]
    except torch.OutOfMemoryError:
        pass
    # Here the error and its frames, which hold tensors, are gone.
    measure.release()
    return None


def _leaves(peer: Peer, case: Case) -> list[Tensor]:
    return [tensor.detach().requires_grad_() for tensor in peer.inputs(case)]


def _checked(peer: Peer, direction: str, outputs: Sequence[Tensor], case: Case) -> Result:
    expected = case.expected[peer.function]
    named = zip(_OUTPUTS[direction], outputs, strict=True)
    pairs = [(peer.restored(name, output), expected[name]) for name, output in named]
    error = worst(relative_rms(*pair) for pair in pairs)
    is_right = all(worst_head_rms(*pair) <= WRONG_ABOVE for pair in pairs)
    return Result(peer=peer, verdict="ok" if is_right else "wrong", error=error)


def _timed(arm: _Arm, rounds: Sequence[Sequence[float]]) -> Result:
    if arm.failure:
        return Result(peer=arm.result.peer, verdict="unavailable", detail=arm.failure)
    times_ms = [time_ms for samples in rounds for time_ms in samples]
    return replace(arm.result, timing=timing.summarise(times_ms) if times_ms else None)


def _with_host(result: Result, eager: Call | None, measure: Measure, unit_us: float) -> Result:
    if result.timing is None or eager is None or result.timing.median_ms > _MOST_EAGER_MS:
        return result
    try:
        eager()
        return replace(result, host=measure.host(eager, unit_us))
    except _PEER_ERRORS as error:
        failed = HostTime(unit_us=unit_us, wall_us=None, detail=_line(error))
    measure.release()
    return replace(result, host=failed)


def _with_ratios(results: Sequence[Result], drawn: Sequence[Sequence[Sequence[float]]]) -> list[Result]:
    """The results with how they compare with the first one, where both were timed."""
    medians = [
        [timing.median(samples) for samples in rounds if samples] if result.timing else None
        for result, rounds in zip(results, drawn, strict=True)
    ]
    base = medians[0] if medians else None
    return [
        replace(result, ratio=timing.paired_ratio(own[: len(base)], base[: len(own)]) if own and base else None)
        for result, own in zip(results, medians, strict=True)
    ]


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
