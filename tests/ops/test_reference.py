"""The chunked form and its explicit gradients against the token-by-token recurrence."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from latune.ops import reference

MIXED_SLOPES = (0.0, 0.3, 2.0)


def random_qkv(batch: int = 2, seqlen: int = 37, d: int = 5, e: int = 7, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """q, k, v, do and both states' values for three heads."""
    generator = torch.Generator().manual_seed(seqlen * 100 + d)
    heads = len(MIXED_SLOPES)
    shapes = [(batch, heads, seqlen, width) for width in (d, d, e, e)] + [(batch, heads, d, e)] * 2
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def assert_close(name: str, actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    assert actual.shape == expected.shape, name
    assert actual.dtype == expected.dtype, name
    error = (actual - expected).abs().max().item() if actual.numel() else 0.0
    assert error <= tolerance, f"{name}: off by {error:.3g}, allowed {tolerance:.3g}"  # NaN fails too


def test_recurrence_is_the_sum_of_the_definition() -> None:
    q, k, v, _, _, _ = random_qkv(batch=1, seqlen=6)
    o, state = reference.recurrence(q, k, v, torch.tensor(MIXED_SLOPES), scale=0.5)
    for head, slope in enumerate(torch.tensor(MIXED_SLOPES).double()):
        for i in range(6):
            weights = [torch.exp(-slope * (i - j)) * (q[0, head, i] @ k[0, head, j]) for j in range(i + 1)]
            expected = 0.5 * sum(weight * v[0, head, j] for j, weight in enumerate(weights))
            assert_close("o", o[0, head, i], expected, 1e-12)
    last = torch.exp(-torch.tensor(0.3).double())
    expected_state = sum(last ** (5 - j) * torch.outer(k[0, 1, j], v[0, 1, j]) for j in range(6))
    assert_close("final_state", state[0, 1], expected_state, 1e-12)


@pytest.mark.parametrize("chunk", [1, 8, 16, 64])
@pytest.mark.parametrize("seqlen", [1, 7, 15, 16, 17, 48])
def test_chunked_equals_recurrence(seqlen: int, chunk: int) -> None:
    q, k, v, _, initial_state, _ = random_qkv(seqlen=seqlen)
    options = {"scale": 0.7, "initial_state": initial_state}
    expected = reference.recurrence(q, k, v, torch.tensor(MIXED_SLOPES), **options)
    actual = reference.chunked(q, k, v, torch.tensor(MIXED_SLOPES), chunk=chunk, **options)
    assert_close("o", actual[0], expected[0])
    assert_close("final_state", actual[1], expected[1])


@pytest.mark.parametrize("slopes", [None, torch.tensor(MIXED_SLOPES), torch.tensor(MIXED_SLOPES)[:, None, None]])
@pytest.mark.parametrize("with_state", [False, True])
def test_quadratic_equals_recurrence(slopes: Tensor | None, with_state: bool) -> None:
    q, k, v, _, state, _ = random_qkv()
    initial_state = state if with_state else None
    expected = reference.recurrence(q, k, v, slopes, initial_state=initial_state)
    actual = reference.quadratic(q, k, v, slopes, initial_state=initial_state)
    assert_close("o", actual[0], expected[0])
    assert_close("final_state", actual[1], expected[1])


def test_no_slopes_means_slopes_of_zero() -> None:
    q, k, v, _, _, _ = random_qkv()
    none, zero = (reference.chunked(q, k, v, slopes, chunk=8)[0] for slopes in (None, torch.zeros(3)))
    assert torch.equal(none, zero)


def explicit(inputs: list[Tensor], slopes: Tensor | None, states: bool, chunk: int) -> dict[str, Tensor | None]:
    q, k, v, do, initial_state, dfinal_state = inputs
    given = (initial_state, dfinal_state) if states else (None, None)
    names = ("dq", "dk", "dv", "dinitial_state")
    return dict(zip(names, reference.gradients(q, k, v, slopes, 0.7, do, *given, chunk=chunk), strict=True))


def by_autograd(
    forward: Callable[..., tuple[Tensor, Tensor]], inputs: list[Tensor], slopes: Tensor | None, states: bool
) -> dict[str, Tensor]:
    q, k, v, do, initial_state, dfinal_state = inputs
    leaves = [tensor.clone().requires_grad_() for tensor in ((q, k, v, initial_state) if states else (q, k, v))]
    o, final_state = forward(*leaves[:3], slopes, scale=0.7, initial_state=leaves[3] if states else None)
    roots, seeds = ([o, final_state], [do, dfinal_state]) if states else ([o], [do])
    names = ("dq", "dk", "dv", "dinitial_state")[: len(leaves)]
    return dict(zip(names, torch.autograd.grad(roots, leaves, seeds), strict=True))


@pytest.mark.parametrize("slopes", [None, torch.tensor(MIXED_SLOPES)], ids=["none", "constant"])
@pytest.mark.parametrize("states", [False, True], ids=["stateless", "states"])
@pytest.mark.parametrize(("seqlen", "chunk"), [(1, 8), (16, 8), (21, 8), (21, 64)])
def test_explicit_gradients_equal_autograd_of_the_recurrence(
    slopes: Tensor | None, states: bool, seqlen: int, chunk: int
) -> None:
    inputs = random_qkv(seqlen=seqlen)
    expected = by_autograd(reference.recurrence, inputs, slopes, states)
    actual = explicit(inputs, slopes, states, chunk)
    assert (actual["dinitial_state"] is not None) == states
    for name, gradient in expected.items():
        assert_close(name, actual[name], gradient)


def test_either_state_may_come_alone() -> None:
    q, k, v, do, initial_state, dfinal_state = random_qkv(seqlen=11)
    slopes = torch.tensor(MIXED_SLOPES)
    zero = torch.zeros_like(initial_state)
    *only_final, dinitial_state = reference.gradients(q, k, v, slopes, 0.7, do, None, dfinal_state, chunk=4)
    assert dinitial_state is None
    both = reference.gradients(q, k, v, slopes, 0.7, do, zero, dfinal_state, chunk=4)
    for name, alone, full in zip(("dq", "dk", "dv"), only_final, both[:3], strict=True):
        assert torch.equal(alone, full), name
    only_initial = reference.gradients(q, k, v, slopes, 0.7, do, initial_state, None, chunk=4)
    both = reference.gradients(q, k, v, slopes, 0.7, do, initial_state, zero, chunk=4)
    assert all(torch.equal(alone, full) for alone, full in zip(only_initial, both, strict=True))


def test_gradcheck_of_chunked() -> None:
    q, k, v, _, initial_state, _ = random_qkv(batch=1, seqlen=5, d=2, e=3)
    leaves = [tensor.requires_grad_() for tensor in (q, k, v, initial_state)]
    slopes = torch.tensor(MIXED_SLOPES)

    def forward(q: Tensor, k: Tensor, v: Tensor, initial_state: Tensor) -> tuple[Tensor, Tensor]:
        return reference.chunked(q, k, v, slopes, scale=0.7, initial_state=initial_state, chunk=2)

    assert torch.autograd.gradcheck(forward, leaves)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_underflowing_decay_keeps_the_current_token_alone(dtype: torch.dtype) -> None:
    """exp(-s) is 0 in fp32 and fp64: o_t = (q_t . k_t) v_t exactly, and no gradient is NaN."""
    inputs = random_qkv(seqlen=20, dtype=dtype)
    q, k, v, do, initial_state, dfinal_state = inputs
    slopes = torch.full((3,), 1e4)
    o, final_state = reference.chunked(q, k, v, slopes, initial_state=initial_state, chunk=8)
    assert_close("o", o, (q * k).sum(-1, keepdim=True) * v, 1e-4 if dtype is torch.float32 else 1e-12)
    assert_close("final_state", final_state, k[:, :, -1, :, None] * v[:, :, -1, None], 1e-5)
    for name, gradient in explicit(inputs, slopes, True, 8).items():
        assert torch.isfinite(gradient).all(), name
    for name, gradient in by_autograd(reference.chunked, inputs, slopes, True).items():
        assert torch.isfinite(gradient).all(), name
    assert not reference.gradients(q, k, v, slopes, 1.0, do, initial_state, dfinal_state)[3].any()


def test_state_carries_a_sequence_across_calls() -> None:
    q, k, v, _, _, _ = random_qkv(seqlen=21)
    slopes = torch.tensor(MIXED_SLOPES)
    whole, final_state = reference.chunked(q, k, v, slopes, chunk=8)
    head, state = reference.chunked(*(x[:, :, :13] for x in (q, k, v)), slopes, chunk=8)
    tail, resumed = reference.chunked(*(x[:, :, 13:] for x in (q, k, v)), slopes, initial_state=state, chunk=8)
    assert_close("o", torch.cat([head, tail], dim=2), whole)
    assert_close("final_state", resumed, final_state)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_narrow_inputs_are_computed_and_carried_in_fp32(dtype: torch.dtype) -> None:
    q, k, v, do, state, _ = random_qkv(dtype=dtype)
    slopes = torch.tensor(MIXED_SLOPES)
    o, final_state = reference.chunked(q, k, v, slopes, initial_state=state, chunk=8)
    assert (o.dtype, final_state.dtype) == (dtype, torch.float32)
    exact, exact_state = reference.chunked(q.double(), k.double(), v.double(), slopes, initial_state=state.double())
    assert_close("final_state", final_state, exact_state.float(), 1e-4)
    rounding = torch.finfo(dtype).eps * exact.abs().max().item()
    assert_close("o", o.double(), exact, rounding + 1e-4)
    *gradients, dinitial_state = reference.gradients(q, k, v, slopes, 1.0, do, state)
    assert {gradient.dtype for gradient in gradients} == {dtype}
    assert dinitial_state.dtype == torch.float32


def test_strided_and_expanded_inputs() -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 9, 3, 4, generator=generator, dtype=torch.float64).transpose(1, 2)
    k = torch.randn(1, 1, 9, 4, generator=generator, dtype=torch.float64).expand(2, 3, 9, 4)
    v = torch.randn(2, 3, 9, 12, generator=generator, dtype=torch.float64)[..., ::2]
    slopes = torch.tensor(MIXED_SLOPES)
    do = torch.ones(1, 1, 1, 1, dtype=torch.float64).expand(2, 3, 9, 6)
    assert not (q.is_contiguous() or k.is_contiguous() or v.is_contiguous())
    expected = reference.chunked(q.contiguous(), k.contiguous(), v.contiguous(), slopes, chunk=4)
    assert_close("o", reference.chunked(q, k, v, slopes, chunk=4)[0], expected[0])
    gradients = reference.gradients(q, k, v, slopes, 1.0, do, chunk=4)[:3]
    dense = reference.gradients(*(x.contiguous() for x in (q, k, v)), slopes, 1.0, do.contiguous(), chunk=4)[:3]
    for name, actual, gradient in zip(("dq", "dk", "dv"), gradients, dense, strict=True):
        assert_close(name, actual, gradient)


