"""What is noted of a host function's call, and what makes it one that cannot be repeated."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from latune.ops.recording import Address, Allocation, Scale
from latune.ops.tape import record

F32 = torch.float32


@triton.jit
def kernel(x, y, scale, length, BLOCK: tl.constexpr):
    pass


def allocate(x):
    out = torch.empty_like(x)
    return out if out.stride(-1) == 1 else torch.empty(x.shape, dtype=x.dtype)


def host(x, scale):
    scratch = torch.empty(3, dtype=torch.float32)
    y = allocate(x)
    kernel[(2, 0)](scratch, y, scale, 5, BLOCK=16)
    kernel[(2,)](x, scratch, scale, 5, BLOCK=16, num_warps=4)
    kernel[(2, 3)](scratch, y, scale, 6, BLOCK=16)
    return (y,)


def test_allocations_and_launches_are_noted_by_role(fake):
    x = torch.zeros(4, 6)
    (y,), recording = record(host, (x, 2.0))
    assert recording.num_inputs == recording.num_outputs == 1
    assert recording.allocations == (Allocation((4, 6), (6, 1), F32), Allocation((3,), (1,), F32))
    first, second = recording.launches
    assert (first.grid, first.arguments) == ((2, 1, 1), (Address(0), Address(2), Scale(), 5, 16))
    assert (second.grid, second.arguments) == ((2, 3, 1), (Address(2), Address(1), Scale(), 6, 16))
    assert y.shape == x.shape and len(fake.jit) == 3


def test_a_first_allocation_that_is_dropped_for_another_is_left_out(fake):
    _, recording = record(host, (torch.zeros(6, 4).T, 2.0))
    assert recording.allocations[0] == Allocation((4, 6), (6, 1), F32) and len(recording.allocations) == 2


def copies(x, scale):
    x = x.contiguous()
    kernel[(1,)](x, torch.empty(2), scale, 1, BLOCK=16)
    return (torch.empty(2),)


def fills(x, scale):
    y = torch.zeros(2)
    kernel[(1,)](x, y, scale, 1, BLOCK=16)
    return (y,)


def reads_a_module_global(x, scale):
    y = torch.empty(2)
    kernel[(1,)](GLOBAL, y, scale, 1, BLOCK=16)
    return (y,)


def derives_from_the_scale(x, scale):
    y = torch.empty(2)
    kernel[(1,)](x, y, scale * 2, 1, BLOCK=16)
    return (y,)


def returns_its_input(x, scale):
    kernel[(1,)](x, x, scale, 1, BLOCK=16)
    return (x,)


def returns_one_tensor_twice(x, scale):
    y = torch.empty(2)
    kernel[(1,)](x, y, scale, 1, BLOCK=16)
    return (y, y)


def launches_nothing(x, scale):
    return (torch.empty(2),)


GLOBAL = torch.zeros(2)


@pytest.mark.parametrize(
    "function",
    [
        copies,
        fills,
        reads_a_module_global,
        derives_from_the_scale,
        returns_its_input,
        returns_one_tensor_twice,
        launches_nothing,
    ],
)
def test_a_call_that_does_anything_else_runs_and_is_not_recorded(fake, function):
    outputs, recording = record(function, (torch.zeros(4, 6).T, 2.0))
    assert len(outputs) >= 1 and recording is None
    assert len(fake.jit) == (function is not launches_nothing)


def test_an_error_of_the_call_is_the_callers(fake):
    def fails(x, scale):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        record(fails, (torch.zeros(2), 1.0))
