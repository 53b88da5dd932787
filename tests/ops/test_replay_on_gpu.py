"""Calls that are made again on a GPU: what a plain one gives, from any thread, captured, chained, and on the current stream."""

from __future__ import annotations

import ctypes

import pytest
import torch
from replays import PLANS, SEVERAL, in_another_thread, tensors

import latune
from latune.ops import dispatch, kernels, memo
from latune.ops.replay import Replay


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("states", [False, True])
@pytest.mark.parametrize(("seqlen", "d", "e"), [(1, 16, 16), (37, 16, 32), (130, 96, 64), (300, 40, 100), (1000, 128, 128)])
def test_a_replayed_call_gives_what_a_plain_one_does(dtype, states, seqlen, d, e):
    def call(seed):
        generator = torch.Generator("cuda").manual_seed(seed)
        shapes = [(2, seqlen, 3, d), (2, seqlen, 3, d), (2, seqlen, 3, e)]
        rows = [torch.randn(shape, generator=generator, device="cuda").to(dtype).transpose(1, 2) for shape in shapes]
        state = torch.randn(2, 3, d, e, generator=generator, device="cuda") if states else None
        leaves = [x.requires_grad_() for x in (*rows, state) if x is not None]
        slopes = torch.tensor([0.0, 0.4, 90.0], device="cuda")
        answer = latune.lightning_attn(*rows, slopes, scale=0.5, initial_state=state, return_final_state=states)
        outputs = answer if states else (answer,)
        return [*outputs, *torch.autograd.grad(outputs, leaves, [torch.ones_like(x).mul_(0.1) for x in outputs])]

    dispatch.forget_decisions()
    plain = [call(seed) for seed in (0, 1)]
    dispatch.forget_decisions()
    again = [call(seed) for seed in (0, 0, 0, 1)]
    for one, other in zip((plain[0], plain[0], plain[0], plain[1]), again, strict=True):
        assert [torch.equal(x, y) for x, y in zip(one, other, strict=True)] == [True] * len(one)


@pytest.mark.gpu
@pytest.mark.parametrize("form", ["plain", "replayed"])
@pytest.mark.parametrize("loads", ["tma", "specialized"])
def test_a_thread_without_a_context_can_launch_on_a_gpu(only, loads, form):
    if torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("without TMA there is nothing that needs a context before a launch")
    if loads == "specialized" and torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("kernels with warps of their own are for compute capability 9.0")
    only(*PLANS[loads])
    q, k, v, slopes, _ = (None if x is None else x.cuda() for x in tensors())
    calls = [
        lambda: kernels.forward(q, k, v, slopes, 0.5, None, False),
        lambda: kernels.backward(q, k, v, slopes, 0.5, v, None, None),
    ]
    for call in calls:
        wanted = [call() for _ in range(3)][-1]
        if form == "plain":
            memo.forget_calls()
        had_context, outputs = in_another_thread(lambda call=call: (has_context(), call()))
        assert not had_context and [torch.equal(x, y) for x, y in zip(outputs, wanted, strict=True)] == [True] * len(wanted)


@pytest.mark.gpu
def test_chained_launches_give_what_others_do(only):
    """Call after call without a pause, so that one that does not wait for the kernel ahead of it is found out."""
    if torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("there is no programmatic dependent launch")
    # Each call has inputs of its own: in the scratch that it is given lie the states of another one.
    given = [[x.cuda() for x in tensors()[:4]] for _ in range(10)]

    def calls():
        forward = [kernels.forward(*one, 0.5, None, False) for one in 5 * given]
        return forward + [kernels.backward(*one, 0.5, one[2], None, None) for one in 5 * given]

    only(*SEVERAL)
    plain = calls()
    only(*(one.chained() for one in SEVERAL))
    for one, other in zip(plain, calls(), strict=True):
        assert [torch.equal(x, y) for x, y in zip(one, other, strict=True)] == [True] * len(one)


def has_context():
    """Whether the driver knows of a CUDA context of this thread."""
    found = ctypes.c_void_p()
    assert ctypes.CDLL("libcuda.so.1").cuCtxGetCurrent(ctypes.byref(found)) == 0
    return found.value is not None


@pytest.mark.gpu
def test_a_replayed_call_is_captured_and_runs_on_the_current_stream():
    dispatch.forget_decisions()
    # PyTorch's own generator of the device may still be of a capture that failed before.
    generator = torch.Generator("cuda").manual_seed(0)
    q, k, v = (torch.randn(1, 4, 256, 64, device="cuda", dtype=torch.bfloat16, generator=generator) for _ in range(3))
    slopes = torch.rand(4, device="cuda", generator=generator)
    wanted = [latune.lightning_attn(q, k, v, slopes) for _ in range(3)][-1]
    assert any(isinstance(serve, Replay) for serve in memo.FORWARD.calls.values())
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = latune.lightning_attn(q, k, v, slopes)
    captured.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(captured, wanted)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(100_000_000)
        late = v.mul(2)
        doubled = latune.lightning_attn(q, k, late, slopes)
    side.synchronize()
    torch.testing.assert_close(doubled, 2 * wanted)


@pytest.mark.gpu
@pytest.mark.parametrize("plans", ["cooperative", "balanced", "relay"])
def test_programs_that_wait_for_one_another_do_so_in_several_streams_and_graphs(only, plans):
    """At once, call after call, plain and replayed: each has its own counters, and leaves them as it found them."""
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("kernels with warps of their own are for compute capability 9.0")
    given = [[x.cuda() for x in tensors(2000)[:4]] for _ in range(4)]

    def call(one):
        backward = kernels.backward(*one, 0.5, one[2], None, None)
        return [*kernels.forward(*one, 0.5, None, False), *backward]

    only(*PLANS[plans])
    wanted = [call(one) for one in given]
    streams = [torch.cuda.Stream() for _ in given]
    graphs, captured = [torch.cuda.CUDAGraph() for _ in given], []
    for graph, one in zip(graphs, given, strict=True):
        with torch.cuda.graph(graph):
            captured.append(call(one))
    found = []
    for _ in range(20):
        for stream, graph, one in zip(streams, graphs, given, strict=True):
            with torch.cuda.stream(stream):
                found.append(call(one))
                graph.replay()
    torch.cuda.synchronize()
    for number, outputs in enumerate([*found, *captured]):
        assert all(torch.equal(x, y) for x, y in zip(outputs, wanted[number % len(given)], strict=True))
