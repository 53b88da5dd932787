"""What generated text reads and writes: tensors by pointers and descriptors, buffers in shared memory, rings of barriers."""

from __future__ import annotations

import types
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from warps import Barrier, Scheduler


@dataclass(frozen=True)
class Pointer:
    """Elements of a contiguous tensor, by their offsets.

    Attributes:
        lent: the tensor has 16-bit elements, by which offsets count, and lends its memory to fp32 ones: nothing is read or
            written until the pointer is cast.
    """

    elements: np.ndarray
    offsets: Any = 0
    lent: bool = False

    def __add__(self, offsets: Any) -> Pointer:
        return replace(self, offsets=self.offsets + offsets)

    def to_fp32(self) -> Pointer:
        return Pointer(self.elements, self.offsets // 2) if self.lent else self

    def masked(self, mask: Any) -> tuple[np.ndarray, np.ndarray]:
        assert not self.lent, "expected a pointer to fp32, got one to 16-bit elements"
        offsets, mask = np.broadcast_arrays(self.offsets, mask)
        assert (offsets[mask] >= 0).all()
        return offsets, mask


class Descriptor:
    """A tensor descriptor, of Triton or of Gluon: blocks read zeros outside the tensor, and are not written there."""

    layout = dtype = None

    def __init__(
        self, tensor: torch.Tensor, shape: list[int], strides: list[int], block: list[int], layout: None = None
    ) -> None:
        self._tensor = tensor.as_strided(shape, strides).numpy()
        self._block = block
        self.block_type = types.SimpleNamespace(nbytes=8 * int(np.prod(block)))

    def load(self, corner: Sequence[int]) -> np.ndarray:
        outside, inside = self._overlap(corner)
        block = np.zeros(self._block)
        block[inside] = self._tensor[outside]
        return block

    def store(self, corner: Sequence[int], block: np.ndarray) -> None:
        outside, inside = self._overlap(corner)
        self._tensor[outside] = block[inside]

    def _overlap(self, corner: Sequence[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """What the tensor and a block share: as a part of the tensor, and of the block."""
        outside, inside = [], []
        for start, width, size in zip(map(int, corner), self._block, self._tensor.shape, strict=True):
            first = max(start, 0)
            behind = max(min(start + width, size), first)
            outside.append(slice(first, behind))
            inside.append(slice(first - start, behind - start))
        return tuple(outside), tuple(inside)


class Shared:
    """A buffer in shared memory, or a view of one."""

    def __init__(self, values: np.ndarray, scheduler: Scheduler) -> None:
        self.values = values
        self._scheduler = scheduler

    def index(self, place: int) -> Shared:
        return Shared(self.values[place], self._scheduler)

    def reshape(self, shape: list[int]) -> Shared:
        return Shared(self.values.reshape(shape), self._scheduler)

    def permute(self, order: tuple[int, ...]) -> Shared:
        return Shared(self.values.transpose(order), self._scheduler)

    def load(self, layout: None) -> Loaded:
        self._scheduler.pause()
        return Loaded(self.values)

    def store(self, values: np.ndarray | Loaded) -> None:
        assert values.shape == self.values.shape
        self._scheduler.pause()
        stored = np.array(values)
        self.values[...] = np.nan
        self._scheduler.pause()
        self.values[...] = stored


class Loaded(np.lib.mixins.NDArrayOperatorsMixin):
    """What a load from shared memory brings: the values that lie there when they are first used, which no barrier waits for."""

    def __init__(self, source: np.ndarray) -> None:
        self.shape = source.shape
        self._source = source
        self._values: np.ndarray | None = None

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        if self._values is None:
            self._values = self._source.copy()
        return self._values

    def __getitem__(self, key: Any) -> np.ndarray:
        return np.asarray(self)[key]

    def __array_ufunc__(self, function: np.ufunc, method: str, *operands: Any, **options: Any) -> Any:
        return getattr(function, method)(*(np.asarray(operand) for operand in operands), **options)


class Barriers:
    """A barrier for each place of a ring."""

    def __init__(self, places: int) -> None:
        self._barriers = [Barrier() for _ in range(places)]

    def index(self, place: int) -> Barrier:
        return self._barriers[place]


class BarrierLayout:
    """Says that barriers are allocated."""


class Counters:
    """What launches of one stream meet at."""

    def __init__(self) -> None:
        self._zeros = torch.zeros(256, dtype=torch.int32)

    def of(self, device: torch.device, count: int) -> torch.Tensor:
        assert count <= len(self._zeros)
        assert not self._zeros.any(), "a launch has left counters otherwise than it found them"
        return self._zeros[:count]


def load(pointer: Pointer, mask: Any = True, other: float = 0.0) -> np.ndarray:
    offsets, mask = pointer.masked(mask)
    loaded = np.full(offsets.shape, other)
    loaded[mask] = pointer.elements[offsets[mask]]
    return loaded


def store(pointer: Pointer, values: np.ndarray | int, mask: Any = True) -> None:
    offsets, mask = pointer.masked(mask)
    pointer.elements[offsets[mask]] = np.broadcast_to(values, offsets.shape)[mask]
