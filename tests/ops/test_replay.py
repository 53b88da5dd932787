"""Calls that are made again: the same launches as Triton's own, on their own tensors, or the plain path."""

from __future__ import annotations

import gc
import threading
import weakref
from types import SimpleNamespace

import pytest
import torch
from replays import HEADS, PLANS, SEQLEN, STATEFUL, D, E, in_another_thread, tensors
from triton import knobs
from triton.runtime.errors import OutOfResources

import latune
from latune.ops import dispatch, kernels, memo
from latune.ops.replay import Replay

WITH_STATES_OR_NOT = pytest.mark.parametrize(
    ("served", "states"), [*((name, False) for name in PLANS), *((name, True) for name in STATEFUL)], indirect=["served"]
)


@pytest.fixture(params=PLANS)
def served(request, fake, only, monkeypatch):
    """The fake GPU with a pair of plans."""
    monkeypatch.setattr(dispatch, "device_gpu", lambda index: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: None)
    only(*PLANS[request.param])
    return fake


def forward(given: list[torch.Tensor | None], *, scale: float = 0.5, final: bool = False) -> tuple[torch.Tensor, ...]:
    return kernels.forward(*given[:4], scale, given[4], final)


def backward(given: list[torch.Tensor | None], *, scale: float = 0.5) -> tuple[torch.Tensor, ...]:
    do = torch.randn(2, SEQLEN, HEADS, E, dtype=torch.bfloat16).transpose(1, 2)
    given = [*given, do]
    return given, kernels.backward(*given[:4], scale, do, given[4], None if given[4] is None else torch.zeros_like(given[4]))


def made(launches, inputs, outputs):
    """Launches that have programs, with inputs and outputs by name, and other memory by its first use."""
    names = {x.data_ptr(): f"input {number}" for number, x in enumerate(inputs) if x is not None}
    names |= {x.data_ptr(): f"output {number}" for number, x in enumerate(outputs)}

    def name(value):
        if isinstance(value, tuple):
            return (name(value[0]), *value[1:])
        if isinstance(value, int) and value > 2**20:
            return names.setdefault(value, f"scratch {len(names)}")
        return value

    return [((*grid, 1, 1)[:3], [name(x) for x in arguments]) for grid, arguments in launches if 0 not in grid]


def layouts(outputs):
    return [(x.shape, x.stride(), x.dtype) for x in outputs]


@WITH_STATES_OR_NOT
def test_a_forward_call_is_replayed_with_the_launches_that_triton_makes(served, states):
    plain_inputs, inputs = tensors(states=states), tensors(states=states)
    plain = forward(plain_inputs, final=states)
    wanted = made(served.jit, plain_inputs, plain)
    forward(tensors(states=states), final=states)
    served.jit.clear()
    replayed = forward(inputs, final=states)
    assert served.jit == [] and wanted
    assert made(served.direct, inputs, replayed) == wanted
    assert layouts(replayed) == layouts(plain) and len(replayed) == 1 + states
    assert set(served.streams) == {7}


@WITH_STATES_OR_NOT
def test_a_backward_call_is_replayed_too(served, states):
    plain_inputs, plain = backward(tensors(states=states))
    served.jit, first = [], served.jit
    backward(tensors(states=states))
    served.jit.clear()
    inputs, replayed = backward(tensors(states=states))
    assert served.jit == []
    own = {x.data_ptr() for x in inputs if x is not None}
    assert len(made(served.direct, inputs, replayed)) == len(made(first, plain_inputs, plain))
    read = {x[0] if isinstance(x, tuple) else x for _, arguments in served.direct for x in arguments}
    assert own <= read
    assert layouts(replayed) == layouts(plain) and len(replayed) == 3 + states


def test_each_call_has_outputs_and_a_scale_of_its_own(served):
    given = tensors()
    first, second = [forward(given) for _ in range(4)][2:]
    assert first[0].data_ptr() != second[0].data_ptr()
    served.direct.clear()
    forward(given, scale=-3.0)
    assert -3.0 in served.direct[-1][1] and 0.5 not in served.direct[-1][1]


def test_one_tensor_in_two_roles_is_not_taken_for_both_ever_after(served):
    q, _, v, slopes, _ = tensors()
    for _ in range(2):
        forward([q, q, v, slopes, None])
    given = tensors()
    forward(given)
    read = {x[0] if isinstance(x, tuple) else x for x in served.direct[-1][1]}
    assert {x.data_ptr() for x in given[:4]} <= read


