"""The path of a call on CUDA tensors from end to end: padding, autograd, dispatch, the default's generated modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from latune.config import Config
from latune.gpu import find_gpu
from latune.ops import attention, dispatch, reference
from latune.plan import KERNELS, Plan, Step
from latune.problem import Problem

# As latune sees it; on CPU tensors the device's index is None.
GPU = find_gpu("a100")
TOLERANCE = 2e-5


@pytest.fixture(autouse=True)
def on_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: None)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(dispatch, "device_gpu", lambda index: GPU)
    dispatch.forget_decisions()
    yield
    dispatch.forget_decisions()


def tensors(seqlen: int, d: int, e: int, states: bool) -> list[Tensor | None]:
    """q, k, v [2, 3, seqlen, width] as views of [B, N, H, width], and an initial state."""
    torch.manual_seed(seqlen)
    rows = [torch.randn(2, seqlen, 3, width).transpose(1, 2) for width in (d, d, e)]
    return [tensor.requires_grad_() for tensor in rows] + [torch.randn(2, 3, d, e).requires_grad_() if states else None]


def loss(o: Tensor, final_state: Tensor | None) -> Tensor:
    weights = torch.linspace(-1, 1, o.shape[-1], dtype=o.dtype)
    return (o * weights).sum() + (0.0 if final_state is None else final_state.square().sum())


@pytest.mark.filterwarnings("ignore:latune")
@pytest.mark.parametrize("slopes", [None, torch.tensor([0.0, 0.3, 90.0])], ids=["none", "constant"])
@pytest.mark.parametrize(("seqlen", "d", "e"), [(1, 16, 16), (70, 40, 20)])
@pytest.mark.parametrize("states", [False, True])
def test_outputs_and_gradients_agree_with_the_recurrence(
    seqlen: int, d: int, e: int, states: bool, slopes: Tensor | None
) -> None:
    given = tensors(seqlen, d, e, states)
    exact = [None if x is None else x.detach().double().requires_grad_() for x in given]
    o, *given_state = attention._padded(*given[:3], slopes, 0.7, given[3], states)
    final_state = given_state[0] if states else None
    wanted, wanted_state = reference.recurrence(*exact[:3], slopes, scale=0.7, initial_state=exact[3])
    loss(o, final_state).backward()
    loss(wanted, wanted_state if states else None).backward()
    pairs = [(o, wanted), *((x.grad, y.grad) for x, y in zip(given, exact, strict=True) if x is not None)]
    pairs += [(final_state, wanted_state)] if states else []
    errors = [((got - exact_).norm() / exact_.norm()).item() for got, exact_ in pairs]
    assert max(errors) < TOLERANCE, errors


def split(kernel: str) -> Step:
    choices = {"state_layout": "transposed", "decay_mode": "matrix", "decayed": "value", "loads": "pointer"}
    constexprs = {"BLOCK_N": 16, "PROGRAMS": 18}
    constexprs |= {"BLOCK_D": 16, "BLOCK_E": 16} if KERNELS[kernel].space == "stream" else {}
    return Step(kernel=kernel, config=Config.of("split", choices=choices, constexprs=constexprs))


def in_one_walk() -> Step:
    segmented = split("dqdkdv")
    return replace(segmented, config=replace(segmented.config, algorithm="sequential"))


def compiled(*arguments: object) -> tuple[Tensor, ...]:
    """``attention._padded`` by a graph for these sizes."""
    torch.compiler.reset()
    return torch.compile(attention._padded, backend="aot_eager", fullgraph=True, dynamic=False)(*arguments)


@pytest.mark.parametrize("attend", [attention._padded, compiled], ids=["eager", "compiled"])
@pytest.mark.parametrize("states", [False, True])
@pytest.mark.parametrize(
    ("backward", "given"),
    [((split("dq"), split("dkdv")), "segment_states"), ((in_one_walk(),), "checkpoints")],
    ids=["segments", "walk"],
)
def test_backward_starts_from_what_the_forward_pass_has_kept(
    monkeypatch: pytest.MonkeyPatch,
    backward: tuple[Step, ...],
    given: str,
    states: bool,
    attend: Callable[..., tuple[Tensor, ...]],
) -> None:
    """Three segments of each of six heads; a second forward pass, of other inputs, comes before the first one's backward."""
    plans = {"fwd": Plan((split("o"),)), "bwd": Plan(backward)}

    def resolve(problem: Problem, gpu: object) -> SimpleNamespace:
        return SimpleNamespace(step="exact", entry=None, candidates=iter([(plans[problem.direction], "a plan")]))

    loaded: list[str] = []
    load_plan = dispatch.load_plan
    monkeypatch.setattr(dispatch, "load_plan", lambda problem, plan: loaded.append(str(plan)) or load_plan(problem, plan))
    monkeypatch.setattr(dispatch, "resolve", resolve)
    slopes = torch.tensor([0.0, 0.3, 90.0])
    inputs, others = tensors(44, 16, 16, states), tensors(43, 16, 16, states)
    exact = [None if x is None else x.detach().double().requires_grad_() for x in inputs]
    outputs = [attend(*one[:3], slopes, 0.7, one[3], states) for one in (inputs, others)]
    wanted, wanted_state = reference.recurrence(*exact[:3], slopes, scale=0.7, initial_state=exact[3])
    for o, *final_state in reversed(outputs):
        loss(o, final_state[0] if states else None).backward()
    loss(wanted, wanted_state if states else None).backward()
    pairs = [(x.grad, y.grad) for x, y in zip(inputs, exact, strict=True) if x is not None]
    assert max(((got - exact_).norm() / exact_.norm()).item() for got, exact_ in pairs) < TOLERANCE
    assert any(f" {given}=given" in plan for plan in loaded)
