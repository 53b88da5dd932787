"""What each launch of a step has to move and to compute, from its config alone (no compiled kernel, no rates)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from latune.codegen.step_view import StepView
from latune.gpu import Gpu

# Of what a split over BLOCK_E reads once more, the share that is no longer in the L2: programs of one head drift apart.
_MISSED_REREADS = 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The work of one launch.

    Attributes:
        dram_bytes: moved from and to device memory by the whole launch.
        l2_bytes: moved between the L2 and the SMs by the whole launch.
        steps: chunks (in a scan: segments) that one program walks; where each chunk has its own, the most of any.
        products: (rows, columns, contracted) of each matrix product of a step.
        elements: fp32 elements that a step computes with one by one.
        staged_bytes: what a step writes to shared memory and reads back, apart from its loads.
        num_stages: steps whose loads are in flight at once.
    """

    dram_bytes: float
    l2_bytes: float
    steps: int
    products: tuple[tuple[int, int, int], ...] = ()
    elements: int = 0
    staged_bytes: int = 0
    num_stages: int = 1


def work_of(view: StepView, kernel_name: str, gpu: Gpu) -> Work:
    """The work of the launch of a step's main, ``_states``, ``_checkpoints`` or ``_scan`` kernel."""
    sizes = _Sizes(view, gpu)
    if kernel_name.endswith("_states_kernel"):
        return _states(view, sizes)
    if kernel_name.endswith("_checkpoints_kernel"):
        return _checkpoints(sizes)
    if kernel_name.endswith("_scan_kernel"):
        return _scan(sizes)
    if view.reads_checkpoints:
        return _gradients(view, sizes)
    if view.stateless:
        return _parallel(view, sizes)
    if view.cooperates:
        return _cooperative(view, sizes)
    return _fused(view, sizes) if view.fused else _stream(view, sizes)


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Bytes and counts that the launches of one step share; bytes are those of the whole problem."""

    view: StepView
    gpu: Gpu

    @property
    def column_bytes(self) -> int:
        """One column of a [B, H, N, width] tensor."""
        problem = self.view.problem
        return problem.batch_heads * problem.seqlen * problem.dtype_bytes

    @property
    def state_bytes(self) -> int:
        """One fp32 state of every head."""
        return 4 * self.view.problem.batch_heads * self.view.d * self.view.e

    @property
    def chunks(self) -> int:
        return -(-self.view.problem.seqlen // self.view.block_n)

    @property
    def chunks_a_segment(self) -> int:
        return self.view.segment_rows // self.view.block_n if self.view.segmented else self.chunks

    @property
    def chunks_a_program(self) -> int:
        """Of the main kernel; where some heads are walked whole and some in segments, their mean."""
        if self.view.relayed:
            return -(-self.chunks * self.view.problem.batch_heads // self.view.shares)
        if not self.view.remainder:
            return self.chunks_a_segment
        heads, split = self.view.problem.batch_heads, self.view.split_heads
        return -(-self.chunks * heads // (heads - split + split * self.segments))

    @property
    def split_share(self) -> float:
        """Of the heads, those whose states are stored."""
        return self.view.split_heads / self.view.problem.batch_heads if self.view.remainder else 1.0

    @property
    def segments(self) -> int:
        return -(-self.chunks // self.chunks_a_segment)

    def uncached(self, bytes_again: float) -> float:
        """What of the bytes that an earlier launch moved has to come from device memory."""
        return bytes_again if bytes_again > self.gpu.l2_mib * 2**20 / 2 else 0.0

    @property
    def starting_bytes(self) -> float:
        """States that the programs of the main kernel read to start from, and those that the caller gave or wants."""
        given = self.state_bytes * ((self.view.state_in is not None) + (self.view.state_out is not None))
        if self.view.scanned:
            return given + self.state_bytes * self.segments
        heads = self.view.problem.batch_heads
        if self.view.relayed and heads > self.view.shares:
            return given + 2 * len(self.view.streams) * self.state_bytes * self.view.shares / heads
        if self.view.segmented:
            return given + self.split_share * self.state_bytes * self.segments * (self.segments - 1) / 2
        return given

    @property
    def checkpoint_bytes(self) -> int:
        """All checkpoints of every head, in the inputs' dtype."""
        count = -(-self.view.problem.seqlen // self.view.checkpoint_rows)
        return count * self.view.problem.batch_heads * self.view.d * self.view.e * self.view.problem.dtype_bytes

    def inputs_again(self, width: int) -> float:
        """Device traffic saved because the states kernel has left these columns in the L2."""
        read = self.column_bytes * width
        return self.split_share * (read - self.uncached(read)) if self.view.segmented else 0.0


def _states(view: StepView, sizes: _Sizes) -> Work:
    """Reads y and z of all segments but one, writes a state each."""
    share = sizes.split_share * (sizes.segments - 1) / sizes.segments
    written = sizes.split_share * sizes.state_bytes * (sizes.segments - 1)
    width = view.block_d * view.num_tiles
    rows, columns = (view.block_e, width) if view.transposed else (width, view.block_e)
    return Work(
        dram_bytes=share * sizes.column_bytes * (view.d + view.e) + written,
        l2_bytes=share * sizes.column_bytes * (view.d * view.num_splits + view.e) + written,
        steps=sizes.chunks_a_segment,
        products=((rows, columns, view.block_n),),
        elements=width * view.block_e,
        num_stages=view.states_stages,
    )


def _scan(sizes: _Sizes) -> Work:
    """Reads and writes a state for each segment."""
    moved = 2 * sizes.state_bytes * sizes.segments
    return Work(dram_bytes=sizes.uncached(moved), l2_bytes=moved, steps=sizes.segments)


def _checkpoints(sizes: _Sizes) -> Work:
    """A copy, as a measurement has in its place: by the time that they are read, a forward pass has made them."""
    moved = 2 * sizes.checkpoint_bytes
    return Work(dram_bytes=moved, l2_bytes=moved, steps=1)


def _stream(view: StepView, sizes: _Sizes) -> Work:
    """Scores x y^T, from them and the state the output, then the state's update."""
    n, d, e = view.block_n, view.block_d * view.num_tiles, view.block_e
    # Of what streams side by side read, q and do are the same.
    streams = len(view.streams)
    once = sizes.column_bytes * (streams + 1) * (view.d + view.e)
    again = sizes.column_bytes * (2 * view.d * (view.num_splits - 1) * streams + (streams - 1) * (view.d + view.e))
    saved = sizes.inputs_again(view.d + view.e)
    out = ((e, n, d), (e, n, n), (e, d, n)) if view.transposed else ((n, e, d), (n, e, n), (d, e, n))
    return Work(
        dram_bytes=once - saved + _MISSED_REREADS * again + sizes.uncached(sizes.starting_bytes),
        l2_bytes=once + again + sizes.starting_bytes,
        steps=sizes.chunks_a_program,
        products=((n, n, d), *out),
        elements=n * n + n * e + d * e + _lifted(view, n * d),
        staged_bytes=0 if view.transposed else d * e * view.problem.dtype_bytes,
        num_stages=view.step.config.num_stages,
    )


def _cooperative(view: StepView, sizes: _Sizes) -> Work:
    """What makes states, scans them and walks, in one launch; a chunk of the first counts by its products beside the walk's."""
    own, scan, walk = _states(view, sizes), _scan(sizes), _stream(view, sizes)
    return replace(
        walk,
        dram_bytes=own.dram_bytes + scan.dram_bytes + walk.dram_bytes,
        l2_bytes=own.l2_bytes + scan.l2_bytes + walk.l2_bytes,
        steps=walk.steps + -(-own.steps * _flops(own) // _flops(walk)),
    )


def _flops(work: Work) -> int:
    """Of a step's products."""
    return sum(2 * m * n * k for m, n, k in work.products)


def _parallel(view: StepView, sizes: _Sizes) -> Work:
    """Each chunk's scores with all that it depends on, and from them its output; the longest programs are what ends last."""
    n, j, d, e = view.block_n, view.block_j, view.block_d * view.num_tiles, view.block_e
    once = sizes.column_bytes * 2 * (view.d + view.e)
    own = sizes.column_bytes * view.d * view.num_splits
    # A chunk reads all up to itself, in steps of j rows; and with each step perhaps its own rows.
    steps = [-(-(chunk + 1) * n // j) for chunk in range(sizes.chunks)]
    mean_steps = sum(steps) / sizes.chunks
    read = mean_steps * j / n * (own + sizes.column_bytes * view.e) + own * (mean_steps if view.x_with_each else 1)
    return Work(
        dram_bytes=once,
        l2_bytes=read + sizes.column_bytes * view.e,
        steps=steps[-1],
        products=((n, j, d), (n, e, j)),
        elements=2 * n * j,
        num_stages=view.step.config.num_stages,
    )


def _fused(view: StepView, sizes: _Sizes) -> Work:
    """Two scores, two outputs of two products each, and the state's update."""
    n, d, e = view.block_n, view.block_d, view.block_e
    moved = sizes.column_bytes * 3 * (view.d + view.e)
    saved = sizes.inputs_again(view.d + view.e)
    plain = ((n, n, d), (n, n, e), (n, e, d), (n, e, n), (n, d, e), (n, d, n), (d, e, n))
    transposed = ((n, n, d), (n, n, e), (e, n, d), (e, n, n), (d, n, e), (d, n, n), (e, d, n))
    # The state is an operand of two products in either form; only one of them can take it from registers.
    staged = d * e * view.problem.dtype_bytes * (1 if view.transposed else 2)
    return Work(
        dram_bytes=moved - saved + sizes.uncached(sizes.starting_bytes),
        l2_bytes=moved + sizes.starting_bytes,
        steps=sizes.chunks_a_program,
        products=transposed if view.transposed else plain,
        elements=2 * n * n + n * (d + e) + d * e + _lifted(view, n * (d + e)),
        staged_bytes=staged,
        num_stages=view.step.config.num_stages,
    )


def _gradients(view: StepView, sizes: _Sizes) -> Work:
    """As ``_fused``, with dq: a checkpoint for two chunks, and of every second one the chunk before, read ahead of its time."""
    n, d, e = view.block_n, view.block_d, view.block_e
    fused = _fused(view, sizes)
    moved = sizes.column_bytes * view.d + sizes.checkpoint_bytes
    out = ((d, n, e), (d, n, n)) if view.transposed else ((n, d, e), (n, d, n))
    return replace(
        fused,
        dram_bytes=fused.dram_bytes + moved,
        l2_bytes=fused.l2_bytes + moved + sizes.checkpoint_bytes + sizes.column_bytes * (view.d + view.e) / 2,
        products=(*fused.products, *out, (d, e, n)),
        elements=fused.elements + n * d + d * e,
        staged_bytes=fused.staged_bytes + (n * n + d * e) * view.problem.dtype_bytes,
    )


def _lifted(view: StepView, elements: int) -> int:
    """Operands that the factored decay scales one by one."""
    return elements if view.decay == "factored" else 0
