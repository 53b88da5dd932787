"""How many programs of a compiled kernel live on one SM at a time, and what no GPU of a kind can run at all."""

from __future__ import annotations

from latune.cache.resources import Resources
from latune.codegen.build import Build, KernelBuild
from latune.gpu import Gpu

WARP_SIZE = 32
# Registers are handed out to a warp in units of this many (CUDA occupancy calculator, compute capability 3.0 on).
_REGISTER_UNIT = 256
# Taken by the system in each block (CUDA C++ Programming Guide, "Shared Memory", compute capability 8.0 on).
_RESERVED_SHARED_BYTES = 1024


def programs_by_limit(kernel: KernelBuild | Resources, gpu: Gpu) -> dict[str, int]:
    """Programs that fit on one SM by its blocks, threads, registers and shared memory, each by itself."""
    limits = gpu.architecture
    registers_of_a_warp = -(-kernel.registers * WARP_SIZE // _REGISTER_UNIT) * _REGISTER_UNIT
    return {
        "blocks": limits.blocks_per_sm,
        "threads": limits.threads_per_sm // (kernel.num_warps * WARP_SIZE),
        "registers": limits.registers_per_sm // max(registers_of_a_warp * kernel.num_warps, 1),
        "shared memory": limits.shared_per_sm_bytes // (kernel.shared_bytes + _RESERVED_SHARED_BYTES),
    }


def resident_programs(kernel: KernelBuild | Resources, gpu: Gpu) -> int:
    """Programs that fit on one SM at a time; 0: not even one."""
    return min(programs_by_limit(kernel, gpu).values())


def over_limit(build: Build, gpu: Gpu) -> str | None:
    """Why ``gpu`` cannot run the build, in one line, or None."""
    too_much = build.exceeds(gpu)
    if too_much:
        return too_much
    stuck = next((kernel for kernel in build.kernels if resident_programs(kernel, gpu) == 0), None)
    if stuck is None:
        return None
    return f"{stuck.name}: {stuck.num_warps} warps of {stuck.registers} registers a thread do not fit an SM of {gpu.title}"
