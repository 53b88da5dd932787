"""What serves a problem and why, as text and as JSON."""

from __future__ import annotations

from latune.cache.resolve import Resolution
from latune.cache.resources import Resources
from latune.cli.output import plan_lines
from latune.ops.dispatch import tune_command
from latune.problem import Problem


def resolution_json(problem: Problem, resolution: Resolution) -> dict[str, object]:
    entry = resolution.entry
    return {
        "problem": str(problem),
        "bucket": problem.bucket().to_json(),
        "step": resolution.step,
        "why": resolution.why,
        "plan": resolution.plan.to_json(),
        "entry": None if entry is None else entry.to_json(),
        "candidates": [{"plan": plan.to_json(), "why": why} for plan, why in resolution.candidates],
        "tune": tune_command(problem, resolution.gpu),
    }


def resolution_lines(problem: Problem, resolution: Resolution) -> list[str]:
    """A title, then the step of the ladder, the reason and the plan."""
    lines = [f"{problem} on {resolution.gpu.title}", f"  step: {resolution.step}", f"  why: {resolution.why}", "  plan:"]
    return lines + [f"    {line}" for line in plan_lines(resolution.plan).splitlines()]


def resources_text(kernel: Resources) -> str:
    return (
        f"{kernel.name}: {kernel.registers} registers and {kernel.spill_bytes} bytes spilled a thread, "
        f"{kernel.shared_bytes} bytes of shared memory, {kernel.num_warps} warps"
    )
