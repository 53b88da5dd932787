"""Shapes as the command line writes them, and the problems they stand for."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from dataclasses import dataclass

from latune.problem import DIRECTIONS, HEAD_DIM_STEP, MAX_HEAD_DIM, Problem

EXAMPLE = "4,32,8192,128"
# Sizes of tensors are 64-bit numbers, and cache files hold none above it.
_MOST = 2**53


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """B, H, N, D and E."""

    batch: int
    num_heads: int
    seqlen: int
    head_dim_k: int
    head_dim_v: int

    def problem(
        self, *, direction: str, decay: str, dtype: str, initial_state: bool = False, final_state: bool = False
    ) -> Problem:
        return Problem(
            direction=direction,
            decay=decay,
            dtype=dtype,
            batch=self.batch,
            num_heads=self.num_heads,
            seqlen=self.seqlen,
            head_dim_k=self.head_dim_k,
            head_dim_v=self.head_dim_v,
            has_initial_state=initial_state,
            needs_final_state=final_state,
        )

    def __str__(self) -> str:
        sizes = [self.batch, self.num_heads, self.seqlen, self.head_dim_k]
        return ",".join(map(str, sizes if self.head_dim_v == self.head_dim_k else [*sizes, self.head_dim_v]))


def parse_shape(text: str) -> Shape:
    """A shape from ``B,H,N,D[,E]``.

    Raises:
        ValueError: the text is no such shape; the message has an example.
    """
    parts = text.split(",")
    if len(parts) not in (4, 5) or not all(map(_is_size, parts)):
        raise ValueError(
            f"expected B,H,N,D or B,H,N,D,E in whole numbers from 1 to {_MOST}, such as {EXAMPLE}, got {reprlib.repr(text)}"
        )
    batch, num_heads, seqlen, *head_dims = map(int, parts)
    for head_dim in head_dims:
        _check_head_dim(head_dim, text)
    return Shape(batch=batch, num_heads=num_heads, seqlen=seqlen, head_dim_k=head_dims[0], head_dim_v=head_dims[-1])


def _is_size(part: str) -> bool:
    digits = part.strip()
    return digits.isdecimal() and len(digits) <= len(str(_MOST)) and 0 < int(digits) <= _MOST


def shape_of(problem: Problem) -> Shape:
    return Shape(
        batch=problem.batch,
        num_heads=problem.num_heads,
        seqlen=problem.seqlen,
        head_dim_k=problem.head_dim_k,
        head_dim_v=problem.head_dim_v,
    )


def problems_of(
    shapes: Iterable[Shape],
    *,
    direction: str,
    dtype: str,
    decay: str,
    initial_state: bool = False,
    final_state: bool = False,
) -> list[Problem]:
    """A problem for each shape and each direction (``both`` is forward, then backward), without repeats."""
    directions = DIRECTIONS if direction == "both" else (direction,)
    problems = [
        shape.problem(direction=one, decay=decay, dtype=dtype, initial_state=initial_state, final_state=final_state)
        for shape in shapes
        for one in directions
    ]
    return list(dict.fromkeys(problems))


def _check_head_dim(head_dim: int, text: str) -> None:
    if head_dim > MAX_HEAD_DIM:
        raise ValueError(f"expected head dims of at most {MAX_HEAD_DIM}, such as {EXAMPLE}, got {text!r}")
    if head_dim % HEAD_DIM_STEP:
        padded = head_dim + -head_dim % HEAD_DIM_STEP
        raise ValueError(
            f"expected head dims that are multiples of {HEAD_DIM_STEP}, such as {EXAMPLE}, got {text!r}; "
            f"lightning_attn pads {head_dim} to {padded}: give {padded}"
        )
