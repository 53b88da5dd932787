"""Counters of launches whose programs wait for one another: no two calls that may run at once have the same ones."""

from __future__ import annotations

from threading import get_ident
from types import ModuleType

import pytest
import torch
from replays import PLANS

from latune.codegen.load import load
from latune.codegen.render import render
from latune.problem import Problem

CPU = torch.device("cpu")
CAPTURED = 2048
"""Calls of 32 counters in captured graphs, before a graph has to fill its own."""


@pytest.fixture
def module(fake) -> ModuleType:  # type: ignore[no-untyped-def]
    problem = Problem(
        direction="fwd", decay="constant", dtype="bf16", batch=1, num_heads=3, seqlen=70, head_dim_k=64, head_dim_v=48
    )
    return load(render(problem, PLANS["cooperative"][0]))


@pytest.fixture
def capturing(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    return lambda does: monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: does)


def test_a_stream_keeps_its_counters(module, fake) -> None:  # type: ignore[no-untyped-def]
    one = module._counters(CPU, 6)
    assert one is module._counters(CPU, 6) and one.dtype == torch.int32 and len(one) >= 6 and not one.any()
    fake.stream = 8
    other = module._counters(CPU, 6)
    assert other.data_ptr() != one.data_ptr()
    assert len(module._counters(CPU, 40)) >= 40


def test_counters_for_good_are_allocated_by_no_thread_that_a_graph_may_have_the_memory_of(module, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    threads, zeros = [], torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *sizes, **options: threads.append(get_ident()) or zeros(*sizes, **options))
    with torch.inference_mode():
        given = module._counters(CPU, 6)
    assert len(threads) == 2 and get_ident() not in threads
    assert not given.is_inference()


def test_each_captured_call_has_counters_of_its_own_that_start_where_triton_asks_for_it(module, capturing) -> None:  # type: ignore[no-untyped-def]
    of_stream = module._counters(CPU, 6)
    capturing(True)
    captured = [module._counters(CPU, 6) for _ in range(CAPTURED)]
    addresses = {x.data_ptr() for x in (of_stream, *captured)}
    assert len(addresses) == 1 + CAPTURED and not any(address % 16 for address in addresses)
    # Memory that a graph uses outlives the call that has captured it.
    storage = captured[0].untyped_storage()
    assert all(x.untyped_storage().data_ptr() == storage.data_ptr() for x in captured)
    del captured
    assert storage.data_ptr() == next(iter(module._of_graphs.values()))[0].data_ptr()
    further = module._counters(CPU, 6)
    assert further.untyped_storage().data_ptr() != storage.data_ptr() and not further.any()
    capturing(False)
    assert module._counters(CPU, 6) is of_stream


def test_a_graph_that_is_captured_before_any_other_call_fills_its_own(module, capturing) -> None:  # type: ignore[no-untyped-def]
    capturing(True)
    one, other = module._counters(CPU, 6), module._counters(CPU, 6)
    assert one.data_ptr() != other.data_ptr() and not one.any()
    assert not module._of_graphs and not module._of_streams
