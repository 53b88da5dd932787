"""How a step cuts its problem: into chunks of rows, tiles and slices of columns, and segments of the sequence."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from latune.plan import KERNELS, Kernel, Step
from latune.problem import Problem, tile_width

_SEGMENTED = ("split", "scan", "remainder", "cooperative", "balanced")


@dataclass(frozen=True, kw_only=True)
class Partition:
    """The pieces of one step. ``d`` and ``e`` are the widths as its kernel sees them."""

    problem: Problem
    step: Step

    @cached_property
    def kernel(self) -> Kernel:
        return KERNELS[self.step.kernel]

    @cached_property
    def _values(self) -> dict[str, str | int]:
        return self.step.config.values()

    @property
    def algorithm(self) -> str:
        return self.step.config.algorithm

    @property
    def fused(self) -> bool:
        """Several gradients in one walk."""
        return not self.kernel.streams

    @property
    def remainder(self) -> bool:
        """Only heads that are left over are cut into segments."""
        return self.algorithm == "remainder"

    @property
    def balanced(self) -> bool:
        """Heads have segments by their work: those that remember longer have more, and shorter ones."""
        return self.algorithm == "balanced"

    @property
    def relayed(self) -> bool:
        """Programs walk equal shares of all heads' chunks, and hand a state on where a share ends inside a head."""
        return self.algorithm == "relay"

    @property
    def stateless(self) -> bool:
        """Each chunk has a program of its own, which reads all rows that it depends on."""
        return self.algorithm == "parallel"

    @property
    def segmented(self) -> bool:
        """The sequence is cut, of all heads or of some."""
        return self.algorithm in _SEGMENTED

    @property
    def d(self) -> int:
        return self.kernel.dims(self.problem)[0]

    @property
    def e(self) -> int:
        return self.kernel.dims(self.problem)[1]

    @property
    def block_n(self) -> int:
        return int(self._values["BLOCK_N"])

    @property
    def block_j(self) -> int:
        """Rows of y and z that a chunk by itself reads at once."""
        return int(self._values.get("BLOCK_J", self.block_n))

    @property
    def reads_wide(self) -> bool:
        """Those are more than the chunk's own."""
        return self.block_j > self.block_n

    @property
    def block_d(self) -> int:
        return tile_width(self.d) if self.fused else int(self._values["BLOCK_D"])

    @cached_property
    def num_tiles(self) -> int:
        """Of BLOCK_D columns, which hold the key dim in one program."""
        return -(-self.d // self.block_d)

    @property
    def block_e(self) -> int:
        return tile_width(self.e) if self.fused else int(self._values["BLOCK_E"])

    @property
    def num_splits(self) -> int:
        """Slices of the value dim, BLOCK_E columns wide; there is a program for each."""
        return -(-self.e // self.block_e)

    @property
    def checkpoint_rows(self) -> int:
        """From one forward state that outlives its program to the next: two chunks of the kernel that reads them."""
        return int(self._values.get("CHECKPOINT_ROWS", 2 * self.block_n))

    @property
    def programs(self) -> int:
        return int(self._values["PROGRAMS"])

    @property
    def split_heads(self) -> int:
        """Heads of the problem whose sequence is cut; its module makes the same of any batch and number of heads."""
        heads = self.problem.batch_heads
        return heads % (self.programs // self.num_splits) if self.remainder else heads

    @property
    def shares(self) -> int:
        """Of all heads' chunks, likewise; each slice of the value dim has a program for each."""
        return min(self.programs // self.num_splits, self.problem.batch_heads)

    @property
    def segments(self) -> int:
        """Of those heads, likewise."""
        return max(self.programs // max(self.split_heads * self.num_splits, 1), 1)

    @property
    def specialized(self) -> bool:
        """In Gluon, where warps have parts of their own: those that load at least."""
        return self.scores_apart or self._values.get("loads") == "producer"

    @property
    def scores_apart(self) -> bool:
        """Loads, scores and the walk have warps of their own (see specialized.jinja); else those that walk make the scores."""
        return self._values.get("loads") == "specialized"

    @property
    def segment_step(self) -> int:
        """What segments' rows are multiples of: a chunk's, or a checkpoint's, whose two chunks may not part."""
        return self.checkpoint_rows if self.fused and self.specialized else self.block_n

    @property
    def segment_rows(self) -> int:
        """Of each of those segments but the last, likewise."""
        steps = -(-self.problem.seqlen // self.segment_step)
        return -(-steps // self.segments) * self.segment_step
