"""What a generated module is verified on: inputs of several shapes, and float64 references of every output.

Inputs are random normal and scaled so that a head without decay and a head that forgets at once both have outputs
of moderate size; errors are judged against the size the output has *there* (``Expected.scale``), because without
decay it grows with the square root of time, and a bound made for the last row would let anything pass in the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from latune.codegen.dtypes import TORCH_DTYPES
from latune.ops import reference
from latune.problem import Problem

if TYPE_CHECKING:
    from types import ModuleType

# No decay, ALiBi's range, and slopes whose l^C underflows to zero.
_EDGE_SLOPES = (0.0, 200.0, 0.0039, 0.84, 30.0)
# Not 1, so that a module that forgets it, or applies it twice, is wrong.
_SCALE = 0.75
# batch, seqlen, strided: a ragged tail after full chunks; one token; one short of a chunk; one past it; more heads than an
# H200 has SMs, so that programs which share heads, or wait for one another, do so at other lengths than the timed one, too.
_SMALL = ((2, 3 * 128 + 17, True), (8, 1, False), (1, 63, False), (1, 129, True), (27, 150, True))
# Elements of one float64 tensor of a reference; on a GPU more where its memory allows: fewer slices, fewer launches.
_SLICE_ELEMENTS = 2**25
_SLICE_MEMORY_SHARE = 1 / 64
# Longer than a kernel's: what a reference takes is the launches of its chunks.
_CHUNK = 256
_WINDOW = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """The tensors of one call, named as the generated modules name them; None where the problem has none."""

    q: Tensor
    k: Tensor
    v: Tensor
    slopes: Tensor | None
    scale: float
    do: Tensor | None = None
    initial_state: Tensor | None = None
    dfinal_state: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def launch(self, module: ModuleType) -> tuple[Tensor, ...]:
        """Runs the module's one host function; what the problem does not have is not passed."""
        forward = (self.q, self.k, self.v, self.slopes, self.scale, self.initial_state)
        backward = (self.q, self.k, self.v, self.slopes, self.scale, self.do, self.initial_state, self.dfinal_state)
        function, arguments = (module.forward, forward) if self.do is None else (module.backward, backward)
        return function(*(argument for argument in arguments if argument is not None))

    @property
    def without_gradients(self) -> Inputs:
        """Those of the forward pass before a backward one."""
        return replace(self, do=None, dfinal_state=None)

    def clone(self) -> Inputs:
        return replace(self, **{name: tensor.clone() for name, tensor in self.tensors().items()})

    def copies(self, count: int) -> list[Inputs]:
        """So many sets of the same numbers, itself the first."""
        return [self, *(self.clone() for _ in range(count - 1))]

    @property
    def bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors().values())

    def part(self, batches: slice, heads: slice) -> Inputs:
        """Some heads of some batches, in float64."""
        parts = {name: tensor[batches, heads].double() for name, tensor in self.tensors().items() if name != "slopes"}
        return replace(self, slopes=None if self.slopes is None else self.slopes[heads], **parts)

    def reference(self) -> dict[str, Tensor]:
        """Every output of the call in this object's dtype, by name."""
        if self.do is None:
            o, final_state = reference.chunked(
                self.q, self.k, self.v, self.slopes, scale=self.scale, initial_state=self.initial_state, chunk=_CHUNK
            )
            return {"o": o, "final_state": final_state}
        names = ("dq", "dk", "dv", "dinitial_state")
        values = reference.gradients(
            self.q, self.k, self.v, self.slopes, self.scale, self.do, self.initial_state, self.dfinal_state, chunk=_CHUNK
        )
        return {name: value for name, value in zip(names, values, strict=True) if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """One output's reference.

    Attributes:
        values: fp32, of the output's shape.
        scale: root mean square of the values around each row, over the batch, [H, rows]: the size errors are judged by.
    """

    values: Tensor
    scale: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One shape to verify: its inputs and what every output must be."""

    name: str
    inputs: Inputs
    expected: Mapping[str, Expected]


def small_problems(problem: Problem) -> list[Problem]:
    """Short, ragged shapes with the problem's head dims, dtype and flags."""
    return [replace(problem, batch=batch, num_heads=len(_EDGE_SLOPES), seqlen=seqlen) for batch, seqlen, _ in _SMALL]


def small_cases(problem: Problem, device: torch.device, seed: int) -> Iterator[Case]:
    """Of ``small_problems``; the same numbers on every device."""
    for index, (shape, (*_, strided)) in enumerate(zip(small_problems(problem), _SMALL, strict=True)):
        inputs = _inputs(shape, torch.device("cpu"), seed + index, _EDGE_SLOPES, strided=strided)
        moved = replace(inputs, **{name: tensor.to(device) for name, tensor in inputs.tensors().items()})
        layout = "[B, N, H, D] transposed" if strided else "contiguous"
        yield _case(f"B={shape.batch} H={shape.num_heads} N={shape.seqlen} {layout}", moved)


def timed_case(problem: Problem, device: torch.device, seed: int) -> Case:
    """The problem's own shape, contiguous, made on the device, with the slopes of a model: ALiBi's, 2^(-8(h+1)/H)."""
    slopes = [2 ** (-8 * (head + 1) / problem.num_heads) for head in range(problem.num_heads)]
    inputs = _inputs(problem, device, seed, slopes, strided=False)
    return _case(f"B={problem.batch} H={problem.num_heads} N={problem.seqlen} as timed", inputs)


def _inputs(problem: Problem, device: torch.device, seed: int, slopes: Sequence[float], *, strided: bool) -> Inputs:
    generator = torch.Generator(device).manual_seed(seed)
    batch, heads, seqlen, d, e = problem.batch, problem.num_heads, problem.seqlen, problem.head_dim_k, problem.head_dim_v

    def normal(*shape: int, width: int = 1) -> Tensor:
        return torch.randn(shape, generator=generator, device=device).mul_(width**-0.5)

    def rows(features: int, width: int = 1) -> Tensor:
        if strided:
            return normal(batch, seqlen, heads, features, width=width).to(TORCH_DTYPES[problem.dtype]).transpose(1, 2)
        return normal(batch, heads, seqlen, features, width=width).to(TORCH_DTYPES[problem.dtype])

    backward = problem.direction == "bwd"
    return Inputs(
        q=rows(d),
        k=rows(d, width=d),
        v=rows(e),
        slopes=None if problem.decay == "none" else torch.tensor(slopes, dtype=torch.float32, device=device),
        scale=_SCALE,
        do=rows(e, width=e) if backward else None,
        initial_state=normal(batch, heads, d, e, width=d) if problem.has_initial_state else None,
        dfinal_state=normal(batch, heads, d, e, width=e) if backward and problem.needs_final_state else None,
    )


def _case(name: str, inputs: Inputs) -> Case:
    return Case(name=name, inputs=inputs, expected=_expected(inputs))


def _expected(inputs: Inputs) -> dict[str, Expected]:
    """References computed in float64 a few heads at a time, so that a long sequence fits."""
    values: dict[str, Tensor] = {}
    energy: dict[str, Tensor] = {}
    batch, num_heads = inputs.q.shape[:2]
    for batches, heads in _slices(inputs):
        for name, part in inputs.part(batches, heads).reference().items():
            if name not in values:
                values[name] = torch.zeros(batch, num_heads, *part.shape[2:], device=part.device)
                energy[name] = torch.zeros(num_heads, part.shape[2], device=part.device, dtype=torch.float64)
            values[name][batches, heads] = part
            energy[name][heads] += part.square().mean(-1).sum(0) / batch
    return {name: Expected(values=values[name], scale=_smooth(energy[name]).sqrt().float()) for name in values}


def _slices(inputs: Inputs) -> Iterator[tuple[slice, slice]]:
    """Batches and heads: several whole batches, or some heads of one."""
    batch, num_heads, seqlen, d = inputs.q.shape
    most_heads = max(1, _slice_elements(inputs.q.device) // (seqlen * max(d, inputs.v.shape[-1])))
    batches = max(1, most_heads // num_heads)
    for first in range(0, batch, batches):
        for start in range(0, num_heads, most_heads):
            yield slice(first, first + batches), slice(start, start + most_heads)


def _slice_elements(device: torch.device) -> int:
    if device.type != "cuda":
        return _SLICE_ELEMENTS
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return max(_SLICE_ELEMENTS, int(free_bytes * _SLICE_MEMORY_SHARE) // torch.float64.itemsize)


def _smooth(energy: Tensor) -> Tensor:
    """Mean over the rows within ``_WINDOW`` of each, [H, rows] float64."""
    rows = torch.arange(energy.shape[1], device=energy.device)
    low, high = (rows - _WINDOW).clamp(min=0), (rows + _WINDOW + 1).clamp(max=energy.shape[1])
    total = torch.nn.functional.pad(energy.cumsum(1), (1, 0))
    return ((total[:, high] - total[:, low]) / (high - low)).clamp(min=0)
