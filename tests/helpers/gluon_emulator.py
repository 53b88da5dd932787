"""Runs a generated module of specialized warps as text, on the CPU and in float64, to find errors of order and of arithmetic.

Warps take turns at random. What is asynchronous happens as late as it may or at once: a buffer that is being written holds
NaN, a product or a store reads its operands in shared memory when it is waited for, and a load reads when its values are first
used. So a read too early, or a buffer reused too early, is a wrong result under some seed.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import types
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch
from gluon_memory import BarrierLayout, Barriers, Counters, Descriptor, Loaded, Pointer, Shared, load, store
from gluon_text import CAST, cast, plain
from warps import Barrier, Partition, Scheduler

from latune.codegen.load import COUNTERS

# A product or a store is late this often, else it is done at once.
_LATE = 0.7


def emulated(text: str, seed: int) -> dict[str, Callable[..., Any]]:
    """The names a rendered module defines, among them its host function, for float64 tensors on the CPU.

    Args:
        seed: of the order in which warps run and transfers end.
    """
    names = _Device(Random(seed)).names()
    for part in plain(text):
        exec(part, names)
    if COUNTERS in names:
        names[COUNTERS] = Counters().of
    return names


@dataclass(eq=False)
class _Product:
    """A product in flight, perhaps added to another. It has its result once, and from what its operands are then."""

    left: np.ndarray | Shared
    right: Shared
    accumulator: Any
    _result: np.ndarray | None = None

    def result(self) -> np.ndarray:
        if self._result is None:
            left = self.left.values if isinstance(self.left, Shared) else self.left
            accumulator = self.accumulator.result() if isinstance(self.accumulator, _Product) else self.accumulator
            self._result = left @ self.right.values + accumulator
        return self._result


class _Kernel:
    """A jitted function, which others call, or the host launches on a grid."""

    def __init__(self, function: Callable[..., Any], device: _Device) -> None:
        self._function = function
        self._device = device

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*arguments: Any, **keywords: Any) -> None:
            parameters = inspect.signature(self._function).parameters
            constexprs = {name: value for name, value in keywords.items() if name in parameters}
            pointers = [
                Pointer(value.view(-1).numpy(), lent=name == "segment_states" and value.ndim == 4)
                if isinstance(value, torch.Tensor)
                else value
                for name, value in zip(parameters, arguments, strict=False)
            ]
            with self._device.together() if keywords.get("launch_cooperative_grid") else contextlib.nullcontext():
                self._device.grid = grid
                for program in itertools.product(*map(range, grid)):
                    self._device.program = program
                    self._function(*pointers, **constexprs)

        return launch


class _Device:
    """What generated text imports: Triton, Gluon and PyTorch, as far as such text uses them."""

    def __init__(self, random: Random) -> None:
        self.program: tuple[int, ...] = ()
        self.grid: tuple[int, ...] = ()
        self._random = random
        self._scheduler = Scheduler(random)
        self._together: list[Callable[[], None]] | None = None
        self._programs: dict[Partition | None, tuple[int, ...]] = {}
        self._polled: dict[Partition | None, int] = {}
        self._products: dict[Partition | None, deque[_Product]] = defaultdict(deque)
        self._stores: dict[Partition | None, list[Callable[[], None]]] = defaultdict(list)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """The parts of all programs that are launched meanwhile take turns with one another; else those of one at a time."""
        self._together = []
        yield
        works, self._together = self._together, None
        self._run(works)

    def names(self) -> dict[str, Any]:
        """The globals of an emulated module."""
        language = self._language()
        return {
            CAST: cast,
            "torch": types.SimpleNamespace(
                **{**vars(torch), "empty": _poisoned(torch.empty), "empty_like": _poisoned(torch.empty_like)}
            ),
            "triton": types.SimpleNamespace(jit=self._jit, cdiv=_cdiv),
            "tl": language,
            "gl": language,
            "gluon": types.SimpleNamespace(jit=self._jit),
            "fence_async_shared": _nothing,
            "mbarrier": types.SimpleNamespace(
                MBarrierLayout=BarrierLayout,
                init=Barrier.init,
                expect=Barrier.expect,
                wait=self._wait,
                arrive=self._arrive,
            ),
            "tma": types.SimpleNamespace(
                async_load=self._load_block, async_store=self._store_block, store_wait=self._wait_for_stores
            ),
            "warpgroup_mma": self._multiply,
            "warpgroup_mma_wait": self._wait_for_products,
            "SharedDescriptor": Descriptor,
            "TensorDescriptor": Descriptor,
        }

    def _language(self) -> types.SimpleNamespace:
        """``tl`` and ``gl``: layouts are None, and of dtypes only int32 counts."""
        dtypes = {name: name for name in ("bfloat16", "float16", "float32", "int32", "int64")}
        kinds = ("NVMMADistributedLayout", "BlockedLayout", "SliceLayout", "DotOperandLayout", "SwizzledSharedLayout")
        layouts = dict.fromkeys(kinds, _nothing)
        return types.SimpleNamespace(
            **dtypes,
            **layouts,
            NVMMASharedLayout=types.SimpleNamespace(get_default_for=_nothing),
            extra=types.SimpleNamespace(cuda=types.SimpleNamespace(gdc_wait=_nothing, gdc_launch_dependents=_nothing)),
            abs=np.abs,
            exp2=np.exp2,
            maximum=np.maximum,
            minimum=np.minimum,
            pointer_type=_nothing,
            trans=np.transpose,
            where=np.where,
            arange=lambda start, stop, layout=None: np.arange(start, stop),
            zeros=lambda shape, dtype, layout=None: np.zeros(shape),
            cdiv=_cdiv,
            constexpr=lambda value: value,
            convert_layout=lambda value, layout: value,
            inline_asm_elementwise=_as_it_is,
            dot=lambda left, right, accumulator=0.0: left @ right + accumulator,
            ceil=np.ceil,
            sum=np.sum,
            max=np.max,
            min=np.min,
            associative_scan=_scanned,
            load=load,
            store=store,
            permute=np.transpose,
            num_warps=lambda: 4,
            program_id=lambda axis: self._programs.get(self._scheduler.current, self.program)[axis],
            num_programs=lambda axis: self.grid[axis],
            range=lambda *bounds, **options: range(*bounds),
            static_range=range,
            atomic_add=self._add,
            barrier=_nothing,
            allocate_shared_memory=self._allocate,
            warp_specialize=self._specialize,
        )

    def _jit(self, function: Callable[..., None] | None = None, **options: Any) -> Any:
        return _Kernel(function, self) if function else self._jit

    def _allocate(self, dtype: Any, shape: list[int], layout: Any) -> Shared | Barriers:
        if isinstance(layout, BarrierLayout):
            return Barriers(shape[0])
        return Shared(np.full(shape, np.nan), self._scheduler)

    def _specialize(
        self, parts: list[tuple[_Kernel, tuple[Any, ...]]], worker_num_warps: list[int], worker_num_regs: list[int]
    ) -> None:
        assert len(parts) - 1 == len(worker_num_warps) == len(worker_num_regs)
        program = self.program

        def work(part: _Kernel, arguments: tuple[Any, ...]) -> None:
            self._programs[self._scheduler.current] = program
            part(*arguments)

        works = [functools.partial(work, part, arguments) for part, arguments in parts]
        if self._together is None:
            self._run(works)
        else:
            self._together += works

    def _run(self, works: list[Callable[[], None]]) -> None:
        self._scheduler.run(*works)
        assert not any(self._products.values()) and not any(self._stores.values()), "a part ends with work in flight"

    def _wait(self, barrier: Barrier, parity: int) -> None:
        self._scheduler.pause(lambda: barrier.phase % 2 != parity)

    def _arrive(self, barrier: Barrier, count: int) -> None:
        self._scheduler.pause()
        barrier.arrive(count)
        self._scheduler.pause()

    def _add(self, counter: Pointer, value: int) -> int:
        """Of zero, is a poll: the next one comes when there is something new."""
        current = self._scheduler.current
        before = self._polled.pop(current, None)
        self._scheduler.pause(lambda: value > 0 or counter.elements[counter.offsets] != before)
        found = int(counter.elements[counter.offsets])
        counter.elements[counter.offsets] += value
        if value == 0:
            self._polled[current] = found
        self._scheduler.pause()
        return found

    def _load_block(self, source: Descriptor, corner: list[int], barrier: Barrier, target: Shared) -> None:
        def transfer() -> None:
            target.values[...] = source.load(corner)
            barrier.receive(source.block_type.nbytes)

        target.values[...] = np.nan
        self._scheduler.later(transfer)
        self._scheduler.pause()

    def _store_block(self, target: Descriptor, corner: list[int], source: Shared) -> None:
        self._scheduler.pause()
        if self._late():
            self._stores[self._scheduler.current].append(lambda: target.store(corner, source.values))
        else:
            target.store(corner, source.values)

    def _wait_for_stores(self, pending: int) -> None:
        assert pending == 0
        stores = self._stores[self._scheduler.current]
        while stores:
            stores.pop()()
        self._scheduler.pause()

    def _multiply(
        self, left: np.ndarray | Shared, right: Shared, accumulator: Any, use_acc: bool = True, is_async: bool = False
    ) -> _Product:
        assert is_async and isinstance(right, Shared)
        self._scheduler.pause()
        if isinstance(left, Loaded):
            left = np.asarray(left)
        if isinstance(accumulator, Loaded):
            accumulator = np.asarray(accumulator)
        product = _Product(left, right, accumulator if use_acc else 0.0)
        if not self._late():
            product.result()
        self._products[self._scheduler.current].append(product)
        return product

    def _wait_for_products(self, pending: int, deps: list[_Product]) -> np.ndarray | tuple[np.ndarray, ...]:
        self._scheduler.pause()
        products = self._products[self._scheduler.current]
        while len(products) > pending:
            products.popleft().result()
        assert not any(product in products for product in deps), "still in flight"
        results = tuple(product.result() for product in deps)
        return results if len(results) > 1 else results[0]

    def _late(self) -> bool:
        return self._random.random() < _LATE


def _poisoned(allocate: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """``allocate`` with NaN in what it has not written."""
    return lambda *arguments, **options: allocate(*arguments, **options).fill_(torch.nan)


def _scanned(values: np.ndarray, axis: int, combine: Callable[[Any, Any], Any]) -> np.ndarray:
    assert axis == 0
    return np.array(list(itertools.accumulate(values, combine)))


def _cdiv(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)


def _as_it_is(
    assembly: str, constraints: str, operands: list[np.ndarray], dtype: np.dtype, is_pure: bool, pack: int
) -> np.ndarray:
    """Of all inline assembly, what moves its operand."""
    assert assembly == "mov.b32 $0, $1;" and len(operands) == 1
    return operands[0]


def _nothing(*arguments: Any) -> None:
    """A fence, or a layout: neither has an effect on values here."""
