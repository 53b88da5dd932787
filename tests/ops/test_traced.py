"""What passes in a graph of ``torch.compile`` hand over, and what they then launch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from passes import AHEAD, BEHIND, HANDED_OVER, HEADS, PROBLEM, SEQLEN, WHOLE, D, E, step, tensors

from latune.ops import attention, handover, opaque, traced
from latune.plan import Plan


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


def test_a_graph_does_without_what_launches_no_more(serve, refuse) -> None:
    """Its maker is current still, and what stands in the place of its states must not be read."""
    gpu, attend, sizes = serve((AHEAD,), (BEHIND,)), in_a_graph(dynamic=False), (2, HEADS, SEQLEN, D, E)
    assert launches_of_a_step(gpu, attend, tensors()) == (2, 2)
    refuse("segment_states=kept")
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
