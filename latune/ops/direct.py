"""What of Triton is called directly: a compiled kernel's launcher, and the encoder of TMA descriptors.

Triton's own path from a ``TensorDescriptor`` to a launch spends some 2 us of Python on each descriptor. Its launcher also
takes descriptors that are encoded already, when they are what its signature asks for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from types import SimpleNamespace

from triton.compiler import CompiledKernel
from triton.runtime import driver

from latune.ops.recording import Descriptor

_DESCRIPTOR = "tensordesc"
# For each dimension of a descriptor its size and its stride.
_RANK = 4
_ENCODED = ("nvTmaDesc", *["i32"] * _RANK, *["i64"] * _RANK)


class UnsupportedError(Exception):
    """This Triton, or this GPU, does it in another way."""


@functools.lru_cache(maxsize=256)
def launcher(compiled: CompiledKernel) -> Callable[..., None]:
    """``launch(x, y, z, stream, function, packed_metadata, None, None, None, *arguments)``, on a grid of x, y, z programs.

    There are no hooks, hence the Nones. Pointers may be plain integers. A descriptor is passed as three things: encoded,
    its shape, its strides.

    Raises:
        UnsupportedError: descriptors are lowered in a way that is not known here.
    """
    types = list(compiled.src.signature.values())
    if not any(_is_descriptor(name) for name in types):
        return compiled.run
    descriptor_metadata(compiled)
    flat = [part for name in types for part in (_ENCODED if _is_descriptor(name) else (name,))]
    source = SimpleNamespace(constants={}, signature=dict(enumerate(flat)))
    return driver.active.launcher_cls(source, compiled.metadata._replace(tensordesc_meta=None))


def descriptor_metadata(compiled: CompiledKernel) -> Iterator[dict[str, object]]:
    """How each descriptor among the kernel's parameters is laid out, in order.

    Raises:
        UnsupportedError: the GPU has no TMA, so that descriptors were lowered to pointers.
    """
    metadata = compiled.metadata.tensordesc_meta
    if not metadata or None in metadata:
        raise UnsupportedError
    return iter(metadata)


def encoder(descriptor: Descriptor, metadata: dict[str, object]) -> Callable[[int], object]:
    """Makes an address a descriptor that the launcher takes; elements out of bounds are read as zeros.

    What was made lately is kept: addresses come back, and a descriptor says nothing of what lies there.

    Raises:
        UnsupportedError: it is encoded in a way that is not known here.
    """
    return functools.partial(_encoded, _Encoding(_encode(), encoding(descriptor, metadata)))


def encoding(descriptor: Descriptor, metadata: dict[str, object]) -> tuple[object, ...]:
    """What Triton's own encoder has to know beside the address.

    Raises:
        UnsupportedError: the descriptor is of a kind that latune's kernels have none of.
    """
    if metadata["fp4_padded"] or metadata.get("is_im2col", False) or len(descriptor.shape) != _RANK:
        raise UnsupportedError
    element_types = import_module("triton.backends.nvidia.driver").TMA_DTYPE_DEVICE_TO_HOST
    element = (metadata["elem_size"], element_types[metadata["elem_type"]])
    return (metadata["swizzle"], *element, metadata["block_size"], descriptor.shape, descriptor.strides, 0)


@dataclass(frozen=True, slots=True, eq=False)
class _Encoding:
    """How one descriptor is made; told apart by identity, which costs nothing to hash."""

    encode: Callable[..., object]
    arguments: tuple[object, ...]


@functools.lru_cache(maxsize=4096)
def _encoded(encoding: _Encoding, address: int) -> object:
    return encoding.encode(address, *encoding.arguments)


def _encode() -> Callable[..., object]:
    """Triton's own encoder."""
    utils = driver.active.utils
    # Triton 3.6, and from then on.
    for name in ("fill_tma_descriptor", "fill_tma_descriptor_tiled"):
        if hasattr(utils, name):
            return getattr(utils, name)
    raise UnsupportedError


def _is_descriptor(type_name: object) -> bool:
    return isinstance(type_name, str) and type_name.startswith(_DESCRIPTOR)
