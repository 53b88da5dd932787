"""What serves few heads on an H200, beside the same by programs that wait for one another.

Run as ``python docs/results/served_or_cooperative.py SECONDS OUTPUT.json``. Of cooperative-h200.json, by this before it was
tidied: the start in slices of 64 was three chunks deep then, and the cache had no such plans yet.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

from latune.cli.shapes import parse_shape, problems_of
from latune.codegen.render import render
from latune.gpu import find_gpu
from latune.measurement import Measurement
from latune.ops.dispatch import resolve
from latune.plan import KERNELS, Plan, Step
from latune.problem import Problem
from latune.tuner.compose import all_spaces
from latune.tuner.worker import Worker

GPU = find_gpu("h200")
SPACE = all_spaces()["stream"]
ROUNDS = 20
STREAMS = {"fwd": ("o",), "bwd": ("dq", "dk", "dv")}
SHAPES = (
    "1,8,8192,128",
    "1,8,4096,128",
    "1,16,4096,128",
    "1,8,32768,128",
    "1,16,8192,96",
    "1,16,8192,64,128",
    "1,16,32768,128",
    "1,8,8192,256",
    "1,32,8192,128",
    "1,16,8192,192",
)


def cooperative(problem: Problem) -> Iterator[Plan]:
    """By each such start of the search space, as deep as it is, and a stage deeper or less deep."""
    names = STREAMS[problem.direction]
    for start in SPACE.feasible_starts(problem, GPU, KERNELS[names[0]]):
        for num_stages in (start.num_stages, start.num_stages + 1, start.num_stages - 1):
            config = replace(start, num_stages=num_stages)
            allowed = all(SPACE.feasible(config, problem, GPU, KERNELS[name]) is None for name in names)
            if start.algorithm == "cooperative" and allowed:
                yield Plan(tuple(Step(kernel=name, config=config) for name in names))


def row(problem: Problem, plan: Plan, measurement: Measurement) -> dict[str, object]:
    times = {"us": measurement.median_ms, "low": measurement.ci_low_ms, "high": measurement.ci_high_ms}
    found = {name: None if value is None else value * 1e3 for name, value in times.items()}
    return {"problem": str(problem), "plan": str(plan), "outcome": measurement.outcome, **found}


def main(seconds: float, output: Path) -> None:
    end, rows = time.monotonic() + seconds, []
    shapes = list(map(parse_shape, SHAPES))
    problems = [problems_of(shapes, direction=direction, dtype="bf16", decay="constant") for direction in STREAMS]
    with Worker() as worker:
        for problem in chain.from_iterable(problems):
            if time.monotonic() > end:
                return
            plans = [resolve(problem, GPU).plan, *cooperative(problem)]
            raced = worker.race(problem, [(plan, render(problem, plan)) for plan in plans], rounds=ROUNDS)
            rows += [row(problem, plan, measurement) for plan, measurement in zip(plans, raced, strict=True)]
            output.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(float(sys.argv[1]), Path(sys.argv[2]))
