"""How long a plan takes on a GPU that is not there: a model over the compiled kernels, stated here in full.

Every launch of a plan is taken by itself; the plan's time is their sum. With P programs, of which R are resident on an
SM (``occupancy``), in W = ceil(P / (R * SMs)) waves, and n chunks a program (where they differ, the most of any), a launch
takes

    launch + (memory^4 + l2^4 + compute^4)^(1/4)          compute = max(throughput, chain)

The fourth power stands for overlap: the longest term counts, and those close to it cost some more.

    memory      DRAM bytes / (bandwidth * 0.89). Inputs once, outputs once, states that are stored. Of what a split over
                BLOCK_E reads again 15% misses the L2; what an earlier launch moved is read again where it exceeds half
                the L2. In place of a pass that makes checkpoints, a copy of them, as when it is measured.
    l2          bytes moved by the busiest SM / (30 bytes a clock).
    throughput  what the busiest SM computes, without waiting: n * step * ceil(P / SMs).
    chain       the recurrence, whose chunks follow one another: W * (latency + n * (step + waits)).
    step        of a chunk: products (FLOPs / an SM's matrix rate, by shape), three operations an element of scores,
                output and state, tiles passed through shared memory (the rounded state of the plain
                layout), and spills (each byte written once and read twice).
    waits       20 ns a product, and as much again for every 4 warps; and of the memory latency what the num_stages - 1
                chunks ahead do not cover. Where loads, scores and the walk have warps of their own, the walk's, once a chunk;
                scores count as if they were the walk's.

Where programs wait for one another, the pass that makes states and the scan of these are part of their launch; their waiting
is not counted.

Shapes: a matrix instruction of compute capability 9.0 takes 64 rows (10.0: 128), and a product of fewer runs at half the
rate; a warp group left with fewer than 32 columns loses in proportion.

Where the constants come from. Bandwidth: a copy reaches 4.27 of an H200's 4.8 TB/s. Matrix rate: 790 of its 989 TFLOP/s.
L2: 4.5 TB/s on an A100 and 6 on an H100, over their SMs. Lanes and shared memory: CUDA C++ Programming Guide, arithmetic
throughput. Clock: 1.41 GHz, an A100's boost clock; for later parts 1.7 GHz, near theirs under load. Latency, waits, spills,
missed re-reads and the 4 us of a launch (with ramp and tail) were chosen on an H200, bf16, chunks of 64 rows; predicted /
measured ms, with real builds:

    forward 4,32,8192,128   transposed, BLOCK_E 128   .294 / .3005     transposed, 64   .351 / .328     plain, 64   .363 / .350
    forward 1,16,32768,128  in 8 segments             .218 / .2315     dk and dv fused, 4,32,8192,128   .635 / .611
    forward 4,16,4096,256   plain, BLOCK_E 128        .337 / .409      warps of their own, 64   .252 / .195
    forward 1,64,4096,128   warps of their own, 64    .086 / .071      transposed, 64           .089 / .085

It ranks; it does not measure. Inputs that launches share in the L2, bank conflicts and clocks under load are not in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from latune.codegen.build import Build, KernelBuild
from latune.codegen.step_view import StepView
from latune.gpu import Gpu
from latune.plan import Plan
from latune.problem import Problem
from latune.tuner.occupancy import WARP_SIZE, resident_programs
from latune.tuner.work import Work, work_of

_BANDWIDTH_SHARE = 0.89
_MATRIX_SHARE = 0.8
_CLOCK_HZ = {80: 1.41e9}
_USUAL_CLOCK_HZ = 1.7e9
_L2_BYTES_A_CLOCK = 30
_SHARED_BYTES_A_CLOCK = 128
_FP32_LANES = {80: 64}
_USUAL_FP32_LANES = 128
_SPILL_ACCESSES = 3
_OPERATIONS_AN_ELEMENT = 3
_MATRIX_ROWS = {90: 64, 100: 128}
_MATRIX_COLUMNS = 32
_WAIT_MS = 20e-6
_LATENCY_MS = 0.7e-3
_LAUNCH_MS = 4e-3
_POINTER_COST = 1.06
_OVERLAP = 4
# Three TF32 products, each at half the 16-bit rate, make one of fp32.
_FP32_PRODUCTS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelPrediction:
    """One launch's terms, in ms; see the module's text."""

    name: str
    resident: int
    waves: int
    memory_ms: float
    l2_ms: float
    compute_ms: float

    @property
    def total_ms(self) -> float:
        terms = (self.memory_ms, self.l2_ms, self.compute_ms)
        return _LAUNCH_MS + sum(term**_OVERLAP for term in terms) ** (1 / _OVERLAP)

    def __str__(self) -> str:
        terms = f"memory {self.memory_ms:.3g}, l2 {self.l2_ms:.3g}, compute {self.compute_ms:.3g}"
        return f"{self.name} {self.total_ms:.3g} ms ({terms}; {self.resident} a SM, {self.waves} waves)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A plan's predicted time, launch by work."""

    kernels: tuple[KernelPrediction, ...]

    @property
    def total_ms(self) -> float:
        return sum(kernel.total_ms for kernel in self.kernels)

    def __str__(self) -> str:
        return "; ".join(map(str, self.kernels))


