"""What is to be computed: the problem a kernel is generated for, and the bucket it is cached under."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace

DIRECTIONS = ("fwd", "bwd")
DECAYS = ("none", "constant")
OPS = ("lightning_attn",)
DTYPE_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}

_SMALLEST_TILE = 16
MAX_HEAD_DIM = 256
HEAD_DIM_STEP = 16
"""Kernels are generated for head dims that are multiples of it; the operator pads others with zeros."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Bucket:
    """The cache's key: ``batch * num_heads`` in quarters of an octave, ``seqlen`` in powers of two, all else exact.

    Programs are made of heads, and run in waves: in two segments each, 64 heads fill the SMs of an H200, and 48 leave a quarter
    of them idle.
    """

    op: str
    direction: str
    decay: str
    dtype: str
    batch_heads: int
    seqlen: int
    head_dim_k: int
    head_dim_v: int
    has_initial_state: bool = False
    needs_final_state: bool = False
    varlen: bool = False

    def to_json(self) -> dict[str, object]:
        return asdict(self)

    def problem(self) -> Problem:
        """A problem that stands for the whole bucket (one batch, ``batch_heads`` heads)."""
        fields = self.to_json()
        return Problem(batch=1, num_heads=fields.pop("batch_heads"), **fields)

    @property
    def unsized(self) -> Bucket:
        """That of one head and one row: it stands for all that differ from it in no more, which are served by the same code."""
        return replace(self, batch_heads=1, seqlen=1)

    def smallest_problem(self) -> Problem:
        """Of the problems that the bucket serves, the one (of a single batch) with the fewest heads and rows."""
        return replace(self.problem(), num_heads=_fewest(self.batch_heads), seqlen=math.ceil(self.seqlen / math.sqrt(2)))

    def __str__(self) -> str:
        flags = [name for name in ("has_initial_state", "needs_final_state", "varlen") if getattr(self, name)]
        dims = f"bh{self.batch_heads} n{self.seqlen} d{self.head_dim_k} e{self.head_dim_v}"
        return " ".join([self.direction, dims, self.dtype, f"decay={self.decay}", *flags])


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Problem:
    """One call of an operator in one direction.

    Attributes:
        direction: ``fwd`` or ``bwd``.
        decay: ``none`` or ``constant`` (one slope a head).
        dtype: dtype of q, k, v and their gradients: ``bf16``, ``fp16`` or ``fp32``.
        head_dim_k: D, the width of q and k.
        head_dim_v: E, the width of v and o.
        has_initial_state: forward reads an initial state; backward returns its gradient.
        needs_final_state: forward returns the final state; backward takes its gradient.
    """

    direction: str
    decay: str
    dtype: str
    batch: int
    num_heads: int
    seqlen: int
    head_dim_k: int
    head_dim_v: int
    has_initial_state: bool = False
    needs_final_state: bool = False
    varlen: bool = False
    op: str = "lightning_attn"

    def __post_init__(self) -> None:
        _expect_one_of("op", self.op, OPS)
        _expect_one_of("direction", self.direction, DIRECTIONS)
        _expect_one_of("decay", self.decay, DECAYS)
        _expect_one_of("dtype", self.dtype, DTYPE_BYTES)
        for name in ("batch", "num_heads", "seqlen", "head_dim_k", "head_dim_v"):
            size = getattr(self, name)
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"problem: expected {name} to be a whole number >= 1, got {size!r}")
            if name.startswith("head_dim") and size > MAX_HEAD_DIM:
                raise ValueError(f"problem: expected {name} <= {MAX_HEAD_DIM}, got {size}; split the head or project it down")

    @property
    def batch_heads(self) -> int:
        return self.batch * self.num_heads

    @property
    def dtype_bytes(self) -> int:
        return DTYPE_BYTES[self.dtype]

    @property
    def compulsory_bytes(self) -> int:
        """Bytes no implementation can avoid: every input read once, every output written once.

        Forward reads q, k, v and writes o; backward reads q, k, v, do and writes dq, dk, dv.
        fp32 states [B, H, D, E] are counted where the flags ask for them.
        """
        rows = self.batch_heads * self.seqlen * self.dtype_bytes
        widths = {"fwd": 2 * self.head_dim_k + 2 * self.head_dim_v, "bwd": 4 * self.head_dim_k + 3 * self.head_dim_v}
        state = 4 * self.batch_heads * self.head_dim_k * self.head_dim_v
        return rows * widths[self.direction] + state * self._states_moved()

    def _states_moved(self) -> int:
        initial = {"fwd": 1, "bwd": 2}[self.direction] * self.has_initial_state
        return initial + self.needs_final_state

    def bucket(self) -> Bucket:
        return Bucket(
            op=self.op,
            direction=self.direction,
            decay=self.decay,
            dtype=self.dtype,
            batch_heads=quarter_above(self.batch_heads),
            seqlen=nearest_power_of_two(self.seqlen),
            head_dim_k=self.head_dim_k,
            head_dim_v=self.head_dim_v,
            has_initial_state=self.has_initial_state,
            needs_final_state=self.needs_final_state,
            varlen=self.varlen,
        )

    def padded(self) -> Problem:
        """The problem that the operator runs in its place: head dims rounded up to a multiple of ``HEAD_DIM_STEP``."""
        head_dim_k, head_dim_v = (size + -size % HEAD_DIM_STEP for size in (self.head_dim_k, self.head_dim_v))
        return replace(self, head_dim_k=head_dim_k, head_dim_v=head_dim_v)

    def __str__(self) -> str:
        shape = f"{self.batch},{self.num_heads},{self.seqlen},{self.head_dim_k},{self.head_dim_v}"
        return f"{self.direction} {shape} {self.dtype} decay={self.decay}"


def nearest_power_of_two(value: int) -> int:
    """The power of two nearest to ``value`` on a logarithmic scale (1000 -> 1024, 1100 -> 1024)."""
    return 1 << round(math.log2(value))


def quarter_above(value: int) -> int:
    """Of 1, 2, ..., 8, 10, 12, 14, 16, 20, ... (each octave in four steps alike) the first that holds ``value`` (36 -> 40).

    Up, since what is a little more than the GPU runs at a time runs as twice as much does; a thirty-second more is held,
    since GPUs have that many more SMs than a power of two (132 -> 128).
    """
    power = 1 << (value.bit_length() - 1)
    return next(step for quarters in range(4, 9) if value <= _most(step := power * quarters // 4))


def _most(step: int) -> int:
    """The most heads that a step holds."""
    return 33 * step // 32


def _fewest(step: int) -> int:
    """One more than the step below holds."""
    power = 1 << (step.bit_length() - 1)
    below = step - max(power // 4, 1) if step > power else 7 * power // 8
    return _most(below) + 1


def next_power_of_two(value: int) -> int:
    return 1 << (value - 1).bit_length()


def tile_width(head_dim: int) -> int:
    """The side of the tile that holds a head dim whole: a power of two, and no less than ``tl.dot`` takes."""
    return max(_SMALLEST_TILE, next_power_of_two(head_dim))


def _expect_one_of(name: str, value: str, known: object) -> None:
    if value not in known:  # type: ignore[operator]
        raise ValueError(f"problem: expected {name} to be one of {', '.join(known)}, got {value!r}")  # type: ignore[arg-type]
