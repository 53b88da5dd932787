"""The operator on CPU tensors, and its argument errors; the same agreements on a GPU where there is one."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import forward_ad

import latune
from latune.ops import reference
from latune.ops.checks import check_tangents

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def _tensors(batch=2, heads=3, seqlen=37, d=16, e=32, device="cpu", dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator).to(device=device, dtype=dtype)

    q, k = normal(batch, seqlen, heads, d).transpose(1, 2), normal(batch, heads, seqlen, d) * d**-0.5
    return q, k, normal(batch, heads, seqlen, e), torch.tensor([0.0, 0.4, 90.0], device=device)[:heads]


def _error(name, got, wanted):
    ratio = ((got.double().cpu() - wanted.cpu()).norm() / wanted.cpu().norm()).item()
    return f"{name}: relative RMS error {ratio:.2e}" if not ratio < 1e-4 else None


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("seqlen", "d", "e"), [(1, 16, 16), (37, 16, 32), (130, 96, 64), (65, 40, 100)])
def test_outputs_and_all_gradients_agree_with_the_recurrence(device, seqlen, d, e):
    q, k, v, slopes = _tensors(seqlen=seqlen, d=d, e=e, device=device)
    initial_state = torch.randn(2, 3, d, e, generator=torch.Generator().manual_seed(1)).to(device)
    leaves = [x.clone().requires_grad_() for x in (q, k, v, initial_state)]
    exact = [x.detach().double().requires_grad_() for x in leaves]

    o, final_state = latune.lightning_attn(*leaves[:3], slopes, scale=0.5, initial_state=leaves[3], return_final_state=True)
    wanted_o, wanted_state = reference.recurrence(*exact[:3], slopes.double(), scale=0.5, initial_state=exact[3])
    (o.sin().sum() + final_state.cos().sum()).backward()
    (wanted_o.sin().sum() + wanted_state.cos().sum()).backward()

    assert o.dtype == q.dtype and final_state.dtype == torch.float32
    pairs = [("o", o, wanted_o.detach()), ("final_state", final_state, wanted_state.detach())]
    pairs += [(f"d{name}", x.grad, y.grad) for name, x, y in zip(("q", "k", "v", "initial_state"), leaves, exact, strict=True)]
    faults = [fault for name, got, wanted in pairs if (fault := _error(name, got, wanted))]
    assert not faults, faults


@pytest.mark.parametrize("device", DEVICES)
def test_a_loss_on_the_final_state_alone_has_gradients(device):
    q, k, v, slopes = (x.detach() for x in _tensors(device=device))
    k.requires_grad_()
    latune.lightning_attn(q, k, v, slopes, return_final_state=True)[1].sum().backward()
    exact = k.detach().double().requires_grad_()
    reference.recurrence(q.double(), exact, v.double(), slopes.double())[1].sum().backward()
    assert _error("dk", k.grad, exact.grad) is None


@pytest.mark.parametrize("device", DEVICES)
def test_slopes_of_shape_h11_and_none_are_taken(device):
    q, k, v, slopes = _tensors(device=device)
    o = latune.lightning_attn(q, k, v, slopes)
    assert torch.equal(latune.lightning_attn(q, k, v, slopes[:, None, None]), o)
    undecayed = latune.lightning_attn(q, k, v)
    assert _error("o", undecayed, reference.recurrence(q.double(), k.double(), v.double())[0]) is None


def test_o_is_laid_out_as_v_is():
    rows = [torch.randn(2, 37, 3, width).transpose(1, 2) for width in (16, 16, 32)]
    assert latune.lightning_attn(*rows).stride() == rows[2].stride()
    assert latune.lightning_attn(*(x.contiguous() for x in rows)).is_contiguous()


@pytest.mark.parametrize("device", DEVICES)
def test_a_final_state_that_nothing_differentiable_has_made_needs_no_gradient(device):
    q, k, v = (torch.randn(1, 2, 20, 16, device=device) for _ in range(3))
    _, state = latune.lightning_attn(q.requires_grad_(), k, v, return_final_state=True)
    assert not state.requires_grad
    _, state = latune.lightning_attn(q, k, v.requires_grad_(), return_final_state=True)
    assert state.requires_grad


def test_none_is_no_final_state():
    q = torch.randn(1, 2, 20, 16)
    assert isinstance(latune.lightning_attn(q, q, q, return_final_state=None), torch.Tensor)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(0, 3, 5, 16), (2, 0, 5, 16)])
def test_an_empty_batch_gives_an_empty_output(device, shape):
    x = torch.zeros(shape, device=device)
    assert latune.lightning_attn(x, x, x).shape == shape


@pytest.mark.parametrize("device", DEVICES)
def test_a_state_of_another_dtype_is_used_in_fp32_and_gets_its_gradient_back(device):
    q, k, v, slopes = _tensors(device=device)
    state = torch.ones(2, 3, 16, 32, dtype=torch.bfloat16, device=device, requires_grad=True)
    latune.lightning_attn(q, k, v, slopes, initial_state=state).sum().backward()
    assert state.grad.dtype == torch.bfloat16 and state.grad.abs().sum() > 0


def test_chunks_of_a_sequence_chain_through_their_states():
    q, k, v, slopes = _tensors(seqlen=70)
    whole = latune.lightning_attn(q, k, v, slopes)
    first, state = latune.lightning_attn(q[:, :, :33], k[:, :, :33], v[:, :, :33], slopes, return_final_state=True)
    second = latune.lightning_attn(q[:, :, 33:], k[:, :, 33:], v[:, :, 33:], slopes, initial_state=state)
    torch.testing.assert_close(torch.cat([first, second], dim=2), whole, rtol=1e-4, atol=1e-4)


Q, K, V, SLOPES = _tensors()
STATE = torch.zeros(2, 3, 16, 32)


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((Q[0], K, V, SLOPES), {}, ["q:", "4 dimensions", "[3, 37, 16]"]),
        ((Q, K[:, :, :5], V, SLOPES), {}, ["k:", "[2, 3, 37, 16]", "[2, 3, 5, 16]"]),
        ((Q, K, V[:1], SLOPES), {}, ["v:", "[2, 3, 37]", "[1, 3, 37, 32]"]),
        ((Q, K.half(), V, SLOPES), {}, ["k:", "float32", "float16", "convert"]),
        ((Q, K, V.to("meta"), SLOPES), {}, ["v:", "cpu", "meta", "move"]),
        ((Q.long(), K.long(), V.long(), SLOPES), {}, ["q:", "dtype", "int64"]),
        ((Q[:, :, :0], K[:, :, :0], V[:, :, :0], SLOPES), {}, ["N >= 1", "[2, 3, 0, 16]"]),
        ((Q.repeat(1, 1, 1, 17), K.repeat(1, 1, 1, 17), V, SLOPES), {}, ["head dim", "256", "272"]),
        ((Q, K, V, SLOPES[:2]), {}, ["slopes:", "[3]", "[2]"]),
        ((Q, K, V, SLOPES.double()), {}, ["slopes:", "float32", "float64"]),
        ((Q, K, V, -SLOPES), {}, ["slopes:", ">= 0", "-90"]),
        ((Q, K, V, SLOPES / 0), {}, ["slopes:", "finite"]),
        ((Q, K, V, SLOPES.clone().requires_grad_()), {}, ["slopes:", "detach"]),
        ((Q, K, V, SLOPES), {"scale": 0.0}, ["scale:", "other than 0"]),
        ((Q, K, V, SLOPES), {"scale": float("nan")}, ["scale:", "finite"]),
        ((Q, K, V, SLOPES), {"initial_state": STATE.mT}, ["initial_state:", "[2, 3, 16, 32]", "[2, 3, 32, 16]"]),
        ((Q, K, V, SLOPES), {"initial_state": STATE.mT.clone().requires_grad_()}, ["initial_state:", "[2, 3, 32, 16]"]),
        ((Q, K, V, SLOPES), {"initial_state": STATE.long()}, ["initial_state:", "floating-point", "int64"]),
        ((Q, K, V, SLOPES), {"cu_seqlens": torch.tensor([0, 37])}, ["cu_seqlens:", "None"]),
        ((Q, K, V, SLOPES), {"cu_seqlens": [0, 37]}, ["cu_seqlens:", "got list"]),
        ((None, K, V, SLOPES), {}, ["q:", "a tensor", "NoneType"]),
        ((Q, K, V, [0.0, 1.0, 2.0]), {}, ["slopes:", "a tensor", "list", "as_tensor"]),
        ((Q, K, V, SLOPES), {"initial_state": (STATE,)}, ["initial_state:", "a tensor", "tuple"]),
        ((Q.to_sparse(), K, V, SLOPES), {}, ["q:", "dense", "sparse_coo"]),
        ((torch.nested.nested_tensor([Q[0], Q[1]]), K, V, SLOPES), {}, ["q:", "dense", "nested"]),
        ((Q[..., :0], K[..., :0], V, SLOPES), {}, ["head dim", "got 0", "reshape"]),
        ((Q, K, V, torch.zeros(37)), {}, ["slopes:", "[3]", "[37]", "transpose(1, 2)"]),
        ((Q, K, V, SLOPES * float("nan")), {}, ["slopes:", "finite", "nan for head 0"]),
        ((Q, K, V, SLOPES), {"scale": None}, ["scale:", "a number", "NoneType"]),
        ((Q, K, V, SLOPES), {"scale": "1"}, ["scale:", "a number", "'1'"]),
        ((Q, K, V, SLOPES), {"scale": 1j}, ["scale:", "a number", "1j"]),
        ((Q, K, V, SLOPES), {"scale": torch.tensor(1.0)}, ["scale:", "a number", "a tensor", "item()"]),
        ((Q, K, V, SLOPES), {"scale": 1e39}, ["scale:", "finite in fp32", "1e+39"]),
        ((Q, K, V, SLOPES), {"scale": 10**400}, ["scale:", "finite in fp32"]),
    ],
)
def test_wrong_arguments_are_value_errors_that_say_what_was_expected_and_what_came(arguments, options, words):
    with pytest.raises(ValueError) as error:
        latune.lightning_attn(*arguments, **options)
    assert [word for word in words if word not in str(error.value)] == [], str(error.value)


def test_forward_mode_ad_is_refused_where_kernels_would_lose_the_tangent():
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(Q, torch.ones_like(Q))
        check_tangents(Q, K)
        with pytest.raises(ValueError, match="without tangents on cuda"):
            check_tangents(K, dual)
        o = latune.lightning_attn(dual, K, V, SLOPES)
        assert forward_ad.unpack_dual(o).tangent is not None


@pytest.mark.gpu
def test_a_negated_view_is_read_with_its_sign():
    q, k, v, slopes = _tensors(device="cuda", dtype=torch.bfloat16)
    wanted = latune.lightning_attn(-q, k, v, slopes)
    for _ in range(4):
        torch.testing.assert_close(latune.lightning_attn(torch._neg_view(q), k, v, slopes), wanted)
        torch.testing.assert_close(latune.lightning_attn(q, k, v, slopes), -wanted)


@pytest.mark.gpu
def test_a_script_nobody_here_wrote():
    for device in ("cuda", "cpu"):
        q, k = (torch.randn(2, 1000, 4, 96, device=device).transpose(1, 2).requires_grad_() for _ in range(2))
        v = torch.randn(2, 1000, 4, 64, device=device).transpose(1, 2).requires_grad_()
        slopes = latune.slopes.alibi(4).to(device)
        o = latune.lightning_attn(q, k, v, slopes)
        o.sum().backward()
        exact = [x.detach().double().requires_grad_() for x in (q, k, v)]
        wanted, _ = reference.recurrence(*exact, slopes.double())
        wanted.sum().backward()
        assert _error("o", o, wanted.detach()) is None
        assert [_error("grad", x.grad, y.grad) for x, y in zip((q, k, v), exact, strict=True)] == [None] * 3


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_expanded_sliced_and_misaligned_inputs_are_read_right(dtype):
    base = torch.randn(2, 3, 70, 40, device="cuda", dtype=dtype)
    odd = base[..., 3:35]
    expanded = torch.randn(2, 1, 70, 32, device="cuda", dtype=dtype).expand(2, 3, 70, 32)
    last_stride_2 = torch.randn(2, 3, 70, 64, device="cuda", dtype=dtype)[..., ::2]
    slopes = torch.tensor([0.0, 0.4, 90.0], device="cuda")
    o = latune.lightning_attn(odd, expanded, last_stride_2, slopes, scale=0.1)
    wanted, _ = reference.recurrence(odd.double(), expanded.double(), last_stride_2.double(), slopes.double(), scale=0.1)
    assert ((o.double() - wanted).norm() / wanted.norm()).item() < 1e-2
