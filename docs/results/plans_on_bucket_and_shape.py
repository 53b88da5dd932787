"""The fastest plans of four buckets, each raced on its bucket's problem, on the smallest that it serves and on one between.

Run as ``python docs/results/plans_on_bucket_and_shape.py OUTPUT.json``; tidied since it ran.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from latune.cli.shapes import parse_shape
from latune.cli.starts import starts_of
from latune.gpu import find_gpu
from latune.plan import Plan
from latune.problem import Problem
from latune.tuner.compose import Composer
from latune.tuner.evaluators import Evaluator
from latune.tuner.podium import ranked
from latune.tuner.target import open_target

GPU = find_gpu("h200")
SHAPES = (("bwd", "2,40,6000,128"), ("fwd", "3,24,3500,64"), ("bwd", "5,16,1100,256"), ("fwd", "5,20,3000,128"))
FASTEST = 14


def fastest(problem: Problem, evaluate: Evaluator) -> list[Plan]:
    """Of all that a transfer to the problem races."""
    composer = Composer.of(problem, evaluate, None)
    starts = composer.fit(starts_of(problem, GPU, []))
    raced = dict(zip(starts, evaluate.race_here(starts), strict=True))
    best = [plan for plan, _ in ranked(raced.items())[:3]]
    second = [*best, *(plan for plan in composer.variants(best[0]) if plan not in raced)]
    raced |= dict(zip(second, evaluate.race_here(second), strict=True))
    return [plan for plan, _ in ranked(raced.items())[:FASTEST]]


def main(output: Path) -> None:
    found = []
    with open_target(GPU.name) as target:
        for direction, text in SHAPES:
            shape = parse_shape(text).problem(direction=direction, decay="constant", dtype="bf16")
            bucket = shape.bucket()
            plans = fastest(bucket.problem(), target.evaluator(bucket.problem()))
            rows: dict[str, object] = {"shape": str(shape), "bucket": str(bucket), "plans": list(map(str, plans))}
            for name, problem in (("own", bucket.problem()), ("smallest", bucket.smallest_problem()), ("at", shape)):
                raced = target.evaluator(problem).race_here(plans)
                rows[f"{name}_ms"] = [measurement.median_ms for measurement in raced]
            found.append(rows)
            output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