@pytest.mark.parametrize("served", ["pointer"], indirect=True)
@pytest.mark.parametrize("reason", ["another device", "a hook", "a hook in the chain's place", "a misaligned input"])
def test_what_a_replay_cannot_serve_takes_the_plain_path(served, monkeypatch, reason):
    for _ in range(2):
        forward(tensors())
    assert isinstance(next(iter(memo.FORWARD.calls.values())), Replay)
    served.jit.clear()
    given = tensors()
    if reason == "another device":
        served.device = 1
    elif reason == "a hook":
        monkeypatch.setattr(knobs.runtime.launch_enter_hook, "calls", [print])
    elif reason == "a hook in the chain's place":
        monkeypatch.setattr(knobs.runtime, "launch_exit_hook", print)
    else:
        given[0] = torch.randn(2 * SEQLEN * HEADS * D + 1, dtype=torch.bfloat16)[1:].view(2, SEQLEN, HEADS, D).transpose(1, 2)
    forward(given)
    assert served.direct == [] and len(served.jit) == 1


@pytest.mark.parametrize("served", STATEFUL, indirect=True)
@pytest.mark.parametrize("what", ["an input", "the slopes", "the state"])
def test_a_call_that_copies_something_is_never_replayed(served, what):
    def given():
        q, k, v, slopes, state = tensors(states=True)
        if what == "an input":
            q = q.mT.contiguous().mT
        elif what == "the slopes":
            slopes = torch.rand(HEADS, 2)[:, 0]
        else:
            state = state.mT.contiguous().mT
        return [q, k, v, slopes, state]

    outputs = [forward(given()) for _ in range(4)]
    assert served.direct == [] and len({x[0].data_ptr() for x in outputs}) == 4


def test_a_call_is_recorded_when_it_comes_back_and_not_before(served):
    for seqlen in (66, 67, 68):
        forward(tensors(seqlen))
    assert set(memo.FORWARD.calls.values()) == {memo.not_yet}


def test_the_memo_is_bounded_and_drops_the_oldest(served, monkeypatch):
    monkeypatch.setattr(memo, "MOST_CALLS", 2)
    for seqlen in (66, 67, 68, 66, 67, 68):
        forward(tensors(seqlen))
    assert len(memo.FORWARD.calls) == 2


def test_what_was_recorded_goes_with_the_decisions(served):
    for _ in range(3):
        forward(tensors())
    served.jit.clear()
    dispatch.forget_decisions()
    forward(tensors())
    assert len(served.jit) >= 1 and set(memo.FORWARD.calls.values()) == {memo.not_yet}


def test_a_recording_that_was_under_way_when_all_was_forgotten_is_lost():
    calls = memo.FORWARD.calls
    memo.FORWARD.forget()
    memo.FORWARD.put(calls, ("a call",), memo.not_yet)
    assert memo.FORWARD.calls == {}


def test_nothing_holds_the_tensors_of_a_recorded_call(served):
    given = tensors()
    forward(given)
    outputs = forward(given)
    held = [weakref.ref(x.untyped_storage()) for x in (*given[:3], *outputs)]
    served.jit.clear()
    del given, outputs
    gc.collect()
    assert [reference() for reference in held] == [None] * len(held)


