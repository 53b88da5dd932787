"""Implementations side by side: each checked against float64, then all timed in turns, in one process."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Protocol

import torch
from torch import Tensor
from triton.errors import TritonError

from latune import slopes as slopes_of
from latune.cli.accuracy import relative_rms
from latune.cli.peers import LINEAR, PEERS, SOFTMAX, Peer, softmax_reference
from latune.cli.stopwatch import Timer
from latune.codegen.dtypes import TORCH_DTYPES
from latune.ops import reference
from latune.problem import Problem
from latune.tuner import timing

WRONG_ABOVE = 5e-2
"""The relative RMS error from which on an output is wrong: five times what rounding of bf16 explains."""

_ROUNDS = 20
# Of samples of one peer: the naive ones take a hundred times as long as the rest.
_MOST_MS = 1000.0
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

    def timer(self, call: Callable[[], object]) -> Timer: ...

    def extra_bytes(self, call: Callable[[], tuple[Tensor, ...]]) -> tuple[tuple[Tensor, ...], int]: ...

    def release(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One shape: inputs, and float64 references (kept in fp32) of o, dq, dk and dv by function; all [B, H, N, width]."""

    q: Tensor
    k: Tensor
    v: Tensor
    do: Tensor
    slopes: Tensor | None
    expected: Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of one peer in one direction.

    Attributes:
        verdict: ``ok``, ``wrong`` or ``unavailable``; only what is ok is timed.
        detail: why it is unavailable.
        error: the largest relative RMS error of its outputs.
        timing: of the GPU's work, the L2 cache cold.
        host_ms: how long a call keeps the host.
        ratio: how many times as long as latune it takes, round by round: median, and its 95% interval.
        extra_bytes: the most memory a call holds beyond its inputs, outputs included.
        output_bytes: what its outputs alone take.
    """

    peer: Peer
    verdict: str
    detail: str = ""
    error: float | None = None
    timing: timing.Timing | None = None
    host_ms: float | None = None
    ratio: tuple[float, float, float] | None = None
    extra_bytes: int | None = None
    output_bytes: int | None = None

    def to_json(self) -> dict[str, object]:
        timed = self.timing
        return {
            "peer": self.peer.name,
            "version": self.peer.version,
            "function": self.peer.function,
            "layout": self.peer.layout,
            "verdict": self.verdict,
            "detail": self.detail,
            # NaN has no place in JSON; the verdict tells.
            "relative_rms_error": self.error if self.error is not None and math.isfinite(self.error) else None,
            "median_ms": timed and timed.median_ms,
            "ci_low_ms": timed and timed.ci_low_ms,
            "ci_high_ms": timed and timed.ci_high_ms,
            "samples": timed.samples if timed else 0,
            "host_ms": self.host_ms,
            "times_latune": None if self.ratio is None else dict(zip(("median", "low", "high"), self.ratio, strict=True)),
            "extra_bytes": self.extra_bytes,
            "output_bytes": self.output_bytes,
        }


@dataclass(slots=True, kw_only=True)
class _Arm:
    """A peer that is ready to be timed; one that fails later, or has had its share of time, draws no more samples."""

    result: Result
    timer: Timer | None = None
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
        self.spent_ms += sum(times_ms)
        return times_ms


def make_case(problem: Problem, device: torch.device, *, seed: int = 0) -> Case:
    """Random inputs, scaled so that outputs are of moderate size, ALiBi's slopes, and the references."""
    generator = torch.Generator(device).manual_seed(seed)

    def normal(features: int, width: int = 1) -> Tensor:
        rows = (problem.batch, problem.num_heads, problem.seqlen, features)
        return torch.randn(rows, generator=generator, device=device).mul_(width**-0.5).to(TORCH_DTYPES[problem.dtype])

    d, e = problem.head_dim_k, problem.head_dim_v
    q, k, v, do = normal(d), normal(d, d), normal(e), normal(e, e)
    slopes = None if problem.decay == "none" else slopes_of.alibi(problem.num_heads).to(device)
    expected = {LINEAR: _linear(q, k, v, do, slopes), SOFTMAX: _softmax(q, k, v, do)}
    return Case(q=q, k=k, v=v, do=do, slopes=slopes, expected=expected)


