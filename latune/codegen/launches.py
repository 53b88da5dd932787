"""What a generated module would launch for a problem, found by running its host function without a GPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor as SharedDescriptor
from triton.runtime.jit import JITFunction
from triton.tools.tensor_descriptor import TensorDescriptor

from latune.codegen.dtypes import TORCH_DTYPES
from latune.codegen.load import with_kernels
from latune.problem import Problem

_POINTER_TYPES = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32", torch.int32: "*i32"}
_ALIGNED = [["tt.divisibility", 16]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One kernel launch.

    Attributes:
        kernel: the jitted function.
        programs: size of the grid.
        signature: Triton type by argument, ``constexpr`` for what is fixed at compile time.
        constants: value by argument of type ``constexpr``.
        aligned: arguments that are multiples of 16 (pointers: 16-byte aligned).
        options: launch options (``num_warps``, ``num_stages``, ...).
    """

    kernel: JITFunction
    programs: int
    signature: dict[str, str]
    constants: dict[str, object]
    aligned: tuple[str, ...]
    options: dict[str, object]

    @property
    def attributes(self) -> dict[tuple[int], list[list[object]]]:
        """Triton's attributes: which arguments, by position, are known to be aligned."""
        return {(self.kernel.arg_names.index(name),): _ALIGNED for name in self.aligned}


def record_launches(module: ModuleType, problem: Problem) -> list[Launch]:
    """Runs the module's host function on tensors without storage and notes its launches instead of making them."""
    launches: list[Launch] = []
    function = getattr(module, {"fwd": "forward", "bwd": "backward"}[problem.direction])
    recorded = with_kernels(function, lambda kernel: _Recorder(kernel, launches.append), lambda _: _meta_counters)
    recorded(**_arguments(function, problem))
    return launches


def _meta_counters(device: torch.device, count: int) -> torch.Tensor:
    return torch.empty(count, dtype=torch.int32, device=device)


class _Recorder:
    """Stands for a jitted function: ``recorder[grid](...)`` notes a launch."""

    def __init__(self, kernel: JITFunction, note: Callable[[Launch], None]) -> None:
        self._kernel = kernel
        self._note = note

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *args, **kwargs: self._note(_launch(self._kernel, math.prod(grid), args, kwargs))


def _launch(kernel: JITFunction, programs: int, args: tuple[object, ...], kwargs: dict[str, object]) -> Launch:
    values = dict(zip(kernel.arg_names, args, strict=False))
    values |= {name: value for name, value in kwargs.items() if name in kernel.arg_names}
    unspecialized = {param.name for param in kernel.params if param.do_not_specialize}
    fixed = {param.name for param in kernel.params if param.is_constexpr}
    fixed |= {name for name, value in values.items() if isinstance(value, int) and value == 1} - unspecialized
    aligned = [name for name, value in values.items() if name not in fixed | unspecialized and _is_aligned(value)]
    return Launch(
        kernel=kernel,
        programs=programs,
        signature={name: "constexpr" if name in fixed else _type_name(values[name]) for name in kernel.arg_names},
        constants={name: values[name] for name in kernel.arg_names if name in fixed},
        aligned=tuple(aligned),
        options={name: value for name, value in kwargs.items() if name not in kernel.arg_names},
    )


def _type_name(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return _POINTER_TYPES[value.dtype]
    if isinstance(value, (TensorDescriptor, SharedDescriptor)):
        layout = f",{value.layout!r}" if isinstance(value, SharedDescriptor) else ""
        return f"tensordesc<{_POINTER_TYPES[value.base.dtype][1:]}{list(value.block_shape)}{layout}>"
    if isinstance(value, float):
        return "fp32"
    return "i32" if -(2**31) <= value < 2**31 else "i64"


def _is_aligned(value: object) -> bool:
    if isinstance(value, torch.Tensor):
        return True
    return isinstance(value, int) and value % 16 == 0


def _arguments(function: Callable[..., object], problem: Problem) -> dict[str, object]:
    heads = (problem.batch, problem.num_heads)
    keys, values = problem.head_dim_k, problem.head_dim_v
    rows, state = (*heads, problem.seqlen), (*heads, keys, values)
    tensor = {
        "q": (*rows, keys),
        "k": (*rows, keys),
        "v": (*rows, values),
        "do": (*rows, values),
        "initial_state": state,
        "dfinal_state": state,
        "slopes": (problem.num_heads,),
        "segment_states": (math.prod(heads), 1, keys * values),
        "checkpoints": (math.prod(heads), 1, keys * values),
    }
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    return {name: _meta(tensor[name], name, problem) if name in tensor else 1.0 for name in names}


def _meta(shape: tuple[int, ...], name: str, problem: Problem) -> torch.Tensor:
    is_fp32 = name.endswith(("state", "states")) or name == "slopes"
    return torch.empty(shape, dtype=torch.float32 if is_fp32 else TORCH_DTYPES[problem.dtype], device="meta")
