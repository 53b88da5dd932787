"""Is a generated module right? Every element of every output, poisoned memory, twice the same bits.

A fast candidate that skips work looks like a winner, so nothing is timed before it has passed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from latune.codegen.dtypes import TORCH_DTYPES
from latune.plan import Plan
from latune.problem import Problem
from latune.tuner.cases import Case, Expected, Inputs, small_cases, timed_case

Launch = Callable[[Inputs], tuple[Tensor, ...]]

# Below every normal fp32: lets a flushed denormal equal zero, and keeps ratios finite.
_TINY = 1e-30
_BITS = {2: torch.int16, 4: torch.int32}
# Of an output, compared at once: a step is some dozens of launches, and needs several tensors of so many numbers in fp32.
_PART_ELEMENTS = 2**25


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """What rounding explains, for one dtype of inputs.

    Attributes:
        rms: bound on ||out - ref|| / ||ref|| over one head.
        local: share of the size of the output around an element that it may be off by.
        relative: share of the element's own size that it may be off by, in addition.
    """

    rms: float
    local: float
    relative: float


# One rounding of an operand is at most 2^-9 (bf16), 2^-12 (fp16), about 2^-21 (fp32 as three TF32 products) of it;
# RMS errors come to about one such rounding, the worst of 10^9 elements to seven times that and the output's own.
TOLERANCES = {
    "bf16": Tolerance(rms=1e-2, local=5e-2, relative=2e-2),
    "fp16": Tolerance(rms=2e-3, local=1e-2, relative=4e-3),
    "fp32": Tolerance(rms=1e-5, local=1e-4, relative=1e-4),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The verdict on one module.

    Attributes:
        errors: for each output, its largest relative RMS error over all heads of all cases seen.
        detail: when not ok, the output, the case, the worst element, what it should be and what it was.
    """

    ok: bool
    errors: tuple[tuple[str, float], ...]
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixture:
    """All cases of one problem with their references, made once and used for every candidate.

    Attributes:
        cases: small shapes first, the timed shape last.
    """

    problem: Problem
    cases: tuple[Case, ...]
    fingerprint: int

    @property
    def timed(self) -> Case:
        return self.cases[-1]

    def damaged(self) -> bool:
        """Whether a candidate has written into the inputs or references."""
        return _fingerprint(self.cases) != self.fingerprint


def prepare(problem: Problem, device: torch.device, seed: int, small: Fixture | None = None) -> Fixture:
    """Makes inputs and float64 references for a problem.

    Args:
        small: from ``prepare_small``, for this problem or another with the same ``small_problems``; None: made as well.

    Raises:
        torch.OutOfMemoryError: the problem's inputs and references do not fit on the device.
    """
    small = small or prepare_small(problem, device, seed)
    return _fixture(problem, (*small.cases, timed_case(problem, device, seed)))


def prepare_small(problem: Problem, device: torch.device, seed: int) -> Fixture:
    """As ``prepare``, without the timed shape.

    Raises:
        torch.OutOfMemoryError: as ``prepare``.
    """
    return _fixture(problem, tuple(small_cases(problem, device, seed)))


def _fixture(problem: Problem, cases: tuple[Case, ...]) -> Fixture:
    return Fixture(problem=problem, cases=cases, fingerprint=_fingerprint(cases))


def output_names(problem: Problem, plan: Plan) -> tuple[str, ...]:
    """What the module of a plan returns, in order: the plan's outputs, then a state if there is one."""
    if problem.direction == "fwd":
        return plan.outputs + ("final_state",) * problem.needs_final_state
    return plan.outputs + ("dinitial_state",) * (problem.has_initial_state and "dv" in plan.outputs)


def verify(launch: Launch, plan: Plan, fixture: Fixture) -> Verification:
    """Runs a plan on every case; stops at the first that fails.

    Args:
        launch: of ``plan`` for the fixture's problem; returns the plan's outputs.
    """
    names = output_names(fixture.problem, plan)
    worst = dict.fromkeys(names, 0.0)
    for case in fixture.cases:
        fault = _check_case(launch, case, names, fixture.problem.dtype, worst)
        if fault:
            return Verification(ok=False, errors=tuple(worst.items()), detail=f"{fault} [{case.name}]")
    return Verification(ok=True, errors=tuple(worst.items()))


