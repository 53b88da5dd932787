"""Builds that no compiler made: their figures follow from the config, or are given."""

from __future__ import annotations

from latune.codegen.build import Build, KernelBuild
from latune.codegen.step_view import StepView
from latune.config import Config
from latune.gpu import Gpu
from latune.plan import Plan, Step
from latune.problem import Problem


def config(
    layout: str = "transposed",
    *,
    algorithm: str = "sequential",
    block_n: int = 64,
    block_d: int | None = 128,
    block_e: int | None = 128,
    programs: int | None = None,
    num_warps: int = 8,
    num_stages: int = 3,
    **choices: str,
) -> Config:
    sizes = {"BLOCK_N": block_n, "BLOCK_D": block_d, "BLOCK_E": block_e, "PROGRAMS": programs}
    return Config.of(
        algorithm,
        choices={
            **({} if algorithm == "parallel" else {"state_layout": layout, "decayed": "value"}),
            **({"branched": "none"} if layout == "transposed" and algorithm != "parallel" else {}),
            "loads": "tma",
            "decay_mode": "matrix",
            **choices,
        },
        constexprs={name: size for name, size in sizes.items() if size is not None},
        num_warps=num_warps,
        num_stages=num_stages,
    )


def one(kernel: str, config: Config) -> Plan:
    return Plan((Step(kernel=kernel, config=config),))


def kernel(name: str, **figures: object) -> KernelBuild:
    usual = {"registers": 200, "spill_bytes": 0, "shared_bytes": 100_000, "num_warps": 8, "programs": 128}
    return KernelBuild(name=name, **{**usual, "binary_sha256": name, **figures})  # type: ignore[arg-type]


def build(problem: Problem, plan: Plan, gpu: Gpu) -> Build:
    """A launch a step, more where others make the states that it starts from; shared memory as the loads in flight need it."""
    return Build(kernels=tuple(kernel for step in plan.steps for kernel in _kernels(StepView(problem=problem, step=step))))


def _kernels(view: StepView) -> list[KernelBuild]:
    config, problem = view.step.config, view.problem
    segments = view.segments if view.segmented else 1
    width = view.block_d * view.num_tiles
    columns = 2 * (width + view.block_e) if view.fused else 2 * width + view.block_e
    shared = config.num_stages * view.block_n * columns * problem.dtype_bytes
    programs = problem.batch_heads * view.num_splits * (-(-problem.seqlen // view.block_n) if view.stateless else 1)
    programs = view.shares * view.num_splits if view.relayed else programs
    cut = view.split_heads * view.num_splits if view.algorithm == "remainder" else programs
    main = kernel(
        f"{view.name}_kernel",
        shared_bytes=shared,
        num_warps=config.num_warps,
        registers=min(255, 64 * 1024 // (32 * config.num_warps)),
        programs=programs + cut * (segments - 1),
        binary_sha256=f"{view.name} {config.digest}",
    )
    states = kernel(f"{view.name}_states_kernel", num_warps=config.num_warps, programs=cut * max(segments - 1, 1))
    checkpoints = kernel(f"{view.name}_checkpoints_kernel", num_warps=config.num_warps, programs=programs)
    scan = kernel(f"{view.name}_scan_kernel", num_warps=4, registers=32, shared_bytes=0, programs=16 * problem.batch_heads)
    ahead = {} if view.cooperates else {"makes_checkpoints": checkpoints, "segmented": states, "scanned": scan}
    return [*(one for name, one in ahead.items() if getattr(view, name)), main]
