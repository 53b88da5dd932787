"""Heads in equal shares, `relay`, against the same kernel of whole heads and against what the cache serves, on an H200.

Run as ``python docs/results/equal_shares.py OUTPUT.json``: one race for each shape and kernel, each variant verified first.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from text_races import GPU, fits, race

from latune.cli.shapes import parse_shape
from latune.codegen.render import Source, render
from latune.config import Config
from latune.ops.dispatch import resolve
from latune.plan import KERNELS, Plan, Step
from latune.problem import Problem
from latune.tuner.worker import Worker

CHOICES = {
    "branched": "none",
    "decay_mode": "matrix",
    "decayed": "value",
    "loads": "specialized",
    "state_layout": "transposed",
}
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


def _config(algorithm: str, blocks: tuple[int, int, int, int], streams: int) -> Config:
    block_d, block_e, num_warps, num_stages = blocks
    constexprs = {"BLOCK_D": block_d, "BLOCK_E": block_e, "BLOCK_N": 64}
    constexprs |= {"PROGRAMS": GPU.sms // streams} if algorithm == "relay" else {}
    return Config.of(algorithm, choices=CHOICES, constexprs=constexprs, num_warps=num_warps, num_stages=num_stages)


def _variants(problem: Problem, kernels: tuple[str, ...], blocks: tuple[int, int, int, int]) -> Iterator[tuple[str, Plan]]:
    if kernels == ("o",):
        yield "served", resolve(problem, GPU).plan
    for algorithm in ("sequential", "relay"):
        steps = [Step(kernel=name, config=_config(algorithm, blocks, len(KERNELS[name].streams))) for name in kernels]
        yield algorithm, Plan.from_steps(steps)


def main(output: Path) -> None:
    rows: list[dict] = []
    with Worker() as worker:
        for kernels in (("o",), ("dq",), ("dk_dv",)):
            for shape, blocks in CASES:
                direction = "fwd" if kernels == ("o",) else "bwd"
                problem = parse_shape(shape).problem(direction=direction, decay="constant", dtype="bf16")
                if kernels == ("dk_dv",) and problem.head_dim_k != problem.head_dim_v:
                    continue
                variants = list(_variants(problem, kernels, blocks))
                names: dict[Source, str] = {render(problem, plan): f"{'+'.join(kernels)} {name}" for name, plan in variants}
                plan = variants[-1][1]
                rows += race(worker, problem, plan, names, [source for source in names if fits(problem, source)])
                output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
