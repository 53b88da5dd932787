"""What templates see of one step of a plan, with every structural question already answered."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

from latune.codegen.state_flow import StateFlow
from latune.plan import KERNELS, Kernel

TL_DTYPES = {"bf16": "tl.bfloat16", "fp16": "tl.float16", "fp32": "tl.float32"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorView:
    """A tensor as one kernel sees it.

    Attributes:
        name: of the kernel's argument, and of what it keeps of it.
        source: the tensor's own.
        axis: ``d`` for the key dim, ``e`` for the value dim.
    """

    name: str
    source: str
    axis: str
    padded: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TileView:
    """A tile of the key dim: what the names of its blocks end in ("" where it is the only one), and its first column."""

    suffix: str
    start: str


@dataclass(frozen=True, kw_only=True)
class StepView(StateFlow):
    """One step of a plan, for the templates.

    Attributes:
        follows: another step of the plan comes before it.
        precedes: another one comes after it.
        chained: its kernels are launched before those ahead of them have ended.
        alongside: it has no use for what the steps ahead write, nor for memory that they use.
        may_borrow: the last step, which is another, has no scratch of its own: until then its output's memory is free.
        beside: the first of the streams side by side of which it is one, which makes the segments' states of all.
    """

    follows: bool = False
    precedes: bool = False
    chained: bool = False
    alongside: bool = False
    may_borrow: bool = False
    beside: str = ""

    scan_block: ClassVar[int] = 512
    scan_stages: ClassVar[int] = 4

    @property
    def name(self) -> str:
        return self.step.kernel

    @property
    def borrows(self) -> bool:
        """The states of its segments lie in the memory of what the last step computes."""
        return self.may_borrow and self.makes_states

    @property
    def config(self) -> str:
        return str(self.step.config)

    @property
    def branched(self) -> str:
        """Which products stand under a branch (see products.jinja): ``scores``, ``all``, or "" for none."""
        branched = str(self._values.get("branched", "none"))
        return "" if branched == "none" else branched

    @property
    def reads_all(self) -> bool:
        """Of chunks by themselves: rows that the decay has brought to nothing, too."""
        return self._values.get("rows_read") == "all"

    @property
    def x_with_each(self) -> bool:
        """Likewise: x comes with each chunk that is read, not once ahead of them."""
        return self._values.get("own_rows") == "each"

    @property
    def decay(self) -> str:
        return "none" if self.problem.decay == "none" else str(self._values["decay_mode"])

    @property
    def loads(self) -> str:
        return str(self._values["loads"])

    @property
    def dtype(self) -> str:
        return TL_DTYPES[self.problem.dtype]

    @cached_property
    def tiles(self) -> list[TileView]:
        """The tiles that hold the key dim."""
        starts = ["0", "BLOCK_D", *(f"{number} * BLOCK_D" for number in range(2, self.num_tiles))][: self.num_tiles]
        return [TileView(suffix=str(number) if self.num_tiles > 1 else "", start=start) for number, start in enumerate(starts)]

    def tiles_of(self, tensor: TensorView) -> list[TileView]:
        return self.tiles if tensor.axis == "d" else [TileView(suffix="", start="0")]

    @property
    def launch_options(self) -> list[tuple[str, object]]:
        config = self.step.config
        fixed = [("num_warps", config.num_warps), ("num_stages", config.num_stages), ("enable_fp_fusion", True)]
        return [*fixed, *config.options]

    @property
    def main_options(self) -> list[tuple[str, object]]:
        """Of the main kernel: a specialized one takes STAGES as an argument in place of Triton's num_stages."""
        return [(name, value) for name, value in self.launch_options if not (self.specialized and name == "num_stages")]

    @property
    def states_stages(self) -> int:
        """Of the kernel that makes states of segments: one more than of the main kernel, which loads more tiles a stage."""
        return self.step.config.num_stages + 1

    @property
    def states_options(self) -> list[tuple[str, object]]:
        return [(name, self.states_stages if name == "num_stages" else value) for name, value in self.launch_options]

    def _tensor(self, name: str) -> TensorView:
        wide = self.problem.head_dim_k if name in ("q", "k", "dq", "dk") else self.problem.head_dim_v
        key_dim = name in ("q", "k", "dq", "dk") if self.fused else name in self.kernel.inputs[:2]
        padded = wide % (self.block_d if key_dim else self.block_e) != 0
        argument = f"{self.name}_{name}" if self.beside and name in self.kernel.inputs else name
        return TensorView(name=argument, source=name, axis="d" if key_dim else "e", padded=padded)

    @cached_property
    def streams(self) -> list[StepView]:
        """The streams that the kernel runs side by side; itself where it is one, or a walk of several gradients."""
        if len(self.kernel.streams) < 2:
            return [self]
        first = self.kernel.streams[0]
        return [replace(self, step=replace(self.step, kernel=name), beside=first) for name in self.kernel.streams]

    @cached_property
    def inputs(self) -> list[TensorView]:
        """Of streams side by side, by their roles: they share the memory that theirs are loaded into."""
        if len(self.streams) > 1:
            return [replace(tensor, name=role) for tensor, role in zip(self.streams[0].inputs, "xyz", strict=True)]
        return [self._tensor(name) for name in self.kernel.inputs]

    @cached_property
    def tensors(self) -> list[TensorView]:
        """Inputs, then outputs; of one stream after the other."""
        if len(self.streams) > 1:
            return [tensor for stream in self.streams for tensor in stream.tensors]
        return [*self.inputs, *(self._tensor(name) for name in self.kernel.outputs)]

    def tensor(self, name: str) -> TensorView:
        return self._tensor(name)

    @property
    def x(self) -> TensorView:
        return self.inputs[0]

    @property
    def y(self) -> TensorView:
        """The tensor that contracts with queries, and the state's key side (q where several gradients are computed)."""
        return self._tensor("q") if self.fused else self.inputs[1]

    @property
    def z(self) -> TensorView:
        """The state's value side (do, likewise)."""
        return self._tensor("do") if self.fused else self.inputs[2]

    @property
    def out(self) -> TensorView:
        if len(self.streams) > 1:
            return replace(self.streams[0].out, name="out")
        return self._tensor(self.kernel.outputs[0])

    def block_rows(self, tensor: TensorView) -> int:
        """Rows of its blocks."""
        return self.block_j if self.reads_wide and tensor in (self.y, self.z) else self.block_n

    @property
    def sums(self) -> list[Kernel]:
        """Of each output, the kernel that computes it alone: out is the sum of z, weighed by scores of x and y."""
        return [KERNELS[name] for name in self.kernel.outputs]

    @property
    def decayed_tensor(self) -> str:
        """The source tile that carries the decay into the state update."""
        return (self.y if self._values.get("decayed") == "key" else self.z).name

    @property
    def state_in(self) -> str | None:
        """The given state the walk starts from: the initial one forward, the final one's gradient in reverse."""
        if self.reverse:
            return "dfinal_state" if self.problem.needs_final_state else None
        return "initial_state" if self.problem.has_initial_state else None

    @property
    def loads_start(self) -> bool:
        """The walk of some head, or segment, starts from a state that it loads."""
        return self.passes_states or self.state_in is not None

    @property
    def has_states_of_heads(self) -> bool:
        """A state that the caller gives or wants, or checkpoints: what lies by the number of its head."""
        return self.state_in is not None or self.state_out is not None or self.uses_checkpoints

    @property
    def state_out(self) -> str | None:
        """The state the walk leaves behind, where the caller wants it."""
        if self.name == "o" and self.problem.needs_final_state:
            return "final_state"
        if "dv" in self.kernel.outputs and self.problem.has_initial_state:
            return "dinitial_state"
        return None

    @property
    def key_major(self) -> bool:
        """Given and returned states are [D, E] as this kernel sees them; False: their transpose."""
        return self.kernel.key_dim == "head_dim_k"

    @property
    def stored_key_major(self) -> bool:
        """As ``StateFlow`` has it; among streams side by side the maker's key dim may be the value dim of this one."""
        turned = bool(self.beside) and KERNELS[self.beside].key_dim != self.kernel.key_dim
        return super().stored_key_major != turned

    @property
    def ragged_state(self) -> bool:
        """A state passes the sequence's ragged end, where weights depend on the last chunk's length."""
        return self.state_in is not None if self.reverse else self.state_out is not None

    @property
    def state_padded(self) -> bool:
        return self.y.padded or self.z.padded

    @property
    def reads_initial_state(self) -> bool:
        """One of its kernels does, other than a scan."""
        return "initial_state" in self.states or (self.makes_checkpoints and self.problem.has_initial_state)

    @property
    def states(self) -> list[str]:
        """State arguments of the main kernel, in order, with the counters at which the makers of states meet."""
        given = self.state_in if self.cooperates or not self.scanned else None
        scratch = "segment_states" if self.passes_states else None
        counters = "counters" if self.waits else None
        checkpoints = "checkpoints" if self.uses_checkpoints else None
        return [name for name in (given, self.state_out, scratch, counters, checkpoints) if name]

    @property
    def states_of_walk(self) -> list[str]:
        """Those that a walk of all gradients with warps of its own reads and writes by pointers."""
        return [name for name in self.states if name != "checkpoints"]

    @property
    def uses_columns(self) -> bool:
        """Pointers to tiles or to states are computed in the kernel."""
        return self.loads == "pointer" or bool(self.states)

    whole_lengths: ClassVar[tuple[str, ...]] = ("num_heads", "seqlen")
    """Of a kernel that walks whole heads, whatever the step's others do."""

    @property
    def lengths(self) -> list[str]:
        if self.balanced:
            return [*self.whole_lengths, "num_parts"]
        if self.relayed:
            return [*self.whole_lengths, "total_heads"]
        segments = ["segment_rows", "num_segments"] if self.segmented else []
        return [*self.whole_lengths, *segments, *(["whole_heads"] if self.remainder else [])]

    @property
    def loads_checkpoints(self) -> bool:
        """Into shared memory, by TMA."""
        return self.specialized and self.reads_checkpoints

    @property
    def checkpoint_block(self) -> tuple[int, int]:
        """Rows and columns of a padded one, as it lies in memory."""
        return (self.block_d, self.block_e) if self.checkpoints_key_major else (self.block_e, self.block_d)

    def dot(self, left: str, right: str, acc: str | None = None) -> str:
        """A product with fp32 accumulation; fp32 operands take three TF32 products for fp32 accuracy."""
        precision = ', input_precision="tf32x3"' if self.problem.dtype == "fp32" else ""
        return f"tl.dot({left}, {right}{f', {acc}' if acc else ''}{precision})"
