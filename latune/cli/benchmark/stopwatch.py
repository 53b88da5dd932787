"""Time and memory of calls on the current GPU."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from latune.cli.benchmark.hosttime import HostTime, is_gpu_bound, wall_us
from latune.tuner.sampling import copy_gbps, graph_sampler
from latune.tuner.timing import Sample, median

T = TypeVar("T")

_FLUSH_BYTES = 512 * 2**20
_HOST_SAMPLES = 5
_HOST_SLACK = 1.5
_GPU_SAMPLES = (3, 20)
_GPU_SAMPLES_US = 1e5
_WARM_UPS = 3
_MOST_FLUSHES = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Timer:
    """Draws samples of one call's time on the GPU.

    Attributes:
        host_ms: how long the call keeps the host, in the median; roughly, for it only has to be hidden.
    """

    sample: Sample
    host_ms: float


class Stopwatch:
    """Times calls with a cold L2 cache and the host's latency hidden, the host alone, and sees how much memory they take.

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

    def unit_us(self) -> float:
        """The unit of host time, as of now."""
        a, b, c = (torch.zeros(1, device=self.device) for _ in range(3))
        return wall_us(lambda: torch.add(a, b, out=c), torch.cuda.synchronize)

    def host(self, call: Callable[[], object], unit_us: float) -> HostTime:
        """The host's time of a call that has run before."""
        wall = wall_us(call, torch.cuda.synchronize)
        fewest, most = _GPU_SAMPLES
        gpu = self._graph_us(call, samples=min(max(fewest, int(_GPU_SAMPLES_US / wall)), most))
        busy = gpu if gpu is not None else 1e3 * median(self.timer(call).sample(_HOST_SAMPLES))
        return HostTime(unit_us=unit_us, wall_us=wall, gpu_us=gpu, gpu_bound=is_gpu_bound(busy, wall))

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

    def _graph_us(self, call: Callable[[], object], samples: int) -> float | None:
        """The GPU's time of the call, replayed from a CUDA graph; None where it cannot be captured."""
        # Warmed up beside the default stream, as PyTorch asks for.
        with torch.cuda.stream(torch.cuda.Stream(self.device)):
            for _ in range(_WARM_UPS):
                call()
        # A leaf whose graph is still there has its gradient accumulated on the stream of that graph, which spoils a capture
        # on another one; a graph that is part of a cycle is there until it is collected.
        gc.collect()
        torch.cuda.synchronize()
        sample = graph_sampler([call])
        torch.cuda.synchronize()
        return None if sample is None else 1e3 * median(sample(samples))

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
