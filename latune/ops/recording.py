"""What a call of a generated host function allocated and launched: all that it takes to make the call again.

A host function does three things: it looks at shapes and strides, allocates, and launches. For the same shapes and
strides it allocates and launches the same again, so that these two can be repeated without the first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from triton.compiler import CompiledKernel

from latune.codegen.load import Counters

Tensors = tuple[Tensor, ...]
HostFunction = Callable[..., Tensors]


@dataclass(frozen=True, slots=True)
class Allocation:
    """A tensor that the call made, on its inputs' device."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class Address:
    """An argument of a launch: a tensor's address. Tensors are numbered: the inputs, then the allocations."""

    tensor: int


@dataclass(frozen=True, slots=True)
class SharedCounters:
    """An argument of a launch: counters that the module gives to a call, and to others as well."""

    counters: Counters
    count: int


@dataclass(frozen=True, slots=True)
class Descriptor:
    """An argument of a launch: a TMA descriptor of a tensor."""

    tensor: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Scale:
    """An argument of a launch: the call's scale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One launch, with one argument for each parameter of the kernel; one that is none of the above is constant."""

    compiled: CompiledKernel
    grid: tuple[int, int, int]
    arguments: tuple[object, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A whole call; the first ``num_outputs`` allocations are what it returned, the others scratch."""

    num_inputs: int
    num_outputs: int
    allocations: tuple[Allocation, ...]
    launches: tuple[Launch, ...]
