"""What passes hand over, states of segments or checkpoints, and what they then launch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from triton.runtime.errors import OutOfResources
from triton.runtime.jit import JITFunction

from latune.codegen.kept import keeping, resuming
from latune.config import Config
from latune.ops import attention, dispatch, handover, kernels, memo, opaque, reference, traced
from latune.ops.replay import Replay
from latune.plan import KERNELS, Plan, Step
from latune.problem import Problem

HEADS, SEQLEN, D, E = 3, 300, 64, 48
PROBLEM = Problem(
    direction="fwd", decay="constant", dtype="bf16", batch=2, num_heads=HEADS, seqlen=SEQLEN, head_dim_k=D, head_dim_v=E
)


def step(name: str, *, algorithm: str = "split", layout: str = "plain", block_n: int = 32, programs: int = 24) -> Step:
    choices = {"state_layout": layout, "decay_mode": "matrix", "decayed": "value", "loads": "pointer"}
    constexprs = {"BLOCK_N": block_n, **({"PROGRAMS": programs} if algorithm != "sequential" else {})}
    if KERNELS[name].space == "stream":
        constexprs |= {"BLOCK_D": 64, "BLOCK_E": 64}
    return Step(kernel=name, config=Config.of(algorithm, choices=choices, constexprs=constexprs))


def backward_plan(dq: Step) -> Plan:
    return Plan((dq, step("dkdv", algorithm="sequential")))


WHOLE = Plan((step("o", algorithm="sequential"),))
WALK = Plan((step("dqdkdv", algorithm="sequential"),))
AHEAD = Plan((step("o", layout="transposed"),))
BEHIND = backward_plan(step("dq"))


@pytest.mark.parametrize("chained", [False, True])
@pytest.mark.parametrize("behind", [BEHIND, WALK], ids=["two launches", "walk"])
def test_variants_are_chained_as_their_plans_are(behind: Plan, chained: bool) -> None:
    ahead, behind = (plan.chained() if chained else plan for plan in (AHEAD, behind))
    kept = keeping(ahead, behind, PROBLEM)
    assert kept is not None
    given = resuming(behind, kept, PROBLEM)
    assert given is not None and kept.is_chained == given.is_chained == chained


def test_a_forward_plan_keeps_checkpoints_for_a_backward_plan_that_reads_them() -> None:
    for ahead in (WHOLE, AHEAD):
        kept = keeping(ahead, WALK, PROBLEM)
        assert kept is not None
        config = ahead.steps[0].config
        assert kept.steps[0].config == config.with_choices(checkpoints="kept").with_constexprs(CHECKPOINT_ROWS=64)
        plan = resuming(WALK, kept, PROBLEM)
        assert plan is not None
        layout = dict(config.choices)["state_layout"]
        given = {"checkpoints": "given", "given_layout": layout}
        assert plan.steps[0].config == WALK.steps[0].config.with_choices(**given)


def test_checkpoints_of_other_rows_and_states_of_segments_are_of_no_use() -> None:
    longer = Plan((step("dqdkdv", algorithm="sequential", block_n=64),))
    assert keeping(Plan((step("o", algorithm="sequential", block_n=128),)), WALK, PROBLEM) is None
    of_checkpoints, of_segments = keeping(AHEAD, WALK, PROBLEM), keeping(AHEAD, BEHIND, PROBLEM)
    assert of_checkpoints is not None and of_segments is not None
    assert resuming(longer, of_checkpoints, PROBLEM) is None
    assert resuming(WALK, of_segments, PROBLEM) is None
    assert resuming(BEHIND, of_checkpoints, PROBLEM) is None


@pytest.fixture
def serve(fake, monkeypatch) -> Iterator[object]:
    """The fake GPU; called with forward and backward plans, the first of each serves until it fails."""
    monkeypatch.setattr(dispatch, "device_gpu", lambda index: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: None)

    def serving(ahead: tuple[Plan, ...], behind: tuple[Plan, ...]):
        def resolve(problem, gpu):
            plans = ahead if problem.direction == "fwd" else behind
            return SimpleNamespace(step="exact", entry=None, candidates=iter([(plan, "a plan") for plan in plans]))

        monkeypatch.setattr(dispatch, "resolve", resolve)
        dispatch.forget_decisions()
        return fake

    yield serving
    dispatch.forget_decisions()
    opaque._failed.clear()


def tensors() -> list[torch.Tensor]:
    """q, k, v, slopes."""
    rows = [torch.randn(2, HEADS, SEQLEN, width, dtype=torch.bfloat16) for width in (D, D, E)]
    return [*rows, torch.rand(HEADS)]


def forward(given: list[torch.Tensor]) -> kernels.Kept | None:
    outputs, kept = kernels.forward_keeping(*given, 0.5, None, False)
    assert [x.shape for x in outputs] == [(2, HEADS, SEQLEN, E)]
    return kept


def backward(given: list[torch.Tensor], kept: kernels.Kept | None) -> None:
    do = torch.randn(2, HEADS, SEQLEN, E, dtype=torch.bfloat16)
    outputs = kernels.backward(*given, 0.5, do, None, None, kept)
    assert [x.shape for x in outputs] == [x.shape for x in given[:3]]


def test_states_go_from_one_pass_to_the_other(serve) -> None:
    gpu, kept = serve((AHEAD,), (BEHIND,)), []
    for _ in range(3):
        given = tensors()
        kept.append(forward(given))
        gpu.jit.clear()
        gpu.direct.clear()
        backward(given, kept[-1])
        launches = gpu.jit or gpu.direct
        assert len(launches) == 2, "dq, dk and dv; no states"
        assert kept[-1].states.data_ptr() in {x for _, arguments in launches for x in arguments}
    assert gpu.jit == [] and gpu.direct
    # 24 programs are four segments of each of six heads.
    assert kept[0].states.shape == kept[-1].states.shape == (6, 4, D * E)
    assert kept[0].maker is kept[-1].maker
    assert isinstance(next(iter(memo.KEEPING.calls.values())), Replay)


@pytest.mark.parametrize(("programs", "fit"), [(12, True), (24, False)])
def test_states_of_dk_and_dv_lie_where_dq_will_be_if_they_fit(serve, programs: int, fit: bool) -> None:
    """Those of two segments do, of four not."""
    gpu = serve((AHEAD,), (Plan((step("dq"), step("dkdv", programs=programs))),))
    do = torch.randn(2, HEADS, SEQLEN, E, dtype=torch.bfloat16)
    for _ in range(3):
        given = tensors()
        kept = forward(given)
        gpu.jit.clear()
        gpu.direct.clear()
        dq, *_ = kernels.backward(*given, 0.5, do, None, None, kept)
        assert [dq.data_ptr() in arguments for _, arguments in gpu.jit or gpu.direct] == [fit, fit, True]
    assert gpu.jit == [], "replayed"


def test_checkpoints_go_from_one_pass_to_the_other(serve) -> None:
    gpu, kept = serve((WHOLE,), (WALK, BEHIND)), []
    for _ in range(3):
        given = tensors()
        kept.append(forward(given))
        gpu.jit.clear()
        gpu.direct.clear()
        backward(given, kept[-1])
        ((_, arguments),) = gpu.jit or gpu.direct
        assert kept[-1].states.data_ptr() in arguments
    assert gpu.jit == [] and gpu.direct
    assert kept[0].states.shape == (6, 5, D * E) and kept[0].states.dtype == torch.bfloat16


@pytest.mark.parametrize("ahead", [WHOLE, Plan((step("o", algorithm="sequential", block_n=128),))], ids=str)
def test_without_checkpoints_a_plan_that_reads_none_runs(serve, ahead: Plan) -> None:
    """Where the chunks of both passes do not meet, or backward is called by itself."""
    gpu = serve((ahead,), (WALK, BEHIND))
    for _ in range(3):
        given = tensors()
        kept = forward(given)
        assert (kept is None) == (ahead != WHOLE)
        gpu.jit.clear()
        gpu.direct.clear()
        backward(given, None)
        assert len(gpu.jit or gpu.direct) == 3, "states, dq, dk and dv"
    assert gpu.jit == []


def test_what_was_kept_is_used_by_a_call_of_other_flags(serve, monkeypatch) -> None:
    """A final state whose gradient is not there makes of backward another bucket, with a plan of its own."""
    gpu = serve((WHOLE,), (WALK,))
    of_all = dispatch.resolve

    def resolve(problem, gpu):
        if problem.direction == "bwd" and not problem.needs_final_state:
            return SimpleNamespace(step="exact", entry=None, candidates=iter([(BEHIND, "another plan")]))
        return of_all(problem, gpu)

    monkeypatch.setattr(dispatch, "resolve", resolve)
    dispatch.forget_decisions()
    do = torch.randn(2, HEADS, SEQLEN, E, dtype=torch.bfloat16)
    for _ in range(3):
        given = tensors()
        (_, _), kept = kernels.forward_keeping(*given, 0.5, None, True)
        gpu.jit.clear()
        gpu.direct.clear()
        kernels.backward(*given, 0.5, do, None, None, kept)
        assert len(gpu.jit or gpu.direct) == 1, "one walk"
    assert gpu.jit == [] and memo.KEEPING.calls


def refuse(monkeypatch, choice: str) -> None:
    """No module with that choice launches from now on, but by replays."""
    launch = JITFunction.run

    def run(jit, *arguments, **options):
        if f" {choice} " in Path(jit.fn.__code__.co_filename).read_text():
            raise OutOfResources(300_000, 232_448, "shared memory")
        return launch(jit, *arguments, **options)

    monkeypatch.setattr(JITFunction, "run", run)


@pytest.mark.parametrize(
    ("refused", "ahead", "behind"),
    [
        ("segment_states=kept", AHEAD, (BEHIND,)),
        ("segment_states=given", AHEAD, (BEHIND,)),
        ("checkpoints=kept", WHOLE, (WALK, BEHIND)),
        ("checkpoints=given", WHOLE, (WALK, BEHIND)),
    ],
)
def test_plans_that_hand_over_and_do_not_launch_give_way_to_those_that_do_not(
    serve, monkeypatch, refused: str, ahead: Plan, behind: tuple[Plan, ...]
) -> None:
    gpu = serve((ahead,), behind)
    refuse(monkeypatch, refused)
    for turn in range(5):
        given = tensors()
        kept = forward(given)
        gpu.jit.clear()
        gpu.direct.clear()
        backward(given, kept)
        assert (kept is None) == (refused.endswith("kept") or turn > 0)
        assert len(gpu.jit or gpu.direct) == 3, "states, dq, dk and dv"
    assert gpu.jit == []


def test_an_error_that_is_no_refusal_is_the_callers(serve, monkeypatch) -> None:
    serve((AHEAD,), (BEHIND,))

    def fail(jit, *arguments, **options):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(JITFunction, "run", fail)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        forward(tensors())


@pytest.mark.parametrize("behind", [step("dq", programs=12), step("dq", algorithm="sequential")], ids=str)
def test_where_passes_are_cut_differently_nothing_is_kept(serve, behind: Step) -> None:
    gpu = serve((AHEAD,), (backward_plan(behind),))
    for _ in range(4):
        given = tensors()
        assert forward(given) is None
        gpu.jit.clear()
        backward(given, None)
    assert set(memo.KEEPING.calls.values()) == {memo.keeps_nothing}
    assert gpu.jit == [], "replayed"
    assert all(plan is None for _, _, plan, _ in dispatch._decisions), "no variant is loaded in vain"


def test_states_for_a_plan_that_has_given_way_since_are_left_alone(serve) -> None:
    gpu = serve((AHEAD,), (BEHIND,))
    given = tensors()
    kept = forward(given)
    assert kept is not None
    decision = dispatch.decide(replace(PROBLEM, direction="bwd"), None)
    decision._candidates = iter([(backward_plan(step("dq", algorithm="sequential")), "the next")])
    with pytest.warns(UserWarning, match="falls back to the next"):
        decision._fall_back(decision._function, OutOfResources(300_000, 232_448, "shared memory"))
    gpu.jit.clear()
    backward(given, kept)
    assert len(gpu.jit) == 2 and kept.states.data_ptr() not in {x for _, arguments in gpu.jit for x in arguments}


def test_states_of_before_a_new_tuning_are_left_alone(serve) -> None:
    """They might have been made again since by another plan, as checkpointing does."""
    serve((AHEAD,), (BEHIND,))
    given = tensors()
    kept = forward(given)
    assert kept is not None
    for ahead in (AHEAD, Plan((step("o", layout="plain"),))):
        gpu = serve((ahead,), (BEHIND,))
        gpu.jit.clear()
        backward(given, kept)
        assert len(gpu.jit) == 3, "states, dq, dk and dv"
        assert kept.states.data_ptr() not in {x for _, arguments in gpu.jit for x in arguments}


def test_a_call_that_keeps_states_is_known_from_then_on(serve) -> None:
    serve((AHEAD,), (BEHIND,))
    given = tensors()
    assert kernels.known_forward(*given, None, False) is None
    forward(given)
    known = kernels.known_forward(*given, None, False)
    assert known is not None and known.serve(0.5, *given, None) is None, "without states it is not what was recorded"
    outputs, kept = kernels.forward_keeping(*given, 0.5, None, False, known)
    assert len(outputs) == 1 and kept is not None and set(memo.KEEPING.calls) == {known.key}


HANDED_OVER = pytest.mark.parametrize(
    ("ahead", "behind"),
    [
        (AHEAD, BEHIND),
        # Ten chunks make no seven segments, but five of two chunks.
        (Plan((step("o", programs=42),)), backward_plan(step("dq", programs=42))),
        (WHOLE, WALK),
        (WHOLE, Plan((step("dqdkdv", algorithm="sequential", block_n=64),))),
    ],
    ids=["segments", "fewer segments than asked for", "checkpoints", "checkpoints for longer chunks"],
)


def in_a_graph(**options: bool) -> Callable[[list[torch.Tensor]], torch.Tensor]:
    """A forward pass in a graph of its own, of q, k, v and slopes."""
    torch.compiler.reset()

    def attend(q, k, v, slopes):
        return attention._padded(q, k, v, slopes, 0.5, None, False)[0]

    return torch.compile(attend, backend="aot_eager", fullgraph=True, **options)


def launches_of_a_step(gpu, attend, given: list[torch.Tensor]) -> tuple[int, int]:
    """Of the forward and of the backward pass."""

    def launched() -> int:
        count = len(gpu.jit or gpu.direct)
        gpu.jit.clear()
        gpu.direct.clear()
        return count

    launched()
    for x in given[:3]:
        x.requires_grad_()
    o = attend(*given)
    forward = launched()
    o.backward(torch.ones_like(o))
    return forward, launched()


@HANDED_OVER
@pytest.mark.parametrize("decays", [True, False])
def test_a_traced_forward_pass_hands_over_too(serve, ahead: Plan, behind: Plan, decays: bool) -> None:
    gpu, attend = serve((ahead,), (behind, BEHIND)), in_a_graph(dynamic=False)

    def launches(attend) -> tuple[int, int]:
        q, k, v, slopes = tensors()
        return launches_of_a_step(gpu, attend, [q, k, v, slopes if decays else None])

    eagerly = launches(lambda *given: attention._padded(*given, 0.5, None, False)[0])
    for _ in range(3):
        assert launches(attend) == eagerly == ((1, 1) if len(behind.steps) == 1 else (2, 2))
    assert gpu.jit == [], "replayed"


@HANDED_OVER
@pytest.mark.parametrize("copied", [False, True])
def test_what_is_kept_has_its_place_in_a_graph(serve, ahead: Plan, behind: Plan, copied: bool) -> None:
    """Outputs too, also of kernels that had to copy v."""
    serve((ahead,), (behind,))
    place = traced.place_of(torch.bfloat16, None, (2, HEADS, SEQLEN, D, E), True, False, False)
    q, k, v, slopes = tensors()
    v = v.mT.contiguous().mT if copied else v
    given = (q, k, v, slopes, 0.5, None, False, *place)
    torch.library.opcheck(opaque._forward_keeping, given, test_utils=("test_schema", "test_faketensor"))
    assert opaque._makers[place.maker] is handover.keeper(PROBLEM, None)


def test_a_graph_for_any_batch_hands_nothing_over(serve) -> None:
    gpu, attend = serve((AHEAD,), (BEHIND,)), in_a_graph()
    for batch in (2, 3):
        q, k, v, slopes = tensors()
        given = [x.repeat(2, 1, 1, 1)[:batch] for x in (q, k, v)]
        for x in given:
            torch._dynamo.mark_dynamic(x, 0)
        assert launches_of_a_step(gpu, attend, [*given, slopes]) == (2, 3)


def test_a_graph_for_any_length_hands_nothing_over(serve) -> None:
    gpu, attend = serve((AHEAD,), (BEHIND,)), in_a_graph(dynamic=True)
    for seqlen in (SEQLEN, SEQLEN + 32):
        given = [x.repeat(1, 1, 2, 1)[:, :, :seqlen].contiguous() for x in tensors()[:3]]
        assert launches_of_a_step(gpu, attend, [*given, torch.rand(HEADS)]) == (2, 3)


def test_a_graph_outlives_the_plans_that_it_was_traced_with(serve) -> None:
    attend, given = in_a_graph(dynamic=False), tensors()
    assert launches_of_a_step(serve((AHEAD,), (BEHIND,)), attend, given) == (2, 2)
    for ahead in (Plan((step("o", layout="plain"),)), WHOLE):
        gpu = serve((ahead,), (BEHIND,))
        launches = launches_of_a_step(gpu, attend, given)
        assert launches == (1 if ahead is WHOLE else 2, 3), "states, dq, dk and dv"
    assert launches_of_a_step(serve((AHEAD,), (BEHIND,)), attend, given) == (2, 3), "nor again, when they come back"


def test_what_was_not_made_is_not_read_once_the_plan_has_come_back(serve) -> None:
    """Two forward passes are under way, and the second one's states were made."""
    serve((AHEAD,), (BEHIND,))
    place, do = (
        traced.place_of(torch.bfloat16, None, (2, HEADS, SEQLEN, D, E), True, False, False),
        torch.ones(2, HEADS, SEQLEN, E),
    )
    serve((WHOLE,), (BEHIND,))
    one, other = tensors(), tensors()
    *_, not_made = opaque._forward_keeping(*one, 0.5, None, False, *place)
    gpu = serve((AHEAD,), (BEHIND,))
    opaque._forward_keeping(*other, 0.5, None, False, *place)
    assert not_made.isnan().all() and place.maker in opaque._makers
    gpu.jit.clear()
    opaque._backward(*one, 0.5, do.bfloat16(), None, None, not_made, place.maker)
    assert len(gpu.jit) == 3, "states, dq, dk and dv"


