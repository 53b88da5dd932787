"""Time and memory of calls on the current GPU."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from latune.tuner.sampling import copy_gbps
from latune.tuner.timing import Sample, median

T = TypeVar("T")

_FLUSH_BYTES = 512 * 2**20
_HOST_SAMPLES = 5
_HOST_SLACK = 1.5
_MOST_FLUSHES = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Timer:
    """Draws samples of one call's time on the GPU.

    Attributes:
        host_ms: how long the call keeps the host, in the median.
    """

    sample: Sample
    host_ms: float


class Stopwatch:
    """Times calls with a cold L2 cache and the host's latency hidden, and sees how much memory they take.

    Between the events lies the GPU's work alone: writing over a large buffer keeps the GPU busy while the host prepares
    the launches. That leaves the L2 full of lines to be written back, as a call's own outputs leave it in their turn.
    """

    def __init__(self) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())
        self.copy_gbps = copy_gbps()
        self._buffer = torch.empty(_FLUSH_BYTES, dtype=torch.int8, device=self.device)
        self._buffer.zero_()
        self._flush_ms = median([self._events_ms(self._buffer.zero_) for _ in range(_HOST_SAMPLES)])

    def timer(self, call: Callable[[], object]) -> Timer:
        """A timer of a call that has run before, so that it compiles nothing any more."""
        host_ms = median([self._host_ms(call) for _ in range(_HOST_SAMPLES)])
        flushes = min(1 + math.ceil(_HOST_SLACK * host_ms / self._flush_ms), _MOST_FLUSHES)

        def sample(count: int) -> list[float]:
            return [self._cold_ms(call, flushes) for _ in range(count)]

        return Timer(sample=sample, host_ms=host_ms)

    def extra_bytes(self, call: Callable[[], T]) -> tuple[T, int]:
        """A call's result, and the most memory it held beyond what was held before; the result counts."""
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = call()
        torch.cuda.synchronize()
        return result, torch.cuda.max_memory_allocated() - before

    def release(self) -> None:
        """Gives cached memory back, after a call that ran out of it."""
        torch.cuda.empty_cache()

    def _cold_ms(self, call: Callable[[], object], flushes: int) -> float:
        for _ in range(flushes):
            self._buffer.zero_()
        return self._events_ms(call)

    def _events_ms(self, call: Callable[[], object]) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end)

    def _host_ms(self, call: Callable[[], object]) -> float:
        torch.cuda.synchronize()
        began = time.perf_counter()
        call()
        return (time.perf_counter() - began) * 1e3
