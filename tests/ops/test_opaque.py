"""``torch.compile`` over the path that CUDA tensors take, with PyTorch's arithmetic in the place of the launches.

What one pass leaves to the other is in test_handover.py.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

import latune
from latune.ops import attention, handover, kernels, opaque, reference

SLOPES = torch.tensor([0.0, 0.4, 3.0])


@pytest.fixture(autouse=True)
def launches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs as a generated module returns them: contiguous where it could not read the inputs in place."""

    def forward(q, k, v, slopes, scale, initial_state, final_state):
        o, state = reference.chunked(q, k, v, slopes, scale=scale, initial_state=initial_state)
        return (o.contiguous(), state) if final_state else (o.contiguous(),)

    def backward(q, k, v, slopes, scale, do, initial_state, dfinal_state, kept=None):
        assert kept is None
        gradients = reference.gradients(q, k, v, slopes, scale, do, initial_state, dfinal_state)
        return tuple(gradient.contiguous() for gradient in gradients if gradient is not None)

    monkeypatch.setattr(kernels, "forward", forward)
    monkeypatch.setattr(kernels, "forward_keeping", lambda *given: (forward(*given[:7]), None))
    monkeypatch.setattr(handover, "keeper", lambda problem, device_index: None)
    monkeypatch.setattr(kernels, "backward", backward)


def tensors(states: bool) -> list[Tensor | None]:
    """q, k, v, as transposed [B, N, H, width] tensors, and an initial state."""
    torch.manual_seed(0)
    rows = [torch.randn(2, 37, 3, width).transpose(1, 2).requires_grad_() for width in (16, 16, 32)]
    return [*rows, torch.randn(2, 3, 16, 32).requires_grad_() if states else None]


def attend(q: Tensor, k: Tensor, v: Tensor, initial_state: Tensor | None) -> Tensor:
    o, *final_state = attention._padded(2 * q, k, v, SLOPES, 0.5, initial_state, initial_state is not None)
    return o.square().sum() + (final_state[0].sum() if final_state else 0.0)


@pytest.mark.parametrize("states", [False, True])
def test_a_compiled_call_is_one_graph_and_gives_the_eager_gradients(states: bool) -> None:
    given, compiled = tensors(states), tensors(states)
    loss, traced = attend(*given), torch.compile(attend, backend="aot_eager", fullgraph=True)(*compiled)
    loss.backward()
    traced.backward()
    torch.testing.assert_close(traced, loss)
    for one, other in zip(compiled[: 3 + states], given, strict=False):
        torch.testing.assert_close(one.grad, other.grad)


def test_a_compiled_call_on_cpu_tensors_is_one_graph_too() -> None:
    given = [torch.randn(1, 3, 70, 16) for _ in range(3)]
    compiled = torch.compile(latune.lightning_attn, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*given, SLOPES), latune.lightning_attn(*given, SLOPES))


def test_layers_may_differ_in_their_scale() -> None:
    given = [torch.randn(1, 3, 70, 16) for _ in range(3)]
    compiled = torch.compile(
        lambda scale: latune.lightning_attn(*given, SLOPES, scale=scale), backend="aot_eager", fullgraph=True
    )
    for scale in (1.0, 0.5, 0.25):
        torch.testing.assert_close(compiled(scale), latune.lightning_attn(*given, SLOPES, scale=scale))


class Awaited(Tensor):
    """Without memory of its own, as what a collective will bring: operators get what it stands for."""

    @staticmethod
    def __new__(cls, held: Tensor) -> Awaited:
        return Tensor._make_wrapper_subclass(cls, held.shape, strides=held.stride(), dtype=held.dtype, device=held.device)

    def __init__(self, held: Tensor) -> None:
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        return function(*tree_map_only(Awaited, lambda x: x.held, args), **(kwargs or {}))


@pytest.mark.parametrize("learns", [False, True])
def test_tensors_without_memory_are_made_ones_that_have_some(monkeypatch: pytest.MonkeyPatch, learns: bool) -> None:
    q, k, v, _ = tensors(False)
    seen: list[type] = []
    forward = kernels.forward
    monkeypatch.setattr(kernels, "forward", lambda *given: seen.append(type(given[0])) or forward(*given))
    awaited = Awaited(q.detach()).requires_grad_(learns)
    k, v = (x.requires_grad_(learns) for x in (k.detach(), v.detach()))
    o, *_ = attention._padded(awaited, k, v, SLOPES, 0.5, None, False)
    assert seen == [Tensor]
    torch.testing.assert_close(o, attention._padded(q.detach(), k, v, SLOPES, 0.5, None, False)[0])
    if learns:
        assert [x.shape for x in torch.autograd.grad(o.sum(), (k, v))] == [k.shape, v.shape]


def test_so_is_one_that_looks_the_operator_up_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(vars(latune), "lightning_attn", raising=False)
    given = [torch.randn(1, 3, 70, 16) for _ in range(3)]
    compiled = torch.compile(lambda *x: latune.lightning_attn(*x), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*given, SLOPES), attention.lightning_attn(*given, SLOPES))


def test_a_compiled_call_takes_new_lengths() -> None:
    compiled = torch.compile(attend, backend="aot_eager", fullgraph=True, dynamic=True)
    for seqlen in (64, 65, 200):
        given = [torch.randn(1, 3, seqlen, 16).requires_grad_() for _ in range(3)]
        torch.testing.assert_close(compiled(*given, None), attend(*given, None))


@pytest.mark.parametrize("states", [False, True])
def test_the_operators_are_what_pytorch_expects_of_one(states: bool) -> None:
    q, k, v, state = (None if x is None else x.detach() for x in tensors(states))
    do = torch.randn_like(v)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(opaque._forward, (q, k, v, SLOPES, 0.5, state, states), test_utils=checks)
    torch.library.opcheck(opaque._backward, (q, k, v, SLOPES, 0.5, do, state, state, None, None), test_utils=checks)