def test_a_graph_does_without_what_launches_no_more(serve, monkeypatch) -> None:
    """Its maker is current still, and what stands in the place of its states must not be read."""
    gpu, attend, sizes = serve((AHEAD,), (BEHIND,)), in_a_graph(dynamic=False), (2, HEADS, SEQLEN, D, E)
    assert launches_of_a_step(gpu, attend, tensors()) == (2, 2)
    refuse(monkeypatch, "segment_states=kept")
    assert launches_of_a_step(gpu, attend, tensors()) == (2, 3), "states, dq, dk and dv"
    assert traced.place_of(torch.bfloat16, None, sizes, True, False, False) is None, "nor has it a place in another graph"


def test_a_maker_has_a_name_of_its_own_for_each_bucket_on_each_device(serve) -> None:
    serve((AHEAD,), (BEHIND,))
    makers = [handover.keeper(problem, None) for problem in (PROBLEM, replace(PROBLEM, decay="none"))]
    assert len({handover.name_of(maker, device) for maker in makers for device in (0, 1)}) == 4


def test_a_backward_pass_that_alone_is_compiled_starts_from_its_inputs(serve) -> None:
    gpu, given = serve((AHEAD,), (BEHIND,)), tensors()
    o = attention._padded(given[0].requires_grad_(), *given[1:], 0.5, None, False)[0]
    gpu.jit.clear()
    with torch._dynamo.config.patch(compiled_autograd=True):
        torch.compile(lambda loss: loss.backward(), backend="aot_eager")(o.sum())
    assert len(gpu.jit) == 3, "states, dq, dk and dv"


