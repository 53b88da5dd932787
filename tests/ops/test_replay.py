"""Calls that are made again: the same launches as Triton's own, on their own tensors, or the plain path."""

from __future__ import annotations

import ctypes
import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from triton import knobs
from triton.runtime.errors import OutOfResources

import latune
from latune.config import Config
from latune.ops import dispatch, kernels, memo
from latune.ops.replay import Replay
from latune.plan import KERNELS, Plan, Step

HEADS, SEQLEN, D, E = 3, 70, 64, 48


def plan(*names: str, loads: str = "pointer", algorithm: str = "sequential") -> Plan:
    def step(name: str) -> Step:
        fused = KERNELS[name].space == "dkdv"
        layout = "transposed" if loads == "specialized" else "plain"
        choices = {"state_layout": layout, "decay_mode": "matrix", "decayed": "value", "loads": loads}
        # Of six heads in two slices remainder walks four whole, and two in two segments.
        rows, columns = (64, 64) if loads == "specialized" else (32, 32)
        programs = 8 if algorithm == "remainder" else 24
        constexprs = {"BLOCK_N": rows, "BLOCK_D": 64, "BLOCK_E": columns, "PROGRAMS": programs}
        dropped = ({"BLOCK_D", "BLOCK_E"} if fused else set()) | ({"PROGRAMS"} if algorithm == "sequential" or fused else set())
        config = Config.of(
            "sequential" if fused else algorithm,
            choices=choices,
            constexprs={name: value for name, value in constexprs.items() if name not in dropped},
            num_warps=4,
            num_stages=2,
        )
        return Step(kernel=name, config=config)

    return Plan(tuple(map(step, names)))


SEVERAL = (plan("o", algorithm="split"), plan("dq", "dk", "dv", algorithm="split", loads="tma"))
PLANS = {
    "pointer": (plan("o"), plan("dq", "dkdv")),
    "tma": (plan("o", loads="tma"), plan("dq", "dk", "dv", loads="tma")),
    "specialized": (
        plan("o", loads="specialized", algorithm="split"),
        plan("dq", "dk", "dv", loads="specialized", algorithm="split"),
    ),
    "split": (plan("o", algorithm="split"), plan("dq", "dk", "dv", algorithm="split")),
    "chained": tuple(one.chained() for one in SEVERAL),
    "scan": (plan("o", algorithm="scan"), plan("dq", "dk", "dv", algorithm="scan")),
    "remainder": (plan("o", algorithm="remainder"), plan("dq", "dk", "dv", algorithm="remainder")),
}


@pytest.fixture
def only(monkeypatch):
    """Has two plans, a forward and a backward one, serve every problem."""

    def serve(forward, backward):
        def resolve(problem, gpu):
            candidates = iter([(forward if problem.direction == "fwd" else backward, "a plan")])
            return SimpleNamespace(step="exact", entry=None, candidates=candidates)

        monkeypatch.setattr(dispatch, "resolve", resolve)
        dispatch.forget_decisions()

    yield serve
    dispatch.forget_decisions()


@pytest.fixture(params=PLANS)
def served(request, fake, only, monkeypatch):
    """The fake GPU with a pair of plans."""
    monkeypatch.setattr(dispatch, "device_gpu", lambda index: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: None)
    only(*PLANS[request.param])
    return fake


def tensors(seqlen: int = SEQLEN, *, states: bool = False) -> list[torch.Tensor | None]:
    """q, k, v, slopes and a state, in a layout that every plan reads in place."""
    rows = [torch.randn(2, seqlen, HEADS, width, dtype=torch.bfloat16).transpose(1, 2) for width in (D, D, E)]
    return [*rows, torch.rand(HEADS, 1, 1), torch.randn(2, HEADS, D, E) if states else None]


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


@pytest.mark.parametrize("states", [False, True])
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


@pytest.mark.parametrize("states", [False, True])
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


def in_another_thread(call):
    """What ``call`` returns or raises in a thread of its own."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(call).result()


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


@pytest.mark.parametrize("states", [False, True])
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