def contest(
    problem: Problem, case: Case, measure: Measure, *, peers: Sequence[Peer] = PEERS, rounds: int = _ROUNDS, seed: int = 0
) -> list[Result]:
    """All peers in one direction: checked one by one, then timed in turns, each round in a random order."""
    arms = [_prepare(peer, problem.direction, case, measure) for peer in peers]
    drawn = timing.interleave([arm.sample for arm in arms], rounds=rounds, seed=seed)
    return _with_ratios([_timed(arm, samples) for arm, samples in zip(arms, drawn, strict=True)], drawn)


def _prepare(peer: Peer, direction: str, case: Case, measure: Measure) -> _Arm:
    try:
        call = (_forward if direction == "fwd" else _backward)(peer, case)
        # The first call compiles; what it allocates to choose a config is not the call's.
        result = _checked(peer, direction, call(), case)
        if result.verdict != "ok":
            return _Arm(result=result)
        outputs, extra_bytes = measure.extra_bytes(call)
        output_bytes = sum(output.numel() * output.element_size() for output in outputs)
        del outputs
        timer = measure.timer(call)
    except _PEER_ERRORS as error:
        failed = Result(peer=peer, verdict="unavailable", detail=_line(error))
    else:
        sized = replace(result, host_ms=timer.host_ms, extra_bytes=extra_bytes, output_bytes=output_bytes)
        return _Arm(result=sized, timer=timer)
    # Here the error and its frames, which hold tensors, are gone.
    measure.release()
    return _Arm(result=failed)


def _forward(peer: Peer, case: Case) -> Callable[[], tuple[Tensor, ...]]:
    operator = peer.load(case.slopes)
    q, k, v = (peer.arrange(tensor) for tensor in (case.q, case.k, case.v))

    def call() -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (operator(q, k, v),)

    return call


def _backward(peer: Peer, case: Case) -> Callable[[], tuple[Tensor, ...]]:
    """Gradients from one graph that is kept, as every peer can be called."""
    operator = peer.load(case.slopes)
    q, k, v = (peer.arrange(tensor).detach().requires_grad_() for tensor in (case.q, case.k, case.v))
    o, do = operator(q, k, v), peer.arrange(case.do)
    return lambda: torch.autograd.grad(o, (q, k, v), do, retain_graph=True)


def _checked(peer: Peer, direction: str, outputs: Sequence[Tensor], case: Case) -> Result:
    expected = case.expected[peer.function]
    wanted = [expected[name] for name in {"fwd": ("o",), "bwd": ("dq", "dk", "dv")}[direction]]
    pairs = zip(outputs, wanted, strict=True)
    errors = [relative_rms(peer.restore(output), reference_) for output, reference_ in pairs]
    error = max(errors, key=lambda error: (math.isnan(error), error))
    return Result(peer=peer, verdict="ok" if error <= WRONG_ABOVE else "wrong", error=error)


def _timed(arm: _Arm, rounds: Sequence[Sequence[float]]) -> Result:
    if arm.failure:
        return Result(peer=arm.result.peer, verdict="unavailable", detail=arm.failure)
    times_ms = [time_ms for samples in rounds for time_ms in samples]
    return replace(arm.result, timing=timing.summarise(times_ms) if times_ms else None)


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


def _linear(q: Tensor, k: Tensor, v: Tensor, do: Tensor, slopes: Tensor | None) -> dict[str, Tensor]:
    """One batch at a time, so that the float64 of a long sequence fits."""
    expected = _empty(q, v)
    for index in range(len(q)):
        b_q, b_k, b_v, b_do = (tensor[index : index + 1].double() for tensor in (q, k, v, do))
        o, _ = reference.chunked(b_q, b_k, b_v, slopes)
        exact = (o, *reference.gradients(b_q, b_k, b_v, slopes, 1.0, b_do)[:3])
        for whole, part in zip(expected.values(), exact, strict=True):
            whole[index] = part[0]
    return expected


def _softmax(q: Tensor, k: Tensor, v: Tensor, do: Tensor) -> dict[str, Tensor]:
    """One head at a time."""
    expected = _empty(q, v)
    for head in product(range(q.shape[0]), range(q.shape[1])):
        exact = softmax_reference(*(tensor[head].double() for tensor in (q, k, v, do)))
        for whole, part in zip(expected.values(), exact, strict=True):
            whole[head] = part
    return expected


def _empty(q: Tensor, v: Tensor) -> dict[str, Tensor]:
    like = {"o": v, "dq": q, "dk": q, "dv": v}
    return {name: torch.empty_like(tensor, dtype=torch.float32) for name, tensor in like.items()}


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
