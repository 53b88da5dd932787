"""What is decided as ``torch.compile`` traces a graph. Only that imports this module, which takes all of its machinery."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import has_static_value

from latune.codegen.dtypes import TORCH_DTYPES
from latune.codegen.kept import layout
from latune.ops import handover
from latune.ops.kernels import Sizes, problem_of


class Place(NamedTuple):
    """The place in a graph of what a forward pass leaves to its backward pass, and the name of what makes it."""

    maker: str
    shape: tuple[int, ...]
    dtype: torch.dtype


def place(q: Tensor, v: Tensor, slopes: Tensor | None, initial_state: Tensor | None, final_state: bool) -> Place | None:
    """None where nothing is kept, and where a size does not stand fast: plans, and so this place, differ from size to size."""
    sizes = (*q.shape, v.shape[3])
    if not all([has_static_value(size) for size in sizes]):
        return None
    return place_of(q.dtype, q.device.index, sizes, slopes is not None, initial_state is not None, final_state)


@torch.compiler.assume_constant_result
def place_of(
    dtype: torch.dtype, device_index: int, sizes: Sizes, decays: bool, has_initial: bool, needs_final: bool
) -> Place | None:
    """None where nothing is kept by the plans that serve these sizes now."""
    problem = problem_of("fwd", dtype, sizes, decays, has_initial, needs_final)
    decision = handover.keeper(problem, device_index)
    if decision is None or decision.refused:
        return None
    shape, dtype_name = layout(decision.plan, problem)
    return Place(handover.name_of(decision, device_index), shape, TORCH_DTYPES[dtype_name])
