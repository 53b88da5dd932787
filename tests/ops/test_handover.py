"""What eager passes hand over, states of segments or checkpoints, and what they then launch."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from passes import AHEAD, BEHIND, HEADS, PROBLEM, SEQLEN, WALK, WHOLE, D, E, backward_plan, step, tensors
from torch.utils.checkpoint import checkpoint
from triton.runtime.errors import OutOfResources
from triton.runtime.jit import JITFunction

from latune.ops import attention, dispatch, kernels, memo
from latune.ops.replay import Replay
from latune.plan import Plan, Step


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


@pytest.mark.parametrize(
    "ahead",
    [WHOLE, *(Plan((step("o", algorithm=name, block_n=rows),)) for name, rows in (("sequential", 128), ("parallel", 32)))],
    ids=str,
)
def test_without_checkpoints_a_plan_that_reads_none_runs(serve, ahead: Plan) -> None:
    """Where the chunks of both passes do not meet, forward has no state, or backward is called by itself."""
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
    serve, refuse, refused: str, ahead: Plan, behind: tuple[Plan, ...]
) -> None:
    gpu = serve((ahead,), behind)
    errors = refuse(refused)
    with pytest.warns(UserWarning, match="hand nothing over, and take longer: .*shared memory") as said:
        for turn in range(5):
            given = tensors()
            kept = forward(given)
            gpu.jit.clear()
            gpu.direct.clear()
            backward(given, kept)
            assert (kept is None) == (refused.endswith("kept") or turn > 0)
            assert len(gpu.jit or gpu.direct) == 3, "states, dq, dk and dv"
    assert gpu.jit == [] and len(said) == 1
    assert errors and not any(error() for error in errors), "nothing that was allocated in vain is held"


@pytest.mark.parametrize(
    ("refused", "ahead", "behind"),
    [("segment_states=given", AHEAD, (BEHIND,)), ("checkpoints=given", WHOLE, (WALK, BEHIND))],
)
def test_what_is_checkpointed_saves_as_much_when_it_is_made_again(
    serve, refuse, monkeypatch, refused: str, ahead: Plan, behind: tuple[Plan, ...]
) -> None:
    """Though the last layer's backward pass has found meanwhile that nothing is to be kept."""
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda tensor: True), raising=False)
    serve((ahead,), behind)
    refuse(refused)
    q, k, v, slopes = tensors()
    x = v.requires_grad_()
    for _ in range(3):
        x = checkpoint(lambda x: attention.lightning_attn(q, k, x, slopes), x, use_reentrant=False)
    with pytest.warns(UserWarning, match="hand nothing over"):
        x.sum().backward()
    assert v.grad is not None and v.grad.shape == v.shape


def test_negated_views_are_launched_on_copies_and_are_another_signature(serve) -> None:
    gpu = serve((WHOLE,), (BEHIND,))
    q, *rest = tensors()
    for x, in_place in [*[(torch._neg_view(q), False), (q, True)] * 4]:
        gpu.jit.clear()
        gpu.direct.clear()
        kernels.forward(x, *rest, 0.5, None, False)
        ((_, arguments),) = gpu.jit or gpu.direct
        assert (q.data_ptr() in arguments) == in_place
    assert gpu.direct, "what is read in place is replayed"


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
