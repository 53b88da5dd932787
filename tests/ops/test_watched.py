"""Calls that a dispatch mode or a transform of ``torch.func`` is to see: operators, not launches by null pointers."""

from __future__ import annotations

import functools

import pytest
import torch
from passes import AHEAD, BEHIND, WHOLE, tensors
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from latune.ops import attention


@pytest.fixture(autouse=True)
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda _: True), raising=False)


def test_functional_tensors_are_launched_by_the_memory_behind_them(serve):
    gpu = serve((WHOLE,), (BEHIND,))
    q, k, v, slopes = tensors()
    for _ in range(3):
        attention.lightning_attn(q, k, v, slopes)
    gpu.direct.clear()
    torch.func.functionalize(lambda q, k, v: attention.lightning_attn(q, k, v, slopes))(q, k, v)
    ((_, arguments),) = gpu.direct or gpu.jit[-1:]
    pointers = [int(argument) for argument in arguments[:4] if not isinstance(argument, tuple)]
    assert pointers[:3] == [x.data_ptr() for x in (q, k, v)] and all(pointers)


@pytest.mark.parametrize("mode", ["real", "fake"])
def test_a_traced_graph_has_the_operator_in_it(serve, mode):
    serve((WHOLE,), (BEHIND,))
    q, k, v, slopes = tensors()
    for _ in range(3):
        attention.lightning_attn(q, k, v, slopes)
    graph = make_fx(lambda *given: attention.lightning_attn(*given), tracing_mode=mode)(q, k, v, slopes)
    assert "torch.ops.latune.forward.default" in graph.code


def test_selective_checkpointing_can_name_the_operator_and_goes_on_from_it(serve):
    serve((AHEAD,), (BEHIND,))
    q, k, v, slopes = tensors()
    v.requires_grad_()
    seen = set()

    def policy(context, operator, *_, **__):
        seen.add(str(operator))
        return CheckpointPolicy.PREFER_SAVE

    contexts = functools.partial(create_selective_checkpoint_contexts, policy)
    for _ in range(4):
        x = checkpoint(lambda x: attention.lightning_attn(q, k, x * 1, slopes), v, use_reentrant=False, context_fn=contexts)
        x.sum().backward()
    assert {"latune.forward_keeping.default", "latune.forward.default"} & seen