def predict(problem: Problem, plan: Plan, gpu: Gpu, build: Build) -> Prediction:
    """The time the model gives the plan.

    Args:
        build: of this problem and plan for ``gpu``, which can run it (``occupancy.over_limit``).
    """
    views = [StepView(problem=problem, step=step) for step in plan.steps]
    return Prediction(kernels=tuple(_predict(_view_of(kernel, views), kernel, gpu) for kernel in build.kernels))


def _view_of(kernel: KernelBuild, views: Sequence[StepView]) -> StepView:
    """A generated kernel is named after its step: ``dq_states_kernel``."""
    return next(view for view in views if kernel.name.startswith(f"{view.name}_"))


def _predict(view: StepView, kernel: KernelBuild, gpu: Gpu) -> KernelPrediction:
    work = work_of(view, kernel.name, gpu)
    resident = resident_programs(kernel, gpu)
    waves = -(-kernel.programs // (resident * gpu.sms))
    busiest = -(-kernel.programs // gpu.sms)
    pointer = _POINTER_COST if view.loads == "pointer" and gpu.arch >= 90 else 1.0
    # Where loads and scores have warps of their own, those that walk wait once a chunk.
    specialized = view.specialized and kernel.name == f"{view.name}_kernel"
    num_warps = view.step.config.num_warps if specialized else kernel.num_warps
    step_ms = _step_ms(view, work, kernel, num_warps, gpu)
    synchronised_ms = (1 if specialized else len(work.products)) * _WAIT_MS * (1 + num_warps / 4)
    throughput_ms = work.steps * step_ms * busiest
    chain_ms = waves * (_LATENCY_MS + work.steps * (step_ms + _waits_ms(work, synchronised_ms, step_ms)))
    return KernelPrediction(
        name=kernel.name,
        resident=resident,
        waves=waves,
        memory_ms=pointer * work.dram_bytes / (gpu.bandwidth_gbps * _BANDWIDTH_SHARE) * 1e-6,
        l2_ms=pointer * _clocks_ms(work.l2_bytes / kernel.programs * busiest / _L2_BYTES_A_CLOCK, gpu),
        compute_ms=max(throughput_ms, chain_ms),
    )


def _clocks_ms(clocks: float, gpu: Gpu) -> float:
    return clocks / _CLOCK_HZ.get(gpu.arch, _USUAL_CLOCK_HZ) * 1e3


def _step_ms(view: StepView, work: Work, kernel: KernelBuild, num_warps: int, gpu: Gpu) -> float:
    rate = gpu.matrix_tflops * 1e9 / gpu.sms * _MATRIX_SHARE / (_FP32_PRODUCTS if view.problem.dtype == "fp32" else 1)
    products_ms = sum(2 * m * n * k / (rate * _shape_share(m, n, num_warps, gpu.arch)) for m, n, k in work.products)
    spilled_bytes = _SPILL_ACCESSES * kernel.spill_bytes * num_warps * WARP_SIZE
    clocks = work.elements * _OPERATIONS_AN_ELEMENT / _FP32_LANES.get(gpu.arch, _USUAL_FP32_LANES)
    clocks += (2 * work.staged_bytes + spilled_bytes) / _SHARED_BYTES_A_CLOCK
    return products_ms + _clocks_ms(clocks, gpu)


def _shape_share(rows: int, columns: int, num_warps: int, arch: int) -> float:
    """The share of the matrix rate that a product of this shape reaches."""
    if arch not in _MATRIX_ROWS:
        return 1.0
    groups = max(num_warps // 4, 1)
    beside = -(-groups // max(rows // _MATRIX_ROWS[arch], 1))
    full_rows = 1.0 if rows >= _MATRIX_ROWS[arch] else 0.5
    return full_rows * min(1.0, columns / beside / _MATRIX_COLUMNS)


def _waits_ms(work: Work, synchronised_ms: float, step_ms: float) -> float:
    ahead = max(work.num_stages - 1, 0)
    return synchronised_ms + max(0.0, _LATENCY_MS - ahead * (step_ms + synchronised_ms))
