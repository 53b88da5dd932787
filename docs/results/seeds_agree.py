"""What searches with different seeds have chosen for a shape, raced in three processes one after another for each direction.

Run as ``python docs/results/seeds_agree.py SHAPE OUTPUT.json FOLDER...``, each folder that of one ``latune tune --shape SHAPE
--seed N --output FOLDER``. Equal plans are raced once; times are medians of the processes'. The spread is how much longer
the slowest takes than the fastest.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

from latune.cache.store import read_entries
from latune.cli.shapes import parse_shape
from latune.gpu import find_gpu
from latune.problem import DIRECTIONS
from latune.tuner.target import open_target

GPU = find_gpu("h200")
PROCESSES = 3


def main(text: str, output: Path, folders: list[Path]) -> None:
    found = []
    with open_target(GPU.name) as target:
        for direction in DIRECTIONS:
            problem = parse_shape(text).problem(direction=direction, decay="constant", dtype="bf16")
            chosen = {folder: read_entries(GPU, [folder])[problem.bucket()][0].plan for folder in folders}
            plans = list(dict.fromkeys(chosen.values()))
            evaluate = target.evaluator(problem)
            races = [evaluate.race_arms(plans, fresh=True) for _ in range(PROCESSES)]
            raced = {plan: [arm.measurement.median_ms for arm in arms] for plan, *arms in zip(plans, *races, strict=True)}
            medians = {folder.name: statistics.median(raced[plan]) for folder, plan in chosen.items()}
            spread = max(medians.values()) / min(medians.values()) - 1
            found.append(
                {
                    "problem": str(problem),
                    "ms": medians,
                    "spread": spread,
                    "plans": {str(plan): times for plan, times in raced.items()},
                }
            )
            print(problem, f"{len(plans)} plans, {spread:.2%} apart", *medians.values(), flush=True)
            output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), [Path(folder) for folder in sys.argv[3:]])
