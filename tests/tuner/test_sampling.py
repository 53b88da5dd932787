"""How many sets of inputs are rotated; and, on a GPU, that samples are the time of one call."""

from __future__ import annotations

import contextlib
import gc
import weakref
from functools import partial

import pytest
import torch

from latune.tuner import sampling
from latune.tuner.sampling import copy_gbps, gpu_sampler, graph_sampler, input_sets
from latune.tuner.timing import median, roof_ms

MIB = 2**20


@pytest.mark.parametrize(
    ("input_bytes", "sets"), [(1000 * MIB, 2), (90 * MIB, 2), (60 * MIB, 3), (59 * MIB, 4), (MIB, 180), (1024, 512)]
)
def test_input_sets_cover_the_cache_three_times(input_bytes: int, sets: int) -> None:
    assert input_sets(input_bytes, l2_bytes=60 * MIB) == sets


@pytest.mark.gpu
@pytest.mark.parametrize("captured", [True, False])
def test_samples_are_the_time_of_one_call(captured: bool) -> None:
    source = torch.zeros(256 * MIB, dtype=torch.int8, device="cuda")
    # Reading a value cannot be captured: the sampler then launches one by one.
    calls = [source.clone if captured else lambda: source.clone()[0].item()] * 3
    expected_ms = roof_ms(2 * source.numel(), copy_gbps())
    for call in calls:
        call()
    times_ms = gpu_sampler(calls)(10)
    assert len(times_ms) == 10
    assert 0.7 * expected_ms < median(times_ms) < 2 * expected_ms


def test_what_captured_calls_read_lives_as_long_as_their_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: None)
    monkeypatch.setattr(sampling, "_capture", lambda *arguments: "graph")
    kept = torch.zeros(1)
    alive = weakref.ref(kept)
    sampler = graph_sampler([partial(torch.clone, kept)])
    del kept
    gc.collect()
    assert sampler is not None and alive() is not None
    del sampler
    gc.collect()
    assert alive() is None


@pytest.mark.gpu
def test_graphs_that_read_what_was_made_for_them_are_replayed_after_another_is_captured() -> None:
    def call() -> sampling.Call:
        return partial(torch.clone, torch.zeros(64 * MIB, dtype=torch.int8, device="cuda"))

    pool = torch.cuda.graph_pool_handle()
    samplers = [gpu_sampler([call(), call()], pool) for _ in range(3)]
    for sampler in samplers:
        assert len(sampler(2)) == 2