def test_empty_batch_and_empty_sequence() -> None:
    slopes = torch.tensor(MIXED_SLOPES)
    q, k, v, do, _, _ = random_qkv(batch=0)
    o, final_state = reference.chunked(q, k, v, slopes)
    assert (o.shape, final_state.shape) == ((0, 3, 37, 7), (0, 3, 5, 7))
    assert reference.gradients(q, k, v, slopes, 1.0, do)[0].shape == q.shape
    q, k, v, do, state, dfinal_state = random_qkv(seqlen=0)
    o, final_state = reference.chunked(q, k, v, slopes, initial_state=state)
    assert o.shape == (2, 3, 0, 7)
    assert torch.equal(final_state, state)
    assert torch.equal(reference.gradients(q, k, v, slopes, 1.0, do, state, dfinal_state)[3], dfinal_state)


def test_chunk_below_one_is_refused() -> None:
    q, k, v, do, _, _ = random_qkv()
    with pytest.raises(ValueError, match="chunk >= 1, got -5"):
        reference.chunked(q, k, v, chunk=-5)
    with pytest.raises(ValueError, match="chunk >= 1, got 0"):
        reference.gradients(q, k, v, None, 1.0, do, chunk=0)


def test_slopes_of_another_head_count_are_refused() -> None:
    q, k, v, _, _, _ = random_qkv()
    with pytest.raises(RuntimeError):
        reference.chunked(q, k, v, torch.ones(4))
