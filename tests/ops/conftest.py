"""A GPU that notes launches, for tests without one: what Triton would launch, and what is launched directly."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
import triton
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor as SharedDescriptor
from triton.runtime.errors import OutOfResources
from triton.runtime.jit import JITFunction
from triton.tools.tensor_descriptor import TensorDescriptor

from latune.ops import context, direct, dispatch, opaque, replay
from latune.plan import Plan

TMA = {"swizzle": 3, "elem_size": 2, "elem_type": 10, "block_size": [1, 1, 32, 64], "fp4_padded": False}


class Metadata(NamedTuple):
    tensordesc_meta: tuple[dict[str, object], ...] | None


class FakeTriton:
    """Each thread has a CUDA context from ``set_device`` on, and without one no descriptor is encoded.

    Attributes:
        jit: launches by Triton, each as (grid, arguments).
        direct: likewise those that are made directly.
        streams: of direct launches.
        encoded: the addresses of descriptors that were encoded for them.
    """

    def __init__(self) -> None:
        self.jit: list[tuple[tuple[int, ...], list[object]]] = []
        self.direct: list[tuple[tuple[int, ...], list[object]]] = []
        self.streams: list[int] = []
        self.encoded: list[int] = []
        self.device: int | None = None
        self.stream = 7
        self._compiled: dict[object, SimpleNamespace] = {}
        self._thread = threading.local()

    def set_device(self, device: int | None) -> None:
        assert device == self.device, "a device guard is not what this is for"
        self._thread.has_context = True

    def run(self, kernel: JITFunction, *args: object, grid: tuple[int, ...], **kwargs: object) -> SimpleNamespace:
        """In the place of ``JITFunction.run``."""
        bound = {**dict(zip(kernel.arg_names, args, strict=False)), **kwargs}
        values = [bound[name] for name in kernel.arg_names]
        self.jit.append((grid, [part for value in values for part in self._flat(value)]))
        return self._compile(kernel, values)

    def _compile(self, kernel: JITFunction, values: list[object]) -> SimpleNamespace:
        types = ["tensordesc<bf16>" if isinstance(value, (TensorDescriptor, SharedDescriptor)) else "i32" for value in values]
        metadata = Metadata(tuple(TMA for name in types if name != "i32") or None)
        signature = dict(zip(kernel.arg_names, types, strict=True))
        made = dict(src=SimpleNamespace(signature=signature), metadata=metadata, run=self.launch, function=11)
        compiled = _Hashable(**made, packed_metadata=(4, 1, 0))
        return self._compiled.setdefault((kernel, tuple(types)), compiled)

    def launch(self, x, y, z, stream, function, packed, metadata, enter, leave, *arguments):  # type: ignore[no-untyped-def]
        assert (function, packed, metadata, enter, leave) == (11, (4, 1, 0), None, None, None)
        self.streams.append(stream)
        self.direct.append(((x, y, z), list(arguments)))

    def launcher(self, source: SimpleNamespace, metadata: Metadata) -> Callable[..., None]:
        """In the place of Triton's launcher class, for descriptors that are encoded already."""
        assert metadata.tensordesc_meta is None
        assert not any(str(name).startswith("tensordesc") for name in source.signature.values())
        return self.launch

    def encode(self, address: int, swizzle, elem_size, elem_type, block, shape, strides, padding):  # type: ignore[no-untyped-def]
        self._check_context()
        self.encoded.append(address)
        return (address, tuple(shape), tuple(strides))

    def _check_context(self) -> None:
        if not getattr(self._thread, "has_context", False):
            raise RuntimeError("Triton Error [CUDA]: Failed to create tensor map descriptor: invalid device context")

    def _flat(self, value: object) -> list[object]:
        """A launch's argument as a direct launch passes it."""
        if isinstance(value, torch.Tensor):
            return [value.data_ptr()]
        if isinstance(value, (TensorDescriptor, SharedDescriptor)):
            self._check_context()
            layout = (tuple(value.shape), tuple(value.strides))
            return [(value.base.data_ptr(), *layout), *value.shape, *value.strides]
        return [value]


class _Hashable(SimpleNamespace):
    __hash__ = object.__hash__


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTriton:
    """CPU tensors stand for a GPU's; their device has the index None."""
    gpu = FakeTriton()
    utils = SimpleNamespace(fill_tma_descriptor=gpu.encode)
    active = SimpleNamespace(
        get_current_device=lambda: gpu.device,
        get_current_stream=lambda device: gpu.stream,
        utils=utils,
        launcher_cls=gpu.launcher,
    )
    monkeypatch.setattr(torch.cuda, "set_device", gpu.set_device)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(context, "_thread", context._Thread())
    monkeypatch.setattr(JITFunction, "run", lambda kernel, *args, **kwargs: gpu.run(kernel, *args, **kwargs))
    for module in (direct, replay, triton.runtime):
        monkeypatch.setattr(module, "driver", SimpleNamespace(active=active))
    direct.launcher.cache_clear()
    return gpu


@pytest.fixture
def serve(fake: FakeTriton, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., FakeTriton]]:
    """The fake GPU; called with forward and backward plans, the first of each serves until it fails."""
    monkeypatch.setattr(dispatch, "device_gpu", lambda index: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: None)

    def serving(ahead: tuple[Plan, ...], behind: tuple[Plan, ...]):
        def resolve(problem, gpu):
            plans = ahead if problem.direction == "fwd" else behind
            return SimpleNamespace(step="exact", entry=None, candidates=iter([(plan, "a plan") for plan in plans]))

        monkeypatch.setattr(dispatch, "resolve", resolve)
        dispatch.forget_decisions()
        return fake

    yield serving
    dispatch.forget_decisions()
    opaque._failed.clear()


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[weakref.ref[OutOfResources]]]:
    """Called with a choice: no module with it launches from then on, but by replays. Returns what refers to the errors."""

    def refusing(choice: str) -> list[weakref.ref[OutOfResources]]:
        errors = []
        launch = JITFunction.run

        def run(jit, *arguments, **options):  # type: ignore[no-untyped-def]
            if f" {choice} " in Path(jit.fn.__code__.co_filename).read_text():
                # A cycle of error and frame, as compilers leave some.
                error = OutOfResources(300_000, 232_448, "shared memory")
                errors.append(weakref.ref(error))
                raise error
            return launch(jit, *arguments, **options)

        monkeypatch.setattr(JITFunction, "run", run)
        return errors

    return refusing


@pytest.fixture
def only(monkeypatch):
    """Has two plans, a forward and a backward one, serve every problem."""

    def serve(forward, backward):
        def resolve(problem, gpu):
            candidates = iter([(forward if problem.direction == "fwd" else backward, "a plan")])
            return SimpleNamespace(step="exact", entry=None, candidates=candidates)

        monkeypatch.setattr(dispatch, "resolve", resolve)
        dispatch.forget_decisions()

    yield serve
    dispatch.forget_decisions()
