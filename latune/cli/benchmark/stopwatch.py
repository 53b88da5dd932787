"""Time and memory of calls on the current GPU."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch

from latune.cli.benchmark.hosttime import HostTime, is_gpu_bound, wall_us
from latune.tuner.sampling import copy_gbps, graph_sampler, input_sets
from latune.tuner.timing import Sample, median

T = TypeVar("T")

_FLUSH_BYTES = 512 * 2**20
_HOST_SAMPLES = 5
_HOST_SLACK = 1.5
_GPU_SAMPLES = (3, 20)
_GPU_SAMPLES_MS = 100
# A call of shapes that are new may be recorded, and repeated from the third on.
_WARM_UPS = 3
_MOST_FLUSHES = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Timer:
    """Draws samples of one call's time on the GPU.

    Attributes:
        calls: as many are made for a sample, each on inputs of its own.
        replayed: from a CUDA graph.
    """

    sample: Sample
    calls: int
    replayed: bool


class Stopwatch:
    """Times calls with a cold L2 cache and the host's latency hidden, the host alone, and sees how much memory they take.

    What it times runs on a stream of its own: gradients are captured on the one on which their forward pass was run.
    """

    def __init__(self) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())
        self.copy_gbps = copy_gbps()
        self._stream = torch.cuda.Stream(self.device)
        self._l2_bytes = torch.cuda.get_device_properties(self.device).L2_cache_size
        self._buffer = torch.empty(_FLUSH_BYTES, dtype=torch.int8, device=self.device)
        self._buffer.zero_()
        self._flush_ms = median([self._events_ms(self._buffer.zero_) for _ in range(_HOST_SAMPLES)])

    @contextmanager
    def stream(self) -> Iterator[None]:
        """In this context calls run where they are timed, after all that was launched before."""
        torch.cuda.synchronize()
        with torch.cuda.stream(self._stream):
            yield
            torch.cuda.synchronize()

    def input_sets(self, input_bytes: int) -> int:
        """How many sets of inputs a call is rotated over."""
        return input_sets(input_bytes, self._l2_bytes)

    def timer(self, calls: Sequence[Callable[[], object]]) -> Timer:
        """A timer of one call, which has run before, so that it compiles nothing any more.

        Its samples are replays of one CUDA graph, as the tuner's are: each call reads, and writes, other memory than those
        before, and pays for what these leave to be written back. Where it cannot be captured, one is launched by itself.

        Args:
            calls: the same on each of the sets of inputs.
        """
        for call in calls:
            call()
        sample = self._replays(calls)
        if sample is None:
            return Timer(sample=self._launches(calls[0]), calls=1, replayed=False)
        return Timer(sample=sample, calls=len(calls), replayed=True)

    def unit_us(self) -> float:
        """The unit of host time, as of now."""
        a, b, c = (torch.zeros(1, device=self.device) for _ in range(3))
        return wall_us(lambda: torch.add(a, b, out=c), torch.cuda.synchronize)

    def host(self, call: Callable[[], object], unit_us: float) -> HostTime:
        """The host's time of a call that has run before."""
        # Before the row of calls, behind which the GPU's clock may have been lowered for its power.
        gpu = self._graph_us(call)
        wall = wall_us(call, torch.cuda.synchronize)
        busy = gpu if gpu is not None else 1e3 * median(self._launches(call)(_HOST_SAMPLES))
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

    def _graph_us(self, call: Callable[[], object]) -> float | None:
        """The GPU's time of the call, replayed from a CUDA graph; None where it cannot be captured."""
        for _ in range(_WARM_UPS):
            call()
        sample = self._replays([call])
        if sample is None:
            return None
        (first_ms,) = sample(1)
        fewest, most = _GPU_SAMPLES
        return 1e3 * median(sample(min(max(fewest, int(_GPU_SAMPLES_MS / first_ms)), most)))

    def _replays(self, calls: Sequence[Callable[[], object]]) -> Sample | None:
        # A graph that is part of a cycle, and with it the memory that it has saved, is there until it is collected.
        gc.collect()
        torch.cuda.synchronize()
        sample = graph_sampler(calls, stream=self._stream)
        torch.cuda.synchronize()
        return sample

    def _launches(self, call: Callable[[], object]) -> Sample:
        """Between the events lies the GPU's work alone: a large buffer is written over while the host prepares the launches."""
        host_ms = median([self._host_ms(call) for _ in range(_HOST_SAMPLES)])
        flushes = min(1 + math.ceil(_HOST_SLACK * host_ms / self._flush_ms), _MOST_FLUSHES)
        return lambda count: [self._cold_ms(call, flushes) for _ in range(count)]

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
