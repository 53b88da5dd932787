"""One real call of a generated host function, watched and written down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from triton.compiler import CompiledKernel
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor as SharedDescriptor
from triton.runtime.jit import JITFunction
from triton.tools.tensor_descriptor import TensorDescriptor

from latune.codegen.load import Counters, with_kernels
from latune.ops.recording import (
    Address,
    Allocation,
    Descriptor,
    HostFunction,
    Launch,
    Recording,
    Scale,
    SharedCounters,
    Tensors,
)

_aten = torch.ops.aten
_ALLOCATIONS = (_aten.empty, _aten.empty_like, _aten.empty_strided, _aten.new_empty, _aten.new_empty_strided)


def record(function: HostFunction, arguments: Sequence[Tensor | float]) -> tuple[Tensors, Recording | None]:
    """Calls a generated host function and notes what it does.

    Args:
        arguments: of the function; the scale is the only one that is no tensor.

    Returns:
        What the function returned, and the recording: None when repeating it would not do what the call did.
    """
    # Aliases, so that one tensor in two roles is told apart.
    own = [x.detach() if isinstance(x, Tensor) else x for x in arguments]
    tape = _Tape()
    with tape:
        outputs = with_kernels(function, lambda kernel: _Watched(kernel, tape), tape.watched)(*own)
    try:
        return outputs, tape.recording(own, outputs)
    except _UnrecordableError:
        return outputs, None


class _UnrecordableError(Exception):
    """The call did not only allocate and launch, or not in a way that is understood here."""


class _Tape(TorchDispatchMode):
    """Sees every operator that PyTorch runs in this thread while it is entered, and is told of launches."""

    def __init__(self) -> None:
        super().__init__()
        self._allocated: list[Tensor] = []
        self._launched: list[_Launched] = []
        self._counters: list[tuple[Tensor, SharedCounters]] = []
        self._computed = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in _ALLOCATIONS:
            self._allocated.append(result)
        elif func.overloadpacket is not _aten.detach:  # PyTorch itself detaches what it allocates.
            self._computed = True
        return result

    def note(self, launched: _Launched) -> None:
        self._launched.append(launched)

    def watched(self, counters: Counters) -> Counters:
        """Stands for a module's counters: gives them, made where need be, and notes that it did."""

        def give(device: torch.device, count: int) -> Tensor:
            computed = self._computed
            given = counters(device, count)
            self._computed = computed
            self._counters.append((given, SharedCounters(counters, count)))
            return given

        return give

    def recording(self, arguments: Sequence[Tensor | float], outputs: Sequence[Tensor]) -> Recording:
        """What was seen, with tensors by their numbers; what was allocated and not used is left out."""
        if self._computed or not self._launched:
            raise _UnrecordableError
        inputs = [x for x in arguments if isinstance(x, Tensor)]
        (scale,) = (x for x in arguments if not isinstance(x, Tensor))
        symbols = _Symbols(inputs, scale, self._allocated, self._counters)
        if [symbols.number(x) for x in outputs] != list(range(len(inputs), len(inputs) + len(outputs))):
            raise _UnrecordableError
        launches = tuple(launched.symbolic(symbols) for launched in self._launched if 0 not in launched.grid)
        return Recording(
            num_inputs=len(inputs),
            num_outputs=len(outputs),
            allocations=tuple(Allocation(tuple(x.shape), x.stride(), x.dtype) for x in symbols.used),
            launches=launches,
        )


class _Symbols:
    """Names the arguments of launches.

    Inputs are told apart by identity, since they may share memory; allocations, which may be aliased, by address.
    """

    def __init__(
        self,
        inputs: Sequence[Tensor],
        scale: float,
        allocated: Sequence[Tensor],
        counters: Sequence[tuple[Tensor, SharedCounters]],
    ) -> None:
        self.used: list[Tensor] = []
        self._inputs = inputs
        self._scale = scale
        self._allocated = {x.data_ptr(): x for x in allocated}
        self._counters = {id(x): shared for x, shared in counters}

    def number(self, tensor: Tensor) -> int:
        for number, known in enumerate((*self._inputs, *self.used)):
            if tensor is known or (number >= len(self._inputs) and _is_alias(tensor, known)):
                return number
        allocated = self._allocated.get(tensor.data_ptr())
        if allocated is None or not _is_alias(tensor, allocated):
            raise _UnrecordableError
        self.used.append(allocated)
        return len(self._inputs) + len(self.used) - 1

    def of(self, value: object) -> object:
        if id(value) in self._counters:
            return self._counters[id(value)]
        if isinstance(value, Tensor):
            return Address(self.number(value))
        if isinstance(value, (TensorDescriptor, SharedDescriptor)):
            return Descriptor(self.number(value.base), tuple(value.shape), tuple(value.strides))
        if value is self._scale:
            return Scale()
        if isinstance(value, (int, str, type(None))):
            return value
        raise _UnrecordableError


def _is_alias(one: Tensor, other: Tensor) -> bool:
    return one.data_ptr() == other.data_ptr() and one.shape == other.shape and one.stride() == other.stride()


@dataclass(frozen=True, slots=True)
class _Launched:
    """A launch as it was made: Triton's ``kernel[grid](*args, **kwargs)``, and what it ran."""

    kernel: JITFunction
    compiled: CompiledKernel | None
    grid: tuple[int, ...]
    args: tuple[object, ...]
    kwargs: dict[str, object]

    def symbolic(self, symbols: _Symbols) -> Launch:
        # Launch options are among the keywords, too; a kernel that a hook kept from being compiled is None.
        given: dict[str, Any] = dict(zip(self.kernel.arg_names, self.args, strict=False)) | self.kwargs
        names = self.kernel.arg_names
        if self.compiled is None or not given.keys() >= set(names):
            raise _UnrecordableError
        x, y, z = (*self.grid, 1, 1)[:3]
        return Launch(compiled=self.compiled, grid=(x, y, z), arguments=tuple(symbols.of(given[name]) for name in names))


@dataclass(frozen=True, slots=True)
class _Watched:
    """Stands for a jitted function: launches it, and tells the tape."""

    kernel: JITFunction
    tape: _Tape

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*args: object, **kwargs: object) -> None:
            self.tape.note(_Launched(self.kernel, self.kernel[grid](*args, **kwargs), grid, args, kwargs))

        return launch