def test_what_takes_the_place_of_states_in_a_graph_cannot_be_mistaken_for_them(serve) -> None:
    serve((AHEAD,), (BEHIND,))
    place = traced.place_of(torch.bfloat16, None, (2, HEADS, SEQLEN, D, E), True, False, False)
    serve((WHOLE,), (BEHIND,))
    *_, states = opaque._forward_keeping(*tensors(), 0.5, None, False, *place)
    assert states.shape == place.shape and states.dtype == place.dtype and states.isnan().all()


def gradients_agree(attend, turn: int, states: bool) -> None:
    """On inputs of their own, so that states of another turn would be wrong."""
    torch.manual_seed(turn)
    slopes = torch.tensor([0.0, 0.02, 20.0])
    given = [torch.randn(2, HEADS, SEQLEN, width).bfloat16() * width**-0.5 for width in (D, D, E)]
    given += [torch.randn(2, HEADS, D, E)] if states else []
    leaves = [x.cuda().requires_grad_() for x in given]
    exact = [x.double().requires_grad_() for x in given]
    o, *final = attend(*leaves[:3], slopes.cuda(), 0.5, leaves[3] if states else None, states)
    wanted, wanted_final = reference.recurrence(
        *exact[:3], slopes.double(), scale=0.5, initial_state=exact[3] if states else None
    )
    (o.float().sin().sum() + sum(x.cos().sum() for x in final)).backward()
    (wanted.sin().sum() + (wanted_final.cos().sum() if states else 0)).backward()
    for got, right in zip((o, *(x.grad for x in leaves)), (wanted, *(x.grad for x in exact)), strict=True):
        assert (got.double().cpu() - right).norm() < 6e-3 * right.norm()


