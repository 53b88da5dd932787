"""A recorded call, repeated for other tensors: allocations and launches, with nothing looked at again.

Most of what a launch costs the host is that Triton looks at every argument, so as to find the kernel compiled for it, and
builds TMA descriptors. For a known signature the kernel is known, and what is left of the arguments is addresses.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from triton import knobs
from triton.runtime import driver

from latune.ops import direct
from latune.ops.context import ensure_context
from latune.ops.dispatch import Decision
from latune.ops.recording import Address, Allocation, Descriptor, Launch, Recording, Scale, SharedCounters, Tensors

_ALIGNMENT_BYTES = 16


class Replay:
    """Takes the scale and the tensors of a call of the recorded signature, None where one is absent.

    Every call allocates its own outputs. It gathers its values in one list: the inputs' addresses, the scale, the stream,
    the allocations' addresses, the counters', the encoded descriptors, the constants. Each launch then picks its arguments
    from there.

    Attributes:
        decision: whose call was recorded.

    Raises:
        UnsupportedError: this Triton cannot be called directly for these launches.
    """

    def __init__(self, recording: Recording, device: torch.device, decision: Decision) -> None:
        layout = _Layout(recording)
        self.decision = decision
        self._recording = recording  # Triton unloads a compiled kernel that nobody holds.
        self._device = device.index
        self._current_device = driver.active.get_current_device
        self._current_stream = driver.active.get_current_stream
        self._allocate = [_allocator(x, device) for x in recording.allocations]
        self._launches = [(direct.launcher(launch.compiled), layout.arguments(launch)) for launch in recording.launches]
        self._counters = [functools.partial(shared.counters, device, shared.count) for shared in layout.counters]
        self._descriptors = layout.descriptors
        self._constants = layout.constants

    def __call__(self, scale: float, *tensors: Tensor | None) -> Tensors | None:
        """The outputs; None when this call has to take the plain path."""
        if self._current_device() != self._device or _launches_are_watched():
            return None
        ensure_context(self._device)
        values: list[Any] = [x.data_ptr() for x in tensors if x is not None]
        for address in values:
            if address % _ALIGNMENT_BYTES:
                return None
        allocated = [allocate() for allocate in self._allocate]
        values += (scale, self._current_stream(self._device))
        values += [x.data_ptr() for x in allocated]
        values += [counters().data_ptr() for counters in self._counters]
        values += [encode(values[tensor]) for encode, tensor in self._descriptors]
        values += self._constants
        for launch, arguments in self._launches:
            launch(*arguments(values))
        return tuple(allocated[: self._recording.num_outputs])


def is_aligned(tensors: Iterable[Tensor | None]) -> bool:
    """Whether a replay may be recorded with these inputs: a kernel is compiled for aligned addresses, or for others."""
    return all(x is None or x.data_ptr() % _ALIGNMENT_BYTES == 0 for x in tensors)


def _launches_are_watched() -> bool:
    """By a profiler, say, which Triton tells of the launches that it makes itself."""
    enter, leave = knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook
    return not (type(enter) is type(leave) is knobs.HookChain) or bool(enter.calls or leave.calls)


def _allocator(allocation: Allocation, device: torch.device) -> Callable[[], Tensor]:
    return functools.partial(torch.empty_strided, allocation.shape, allocation.strides, dtype=allocation.dtype, device=device)


class _Layout:
    """Where in the list of values each thing is."""

    def __init__(self, recording: Recording) -> None:
        self.counters: list[SharedCounters] = []
        self.descriptors: list[tuple[Callable[[int], object], int]] = []
        self.constants: list[object] = []
        self._num_inputs = self._scale = recording.num_inputs
        self._stream = self._scale + 1
        self._first_counters = self._stream + 1 + len(recording.allocations)
        arguments = [argument for launch in recording.launches for argument in launch.arguments]
        self._first_descriptor = self._first_counters + sum(isinstance(x, SharedCounters) for x in arguments)
        self._first_constant = self._first_descriptor + sum(isinstance(x, Descriptor) for x in arguments)

    def arguments(self, launch: Launch) -> Callable[[list[object]], tuple[object, ...]]:
        """Picks what ``direct.launcher`` takes."""
        compiled = launch.compiled
        no_hooks = (None, None, None)
        places = [*self._constants(*launch.grid), self._stream]
        places += self._constants(compiled.function, compiled.packed_metadata, *no_hooks)
        metadata = direct.descriptor_metadata(compiled) if any(isinstance(x, Descriptor) for x in launch.arguments) else None
        for argument in launch.arguments:
            if isinstance(argument, Descriptor):
                places += self._descriptor(argument, next(metadata))
            else:
                places += self._place(argument)
        return itemgetter(*places)

    def _place(self, argument: object) -> list[int]:
        if isinstance(argument, Address):
            return [self._tensor(argument.tensor)]
        if isinstance(argument, SharedCounters):
            self.counters.append(argument)
            return [self._first_counters + len(self.counters) - 1]
        return [self._scale] if isinstance(argument, Scale) else self._constants(argument)

    def _descriptor(self, descriptor: Descriptor, metadata: dict[str, object]) -> list[int]:
        self.descriptors.append((direct.encoder(descriptor, metadata), self._tensor(descriptor.tensor)))
        place = self._first_descriptor + len(self.descriptors) - 1
        return [place, *self._constants(*descriptor.shape, *descriptor.strides)]

    def _tensor(self, number: int) -> int:
        """Scale and stream lie between inputs and allocations."""
        return number if number < self._num_inputs else number + 2

    def _constants(self, *values: object) -> list[int]:
        first = self._first_constant + len(self.constants)
        self.constants += values
        return list(range(first, first + len(values)))