def _check_case(launch: Launch, case: Case, names: Sequence[str], dtype: str, worst: dict[str, float]) -> str | None:
    """What is wrong in this case, None when nothing is; raises the RMS errors in ``worst``."""
    with poisoned_allocations():
        outputs, again = launch(case.inputs), launch(case.inputs)
    fault = _wrong_form(outputs, case, names, dtype)
    if fault:
        return fault
    for name, output, repeated in zip(names, outputs, again, strict=True):
        worst[name] = max(worst[name], _rms_error(output, case.expected[name].values), key=_nan_last)
        fault = _wrong_element(name, output, case.expected[name], TOLERANCES[dtype], worst[name])
        if fault or not _same_bits(output, repeated):
            return fault or f"{name}: two runs on the same inputs differ"
    return None


@contextmanager
def poisoned_allocations() -> Iterator[None]:
    """Fills every tensor that torch.empty makes with NaN (integers: their maximum), then restores torch's settings."""
    enabled, warn_only = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        torch.utils.deterministic.fill_uninitialized_memory = fill


def _wrong_form(outputs: Sequence[Tensor], case: Case, names: Sequence[str], dtype: str) -> str | None:
    if len(outputs) != len(names):
        return f"expected {len(names)} outputs ({', '.join(names)}), got {len(outputs)}"
    for name, output in zip(names, outputs, strict=True):
        wanted = (tuple(case.expected[name].values.shape), torch.float32 if name.endswith("state") else TORCH_DTYPES[dtype])
        if (tuple(output.shape), output.dtype) != wanted:
            return f"{name}: expected shape and dtype {wanted}, got {(tuple(output.shape), output.dtype)}"
    return None


def _rms_error(output: Tensor, values: Tensor) -> float:
    """The largest relative RMS error of a head, over the batch; NaN when any element is."""
    error = sum(_head_norms(output[part].float() - values[part]) for part in _parts(values))
    size = sum(_head_norms(values[part]) for part in _parts(values))
    return (error.sqrt() / (size.sqrt() + _TINY)).max().item()


def _parts(values: Tensor) -> list[slice]:
    """Batches that are compared at once: as few steps as their size allows."""
    batches = max(1, _PART_ELEMENTS // values[0].numel())
    return [slice(first, first + batches) for first in range(0, len(values), batches)]


def _head_norms(part: Tensor) -> Tensor:
    """Squared norms of each head over the batch, [H] float64."""
    return torch.linalg.vector_norm(part, dim=(0, 2, 3), dtype=torch.float64).square()


def _nan_last(error: float) -> tuple[bool, float]:
    return error != error, error


def _wrong_element(name: str, output: Tensor, expected: Expected, tolerance: Tolerance, rms: float) -> str | None:
    """The worst element against its bound; a NaN is worse than any number."""
    parts = _parts(output)
    excesses = torch.stack([_excess(output, expected, part, tolerance).max() for part in parts])
    excess = excesses.max().item()
    if excess <= 1 and rms <= tolerance.rms:
        return None
    worst = parts[int(excesses.argmax())]
    ratio = _excess(output, expected, worst, tolerance)
    batch, *place = (int(position) for position in torch.unravel_index(ratio.argmax(), ratio.shape))
    index = (worst.start + batch, *place)
    got, wanted = output[index].item(), expected.values[index].item()
    bounds = f"{excess:.3g} times its bound; RMS error {rms:.3g}, allowed {tolerance.rms:.3g}"
    return f"{name}{list(index)}: expected {wanted:.6g}, got {got:.6g} ({bounds})"


def _excess(output: Tensor, expected: Expected, part: slice, tolerance: Tolerance) -> Tensor:
    """How many times its bound each element of some batches is off."""
    values = expected.values[part]
    bound = tolerance.local * expected.scale[..., None] + tolerance.relative * values.abs() + _TINY
    return ((output[part].float() - values).abs() / bound).nan_to_num(nan=torch.inf, posinf=torch.inf)


def _same_bits(output: Tensor, repeated: Tensor) -> bool:
    bits = _BITS[output.element_size()]
    return torch.equal(output.view(bits), repeated.view(bits))


def _fingerprint(cases: Sequence[Case]) -> int:
    """Of all that the cases hold; rows that change places change it, too."""
    total = 0
    for case in cases:
        tensors = [*case.inputs.tensors().values()]
        tensors += [part for expected in case.expected.values() for part in (expected.values, expected.scale)]
        for tensor in tensors:
            rows = tensor.view(_BITS[tensor.element_size()]).sum(-1).flatten()
            places = torch.arange(1, 1 + rows.numel(), device=rows.device)
            total = total * 31 + int((rows * places).sum().item())
    return total
