"""Gradients of passes that hand over, eager and compiled, against the recurrence, on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from passes import BEHIND, HANDED_OVER, HEADS, PROBLEM, SEQLEN, WALK, D, E, backward_plan, cooperative, step
from replays import PLANS

from latune.codegen.kept import handing_over
from latune.ops import attention, dispatch, memo, opaque, reference
from latune.ops.replay import Replay
from latune.plan import Plan


def gradients_agree(attend, turn: int, states: bool, seqlen: int = SEQLEN) -> None:
    """On inputs of their own, so that states of another turn would be wrong."""
    torch.manual_seed(turn)
    slopes = torch.tensor([0.0, 0.02, 20.0])
    given = [torch.randn(2, HEADS, seqlen, width).bfloat16() * width**-0.5 for width in (D, D, E)]
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


def agrees_on_what_is_handed_over(ahead: Plan, behind: Plan, seqlen: int = SEQLEN) -> None:
    """Replays of the backward pass start from what the forward pass leaves wherever the plans have anything of that kind."""
    replayed = [maker for (maker, *_), serve in memo.BACKWARD.calls.items() if isinstance(serve, Replay)]
    assert replayed
    handed = handing_over(ahead, behind, replace(PROBLEM, seqlen=seqlen))
    assert all((maker is not None) == (handed is not None) for maker in replayed)


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
    plan = Plan((step("o", layout="transposed", algorithm=ahead),))
    serve_on_gpu(plan, behind)
    for turn in range(4):
        gradients_agree(attention._padded, turn, states)
    assert any(isinstance(serve, Replay) for serve in memo.KEEPING.calls.values())
    agrees_on_what_is_handed_over(plan, behind)


@pytest.mark.gpu
@pytest.mark.parametrize("states", [False, True])
@pytest.mark.parametrize(
    "behind",
    [
        backward_plan(step("dq", block_n=64)),
        backward_plan(cooperative("dq")),
        PLANS["cooperative"][1],
        Plan((cooperative("dq"), cooperative("dk", "balanced"), cooperative("dv", "balanced"))),
        WALK,
    ],
    ids=["split", "cooperative", "all cooperative", "balanced", "walk"],
)
@pytest.mark.parametrize("ahead", ["cooperative", "balanced"])
# Of so many rows, the parts of balanced programs are shares of heads, whose states are lent dq's memory.
@pytest.mark.parametrize("seqlen", [SEQLEN, 800])
def test_so_do_those_from_states_that_programs_have_made_together(
    serve_on_gpu, seqlen: int, ahead: str, behind: Plan, states: bool
) -> None:
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("kernels with warps of their own are for compute capability 9.0")
    plan = Plan((cooperative("o", ahead),))
    serve_on_gpu(plan, behind)
    for turn in range(4):
        gradients_agree(attention._padded, turn, states, seqlen)
    assert any(isinstance(serve, Replay) for serve in memo.KEEPING.calls.values())
    agrees_on_what_is_handed_over(plan, behind, seqlen)


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


@pytest.mark.gpu
@pytest.mark.parametrize("algorithm", ["cooperative", "balanced", "relay"])
def test_programs_that_wait_for_one_another_are_captured_by_the_compiler_with_no_eager_call_before(
    serve_on_gpu, algorithm: str
) -> None:
    """Their counters, which the first compiled call makes, outlive what it allocates besides."""
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("kernels with warps of their own are for compute capability 9.0")
    serve_on_gpu(*PLANS[algorithm])
    failed = set(opaque._failed)
    torch.compiler.reset()
    attend = torch.compile(attention._padded, mode="reduce-overhead", fullgraph=True, dynamic=False)
    for turn in range(5):
        torch.compiler.cudagraph_mark_step_begin()
        gradients_agree(attend, turn, states=True)
    assert opaque._failed == failed
