"""Peers' preparation, with packages that are made up: what each is given makes it compute the same function."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch.nn.functional import logsigmoid

from latune.cli.benchmark import operators
from latune.cli.benchmark.case import LINEAR, make_case
from latune.cli.benchmark.peers import PEERS
from latune.ops import reference, slopes
from latune.problem import Problem

PROBLEM = Problem(
    direction="bwd", decay="constant", dtype="fp32", batch=2, num_heads=3, seqlen=48, head_dim_k=32, head_dim_v=16
)
CPU = torch.device("cpu")


def _peer(name):
    return next(peer for peer in PEERS if peer.name == name)


@pytest.fixture
def packages(monkeypatch):
    """Installs a made-up package of one function."""

    def install(path, **functions):
        parts = path.split(".")
        for depth in range(1, len(parts) + 1):
            module = ModuleType(".".join(parts[:depth]))
            vars(module).update(functions if depth == len(parts) else {})
            monkeypatch.setitem(sys.modules, module.__name__, module)

    return install


def _mlstm(q, k, v, i, f, *, normalize, chunk_size):
    """The mLSTM with sigmoid gates in its quadratic form, as its paper has it."""
    assert not normalize and i.dtype == f.dtype == torch.float32 and i.is_contiguous() and f.is_contiguous()
    total = logsigmoid(f.double()).cumsum(-1)
    weights = (total[..., :, None] - total[..., None, :] + logsigmoid(i.double())[..., None, :]).exp().tril()
    return ((q.double() @ k.double().mT) * q.shape[-1] ** -0.5 * weights @ v.double()).to(q.dtype)


def _chunk_simple_gla(q, k, v, *, g_gamma, scale):
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    o, state = reference.chunked(q, k, v, None if g_gamma is None else -g_gamma, scale=scale)
    return o.transpose(1, 2), state


@pytest.mark.parametrize("decay", ["constant", "none"])
@pytest.mark.parametrize("head_dim", [16, 32, 48, 128])
@pytest.mark.parametrize("name", ["mlstm siging xl_chunk", "fla chunk_simple_gla", "fla fused_chunk_simple_gla"])
def test_a_peer_computes_the_same_function_forward_and_backward(packages, name, decay, head_dim):
    packages("mlstm_kernels.torch.chunkwise.triton_xl_chunk_siging", mlstm_siging_chunkwise__xl_chunk=_mlstm)
    packages("fla.ops.simple_gla", chunk_simple_gla=_chunk_simple_gla, fused_chunk_simple_gla=_chunk_simple_gla)
    peer, case = _peer(name), make_case(replace(PROBLEM, decay=decay, head_dim_k=head_dim), CPU)
    q, k, v = (tensor.detach().requires_grad_() for tensor in peer.inputs(case))
    o = peer.load(case)(q, k, v)
    outputs = dict(zip(("dq", "dk", "dv"), torch.autograd.grad(o, (q, k, v), peer.arrange(case.do)), strict=True), o=o)
    for output, found in outputs.items():
        torch.testing.assert_close(peer.restored(output, found), case.expected[LINEAR][output], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["fla chunk_simple_gla", "fla fused_chunk_simple_gla"])
def test_fla_chooses_its_configs_anew(packages, monkeypatch, name):
    """Those that an earlier process left on disk may have been chosen on a busy GPU."""
    monkeypatch.setenv("FLA_CACHE_RESULTS", "")  # Restored afterwards, whatever the peer leaves there.
    monkeypatch.delenv("FLA_CACHE_RESULTS")
    packages("fla.ops.simple_gla", chunk_simple_gla=_chunk_simple_gla, fused_chunk_simple_gla=_chunk_simple_gla)
    _peer(name).load(make_case(PROBLEM, CPU))
    assert os.environ["FLA_CACHE_RESULTS"] == "0"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("head_dim", [16, 48, 80, 128, 192, 256])
def test_q_is_scaled_without_rounding(head_dim, dtype):
    factor = operators.mlstm_query_factor(head_dim)
    assert head_dim**0.5 <= factor < 2 * head_dim**0.5
    q = torch.randn(1, 1, 9, head_dim).to(dtype)
    assert torch.equal((q * factor).double(), q.double() * factor)


def test_the_gates_are_what_their_sigmoids_must_be():
    s = torch.tensor([0.0, 1e-9, 2.0**-8, 0.5, 3.0, 200.0])
    i, f = operators.mlstm_gates(torch.empty(1, 6, 2, 128), s)
    assert i.isfinite().all() and f.isfinite().all() and i.shape == f.shape == (1, 6, 2)
    torch.testing.assert_close(logsigmoid(f[0, :, 0]), -s, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(i.sigmoid(), torch.full_like(i, 128**0.5 / 16))
    i, f = operators.mlstm_gates(torch.empty(1, 6, 2, 64), slopes.alibi(6))
    assert (i.sigmoid() == 1).all()


@pytest.mark.parametrize("name", ["mlstm siging xl_chunk", "fla fused_chunk_simple_gla"])
def test_a_shape_beyond_32_bit_offsets_is_refused_before_it_spoils_the_process(packages, name):
    packages("mlstm_kernels.torch.chunkwise.triton_xl_chunk_siging", mlstm_siging_chunkwise__xl_chunk=_mlstm)
    packages("fla.ops.simple_gla", fused_chunk_simple_gla=_chunk_simple_gla)
    huge = torch.empty(9, 32, 65536, 128, device="meta")
    with pytest.raises(ValueError, match="32-bit offsets would have to reach"):
        _peer(name).load(SimpleNamespace(q=huge, v=huge, slopes=None))


def test_only_queries_and_their_gradients_are_scaled_and_only_for_the_mlstm():
    case = make_case(PROBLEM, CPU)
    for peer in PEERS:
        q, k, v = peer.inputs(case)
        assert torch.equal(peer.restored("o", v), case.v) and torch.equal(peer.restored("dk", k), case.k)
        factor = 8.0 if peer.name.startswith("mlstm") else 1.0
        assert torch.equal(peer.restored("dq", q), case.q * factor**2)
