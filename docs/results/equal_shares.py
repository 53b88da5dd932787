"""Heads in equal shares, `relay`, against the same kernels of whole heads and against what the cache serves, on an H200.

Run as ``python docs/results/equal_shares.py OUTPUT.json``: one race for each shape and direction, each variant verified first.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from text_races import GPU, ROUNDS, fits

from latune.cli.shapes import parse_shape
from latune.codegen.render import render
from latune.config import Config
from latune.ops.dispatch import resolve
from latune.plan import KERNELS, Plan, Step
from latune.problem import DIRECTIONS, Problem
from latune.tuner.worker import Worker

CHOICES = {
    "branched": "none",
    "decay_mode": "matrix",
    "decayed": "value",
    "loads": "specialized",
    "state_layout": "transposed",
}
OF_A_WALK = {"decay_mode": "matrix", "decayed": "key", "loads": "specialized", "state_layout": "plain"}
# BLOCK_D, BLOCK_E, warps, stages.
WHOLE, HALF = (128, 128, 8, 2), (128, 64, 4, 4)
OF_96, OF_192, OF_256, OF_64 = (32, 128, 8, 3), (64, 64, 4, 3), (256, 64, 4, 2), (64, 64, 4, 4)
CASES = (
    ("2,32,4096,192", OF_192),
    ("2,32,1024,192", OF_192),
    ("6,32,4096,96", OF_96),
    ("9,16,4096,128", WHOLE),
    ("5,32,4096,128", WHOLE),
    ("5,32,1024,128", WHOLE),
    ("3,32,4096,128", HALF),
    ("3,16,4096,256", OF_256),
    ("5,32,4096,64", OF_64),
    ("4,32,4096,64,128", OF_64),
    ("8,32,8192,64", OF_64),
)


def _config(kernel: str, algorithm: str, blocks: tuple[int, int, int, int]) -> Config:
    block_d, block_e, num_warps, num_stages = blocks
    programs = {"PROGRAMS": GPU.sms // max(len(KERNELS[kernel].streams), 1)} if algorithm == "relay" else {}
    if kernel == "dqdkdv":
        return Config.of(algorithm, choices=OF_A_WALK, constexprs={"BLOCK_N": 64, **programs}, num_warps=4, num_stages=3)
    constexprs = {"BLOCK_D": block_d, "BLOCK_E": block_e, "BLOCK_N": 64, **programs}
    return Config.of(algorithm, choices=CHOICES, constexprs=constexprs, num_warps=num_warps, num_stages=num_stages)


def _variants(problem: Problem, blocks: tuple[int, int, int, int]) -> dict[str, Plan]:
    """Served, of whole heads, launches chained, and in equal shares."""
    kernels = ("dq", "dk_dv") if problem.head_dim_k == problem.head_dim_v else ("dq", "dk", "dv")
    kernels = ("o",) if problem.direction == "fwd" else ("dqdkdv",) if problem.head_dim_v == 64 else kernels
    whole, shares = (
        Plan.from_steps([Step(kernel=name, config=_config(name, algorithm, blocks)) for name in kernels])
        for algorithm in ("sequential", "relay")
    )
    whole = whole if kernels == ("o",) else whole.chained()
    return {"served": resolve(problem, GPU).plan, "whole heads": whole, "equal shares": shares}


def _race(worker: Worker, problem: Problem, plans: dict[str, Plan]) -> list[dict]:
    named = {render(problem, plan): (name, plan) for name, plan in plans.items()}
    fitting = [(name, plan, source) for source, (name, plan) in named.items() if fits(problem, source)]
    raced = worker.race(problem, [(plan, source) for _, plan, source in fitting], rounds=ROUNDS)
    rows = []
    for (name, plan, _), measurement in zip(fitting, raced, strict=True):
        times = {"ms": measurement.median_ms, "low": measurement.ci_low_ms, "high": measurement.ci_high_ms}
        rows.append({"problem": str(problem), "variant": name, "plan": str(plan), "outcome": measurement.outcome, **times})
        print(problem, name, measurement.outcome, measurement.median_ms, measurement.detail[:80], flush=True)
    return rows


def main(output: Path) -> None:
    rows: list[dict] = []
    with Worker() as worker:
        for direction in DIRECTIONS:
            for shape, blocks in CASES:
                problem = parse_shape(shape).problem(direction=direction, decay="constant", dtype="bf16")
                rows += _race(worker, problem, _variants(problem, blocks))
                output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