def test_threads_share_what_was_recorded_and_no_memory(served, request):
    given = [tensors(seqlen) for seqlen in (66, 70, 74, 78)]
    outputs, barrier = [], threading.Barrier(8)

    def work(number):
        barrier.wait()
        for turn in range(20):
            outputs.append(forward(given[(number + turn) % 4]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len({x[0].data_ptr() for x in outputs}) == 160
    assert all(isinstance(serve, Replay) for serve in memo.FORWARD.calls.values()) and len(memo.FORWARD.calls) == 4
    lengths = {x.data_ptr(): x.shape[2] for tensors_of_one in given for x in tensors_of_one[:3]}
    seqlens = []
    for _, arguments in served.direct:
        addresses = {x[0] if isinstance(x, tuple) else x for x in arguments}
        seqlens.append({lengths[address] for address in addresses & lengths.keys()})
        assert len(seqlens[-1]) <= 1 and all(seqlen in arguments for seqlen in seqlens[-1])
    # Of a scan's three launches one has none of the inputs.
    without = len(served.direct) // 3 if request.node.callspec.params["served"] == "scan" else 0
    assert seqlens.count(set()) == without


@pytest.mark.parametrize("served", ["tma"], indirect=True)
@pytest.mark.parametrize("calls_before", [0, 1, 2], ids=["plain", "recorded", "replayed"])
def test_a_thread_without_a_context_can_launch(served, calls_before):
    given = tensors()
    for _ in range(calls_before):
        forward(given)
    outputs = in_another_thread(lambda: forward(given))
    assert len(outputs) == 1 and len(served.jit) == min(calls_before + 1, 2)


@pytest.mark.parametrize("served", ["tma"], indirect=True)
def test_a_descriptor_is_encoded_once_for_an_address(served):
    given, other = tensors(), tensors()
    outputs = [forward(given) for _ in range(4)]
    inputs = {x.data_ptr() for x in given[:3]}
    assert sorted(served.encoded) == sorted([*inputs, *(x[0].data_ptr() for x in outputs[2:])])
    forward(other)
    assert {x.data_ptr() for x in other[:3]} <= set(served.encoded)


def test_a_plan_that_fails_is_not_recorded_and_the_next_one_is(served, monkeypatch):
    failing, working = PLANS["split"][0], PLANS["pointer"][0]
    resolution = SimpleNamespace(step="exact", entry=None, candidates=iter([(failing, "first"), (working, "second")]))
    monkeypatch.setattr(dispatch, "resolve", lambda problem, gpu: resolution)
    run = served.run

    def fails(kernel, *args, **kwargs):
        if "segment_states" in kernel.arg_names:
            raise OutOfResources(300_000, 232_448, "shared memory")
        return run(kernel, *args, **kwargs)

    monkeypatch.setattr(served, "run", fails)
    with pytest.warns(UserWarning, match="falls back to second"):
        forward(tensors())
    for _ in range(2):
        forward(tensors())
    assert len(served.direct) == 1


@pytest.fixture
def on_cuda(monkeypatch):
    """The operator takes CPU tensors for a GPU's."""
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda tensor: True), raising=False)


@WITH_STATES_OR_NOT
def test_the_operator_replays_both_directions(served, on_cuda, states):
    for turn in range(3):
        q, k, v, slopes, state = tensors(states=states)
        leaves = [x.requires_grad_() for x in (q, k, v, *([state] if states else []))]
        served.jit.clear()
        answer = latune.lightning_attn(q, k, v, slopes, initial_state=state, return_final_state=states)
        outputs = answer if states else (answer,)
        gradients = torch.autograd.grad(outputs, leaves, [torch.randn_like(x) for x in outputs])
        assert layouts(outputs)[0] == layouts([v])[0] and len(outputs) == 1 + states
        assert layouts(gradients) == layouts(leaves)
        assert (served.jit == []) == (turn == 2)


def test_a_gradient_cannot_be_differentiated_again(served, on_cuda):
    q, k, v, slopes, _ = tensors()
    o = latune.lightning_attn(q.requires_grad_(), k, v, slopes)
    (dq,) = torch.autograd.grad(o, q, torch.ones_like(o, requires_grad=True), create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        dq.sum().backward()


def test_what_the_signature_does_not_tell_is_checked_in_every_call(served, on_cuda):
    q, k, v, slopes, _ = tensors()
    for _ in range(3):
        latune.lightning_attn(q, k, v, slopes)
    for arguments, options, words in (
        ((q, k, v, slopes), {"scale": 0.0}, "scale:"),
        ((q, k, v, slopes.clone().requires_grad_()), {}, "detach"),
        ((q, k, v, slopes), {"cu_seqlens": slopes}, "cu_seqlens:"),
        ((q, k, v[:1], slopes), {}, "v:"),
        ((q, k, v.float(), slopes), {}, "v:"),
        ((q, k, v, slopes.double()), {}, "slopes:"),
    ):
        with pytest.raises(ValueError, match=words):
            latune.lightning_attn(*arguments, **options)


def test_a_subclass_of_tensor_is_another_signature(served, on_cuda):
    class Own(torch.Tensor):
        pass

    q, k, v, slopes, _ = tensors()
    for _ in range(2):
        latune.lightning_attn(q, k, v, slopes)
    assert memo.signature((q.as_subclass(Own), k)) != memo.signature((q, k))