@pytest.fixture
def serve_on_gpu(monkeypatch) -> Iterator[object]:
    def serving(ahead: Plan, behind: Plan) -> None:
        plans = {"fwd": ahead, "bwd": behind}

        def resolve(problem, gpu):
            return SimpleNamespace(step="exact", entry=None, candidates=iter([(plans[problem.direction], "a plan")]))

        monkeypatch.setattr(dispatch, "resolve", resolve)
        dispatch.forget_decisions()

    yield serving
    dispatch.forget_decisions()


@pytest.mark.gpu
@pytest.mark.parametrize("states", [False, True])
@pytest.mark.parametrize(
    ("ahead", "behind"),
    [
        ("split", BEHIND),
        ("scan", BEHIND),
        ("scan", backward_plan(step("dq", algorithm="scan"))),
        ("sequential", WALK),
        ("remainder", WALK),
        ("scan", Plan((step("dqdkdv"),))),
        ("split", Plan((step("dqdkdv", algorithm="remainder", programs=4),))),
    ],
    ids=str,
)
def test_gradients_from_states_that_were_handed_over_agree_with_the_recurrence(
    serve_on_gpu, ahead: str, behind: Plan, states: bool
) -> None:
    """The third turn replays both passes."""
    serve_on_gpu(Plan((step("o", layout="transposed", algorithm=ahead),)), behind)
    for turn in range(4):
        gradients_agree(attention._padded, turn, states)
    assert any(isinstance(serve, Replay) for serve in memo.KEEPING.calls.values())


@pytest.mark.gpu
@HANDED_OVER
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_so_do_those_of_a_compiled_step(serve_on_gpu, ahead: Plan, behind: Plan, mode: str) -> None:
    """The third turn of ``reduce-overhead`` replays CUDA graphs of both passes."""
    serve_on_gpu(ahead, behind)
    torch.compiler.reset()
    attend = torch.compile(attention._padded, mode=mode, fullgraph=True, dynamic=False)
    opaque._makers.clear()
    for turn in range(4):
        torch.compiler.cudagraph_mark_step_begin()
        gradients_agree(attend, turn, states=True)
    assert len(opaque._makers) == 1, "handed over"
