"""Problem + plan + GPU -> compiled kernels and the resources they take. Needs no GPU in the machine."""

from __future__ import annotations

import functools
import hashlib
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel
from triton.compiler.errors import CompilationError
from triton.experimental.gluon._runtime import GluonASTSource
from triton.runtime import driver
from triton.runtime.cache import triton_key
from triton.runtime.errors import PTXASError

from latune.codegen.launches import Launch, record_launches
from latune.codegen.load import load
from latune.codegen.render import render
from latune.errors import BuildError
from latune.gpu import Gpu
from latune.plan import Plan
from latune.problem import Problem

_WARP_SIZE = 32
_ASSEMBLER = re.compile(r"ptxas\S* (fatal|error)")
_RESOURCES = re.compile(r"REG:(?P<registers>\d+) STACK:(?P<stack>\d+) SHARED:(?P<shared>\d+) LOCAL:(?P<local>\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelBuild:
    """One compiled kernel, as the binary itself reports it.

    Attributes:
        name: the kernel's function name.
        registers: registers a thread.
        spill_bytes: bytes of stack a thread, where spilled registers live.
        shared_bytes: shared memory a program.
        num_warps: warps a program.
        programs: size of the grid for the problem it was built for.
        binary_sha256: hash of the machine code.
    """

    name: str
    registers: int
    spill_bytes: int
    shared_bytes: int
    num_warps: int
    programs: int
    binary_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """A plan compiled for one GPU, its kernels in launch order."""

    kernels: tuple[KernelBuild, ...]

    @property
    def shared_bytes(self) -> int:
        return max(kernel.shared_bytes for kernel in self.kernels)

    @property
    def spill_bytes(self) -> int:
        return max(kernel.spill_bytes for kernel in self.kernels)

    def exceeds(self, gpu: Gpu) -> str | None:
        """Why ``gpu`` cannot run this build, or None."""
        if self.shared_bytes <= gpu.shared_per_block_bytes:
            return None
        return f"needs {self.shared_bytes} bytes of shared memory a block, {gpu.title} has {gpu.shared_per_block_bytes}"


def build(problem: Problem, plan: Plan, gpu: Gpu, *, also: Sequence[Problem] = (), launchers: bool = False) -> Build:
    """Compiles every kernel of ``plan`` for ``gpu``.

    Args:
        also: of other shapes, at which the plan's module will be launched, too: what these compile otherwise is then in
            Triton's cache.
        launchers: what launches the kernels is then there, too; needs a GPU in the machine.

    Raises:
        BuildError: the compiler refuses a kernel; the message is the compiler's own last line.
        RenderError: the plan cannot be rendered for this problem.
    """
    module = load(render(problem, plan))
    launches = record_launches(module, problem)
    others = _compiled_otherwise(launches, (other for shape in also for other in record_launches(module, shape)))
    compiled = [compile_launch(launch, gpu) for launch in (*launches, *others)]
    for kernel in compiled if launchers else ():
        _make_launcher(kernel)
    return Build(kernels=tuple(map(_kernel_build, launches, compiled)))


def hash_triton() -> None:
    """Has Triton take the digest of itself, 0.4 GB, that each look into its cache begins with: a second, once a process."""
    triton_key()


def _compiled_otherwise(launches: Sequence[Launch], others: Iterator[Launch]) -> Iterator[Launch]:
    """Of the others, each that differs from all before it in more than its grid."""
    known = [replace(launch, programs=0) for launch in launches]
    for launch in others:
        compiled = replace(launch, programs=0)
        if compiled not in known:
            known.append(compiled)
            yield launch


def _make_launcher(kernel: CompiledKernel) -> None:
    """What Triton launches the kernel by: Triton 3.6 has a C compiler make one for each signature, in 0.3 to 0.4 s.

    Raises:
        BuildError: there is no C compiler that could.
    """
    try:
        driver.active.launcher_cls(kernel.src, kernel.metadata)
    except (RuntimeError, subprocess.CalledProcessError) as error:
        raise BuildError(f"no launcher for {kernel.name}: {_reason(error)}") from error


def _kernel_build(launch: Launch, compiled: CompiledKernel) -> KernelBuild:
    binary = compiled.asm["cubin"]
    registers, spill_bytes = _resources(binary)
    return KernelBuild(
        name=launch.kernel.__name__,
        registers=registers,
        spill_bytes=spill_bytes,
        shared_bytes=compiled.metadata.shared,
        num_warps=compiled.metadata.num_warps,
        programs=launch.programs,
        binary_sha256=hashlib.sha256(binary).hexdigest(),
    )


def compile_launch(launch: Launch, gpu: Gpu) -> CompiledKernel:
    """Triton's own compilation of one launch for ``gpu``'s architecture.

    Raises:
        BuildError: the compiler refuses it.
    """
    language = GluonASTSource if launch.kernel.is_gluon() else ASTSource
    source = language(launch.kernel, launch.signature, launch.constants, launch.attributes)
    target = GPUTarget("cuda", gpu.arch, _WARP_SIZE)
    try:
        return triton.compile(source, target=target, options=launch.options)
    except (CompilationError, PTXASError, RuntimeError, ValueError, AssertionError, subprocess.CalledProcessError) as error:
        raise BuildError(f"{launch.kernel.__name__} does not compile for sm_{gpu.arch}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """The compiler's own line: an assembler's first complaint, or the last one of the innermost cause.

    Triton wraps an error once for each call on the way to it.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return next(filter(_ASSEMBLER.match, lines), lines[-1])


def _resources(binary: bytes) -> tuple[int, int]:
    """(registers, stack bytes) a thread, read from the machine code."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(binary)
        report = subprocess.run([_cuobjdump(), "-res-usage", str(path)], capture_output=True, text=True, check=False).stdout
    found = _RESOURCES.search(report)
    if found is None:
        raise BuildError(f"cannot read resources from the compiled kernel: cuobjdump printed {report.strip()!r}")
    return int(found["registers"]), max(int(found["stack"]), int(found["local"]))


@functools.cache
def _cuobjdump() -> str:
    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not path.is_file():
        raise BuildError(f"expected cuobjdump of Triton's NVIDIA backend at {path}; reinstall triton")
    return str(path)
