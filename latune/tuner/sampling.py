"""Samples of a call's time on the current GPU, taken with a cold L2 cache and the host's latency hidden."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch

from latune.tuner.timing import Sample, median

Call = Callable[[], object]

_L2_COVER = 3
_MOST_SETS = 512
_FLUSH_BYTES = 512 * 2**20
_COPY_BYTES = 2**30
_COPY_SAMPLES = 20


def input_sets(input_bytes: int, l2_bytes: int) -> int:
    """How many sets of inputs a call is rotated over, so that none is found in the L2 cache.

    Problems of less than L2 / 170 stay under the cover: their time is latency, not traffic.
    """
    return min(max(2, math.ceil(_L2_COVER * l2_bytes / input_bytes)), _MOST_SETS)


def gpu_sampler(calls: Sequence[Call], pool: tuple[int, int] | None = None) -> Sample:
    """A sampler of the calls, one for each set of inputs: replays of one CUDA graph, else single launches.

    Args:
        calls: launches on the current device, already compiled and run once.
        pool: memory pool of the graph; graphs that share one overwrite each other's outputs.
    """
    replays = graph_sampler(calls, pool)
    if replays is not None:
        return replays
    flush = torch.empty(_FLUSH_BYTES, dtype=torch.int8, device="cuda")
    return partial(_sample_launches, calls, flush)


def graph_sampler(
    calls: Sequence[Call], pool: tuple[int, int] | None = None, stream: torch.cuda.Stream | None = None
) -> Sample | None:
    """As ``gpu_sampler``, by replays alone: None where the calls cannot be captured.

    Args:
        stream: captured on it, as gradients have to be on that of their forward pass; None: on one of PyTorch's.
    """
    try:
        # A failed capture leaves its own stream current.
        with torch.cuda.stream(torch.cuda.current_stream()):
            return partial(_sample_replays, _capture(calls, pool, stream), calls)
    except RuntimeError:
        return None


def _capture(calls: Sequence[Call], pool: tuple[int, int] | None, stream: torch.cuda.Stream | None) -> torch.cuda.CUDAGraph:
    graph, outputs = torch.cuda.CUDAGraph(), []
    with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
        # Held until the capture ends: each call writes memory of its own, as cold as what it reads.
        outputs.extend(call() for call in calls)
    return graph


def _sample_replays(graph: torch.cuda.CUDAGraph, calls: Sequence[Call], samples: int) -> list[float]:
    """Replays of the graph of the calls, which are held with it: what they read lies where it was when they were captured."""
    events = [torch.cuda.Event(enable_timing=True) for _ in range(samples + 1)]
    # The first replay is not timed: the GPU is busy with it while the host enqueues the others.
    for event in events:
        graph.replay()
        event.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) / len(calls) for start, end in pairwise(events)]


def _sample_launches(calls: Sequence[Call], flush: torch.Tensor, samples: int) -> list[float]:
    pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(samples)]
    for index, (start, end) in enumerate(pairs):
        # Empties the L2 cache, and keeps the GPU busy while the host prepares the launch.
        flush.zero_()
        start.record()
        calls[index % len(calls)]()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in pairs]


def copy_gbps() -> float:
    """Measured bandwidth of a large copy on the current device, reads and writes counted, GB/s."""
    size = min(_COPY_BYTES, torch.cuda.mem_get_info()[0] // 4)
    source = torch.zeros(size, dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    copy = partial(target.copy_, source)
    times_ms = [_time_ms(copy) for _ in range(_COPY_SAMPLES)]
    return 2 * size / median(times_ms) * 1e-6


def _time_ms(call: Call) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    call()
    start.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)
