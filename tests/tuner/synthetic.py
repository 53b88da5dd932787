"""A space and a landscape over it that are known in closed form: nothing is rendered, compiled or timed.

Run as a script it searches that landscape, prints a line as each evaluation begins, and at the one named stays in it
for good, so that it can be killed there:

    python synthetic.py JOURNAL TRIALS BATCH STAY_AT
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from latune.codegen.space import Space, load_space
from latune.config import Config
from latune.gpu import find_gpu
from latune.measurement import Measurement
from latune.plan import KERNELS, Plan
from latune.problem import Problem
from latune.tuner.grid import Grid
from latune.tuner.route import Route
from latune.tuner.search import SearchResult, search

SPACE = """
kernel: stream
parameters:
  algorithm: {kind: algorithm, values: [sequential, split], about: where states come from}
  state_layout: {kind: choice, values: [plain, transposed], about: layout of the state}
  branched: {kind: choice, values: [none], when: state_layout == 'transposed', about: products under a branch}
  loads: {kind: choice, values: [pointer], about: how tiles come from memory}
  decay_mode: {kind: choice, values: [matrix], about: the decay inside a chunk}
  decayed: {kind: choice, values: [value], about: the operand that carries the decay}
  BLOCK_D: {kind: constexpr, values: [128], about: columns of a tile}
  BLOCK_E: {kind: constexpr, powers_of_two: [16, 256], about: columns}
  BLOCK_N: {kind: constexpr, powers_of_two: [16, 128], about: rows}
  PROGRAMS: {kind: constexpr, powers_of_two: [32, 1024], when: algorithm == 'split', about: programs}
  num_warps: {kind: launch, powers_of_two: [2, 8], about: warps}
  num_stages: {kind: launch, values: [1, 2, 3, 4], about: stages}
constraints:
  - {require: BLOCK_E * BLOCK_N <= 8192, why: the tile is too large}
default: {algorithm: sequential, state_layout: plain, branched: none, loads: pointer, decay_mode: matrix,
  decayed: value, BLOCK_E: 32, BLOCK_N: 32, BLOCK_D: 128, PROGRAMS: 32, num_warps: 4, num_stages: 1}
"""
BEST_MS = 1.0
GPU = find_gpu("a100")
KERNEL = KERNELS["o"]
PROBLEM = Problem(
    direction="fwd", decay="constant", dtype="bf16", batch=2, num_heads=8, seqlen=4096, head_dim_k=128, head_dim_v=128
)


def space(folder: Path, text: str = SPACE) -> Space:
    path = folder / "stream.yaml"
    path.write_text(text, encoding="utf-8")
    return load_space("stream", path)


def evaluate(plan: Plan) -> Measurement:
    return measure(plan.steps[0].config)


def measure(config: Config) -> Measurement:
    """1 ms at BLOCK_E 128, BLOCK_N 64, 8 warps, 3 stages, transposed and sequential; some configs do not run."""
    values = config.values()
    block_e, block_n, warps, stages = (int(values[name]) for name in ("BLOCK_E", "BLOCK_N", "num_warps", "num_stages"))
    if block_e == 256 and stages == 4:
        return Measurement(outcome="out_of_resources", detail="too many tiles in flight")
    suited_warps = 3 if block_e >= 128 else 2
    steps = (
        (0.15, math.log2(block_e) - 7),
        (0.25, math.log2(block_n) - 6),
        (0.1, math.log2(warps) - suited_warps),
        (0.08, stages - 3),
        (0.05, math.log2(int(values.get("PROGRAMS", 128))) - 7),
    )
    time_ms = BEST_MS * math.prod(1 + weight * abs(distance) for weight, distance in steps)
    time_ms *= {"plain": 1.15, "transposed": 1.0}[str(values["state_layout"])]
    time_ms *= {"sequential": 1.0, "split": 1.1}[config.algorithm]
    return Measurement(outcome="ok", median_ms=time_ms)


def run(journal: Path, call: Callable[[Plan], Measurement] = evaluate, **changes: object) -> SearchResult:
    """The search of this landscape, with its journal (and the space's file) at a given place."""
    journal.parent.mkdir(parents=True, exist_ok=True)
    options = {"trials": 30, "seed": 0, "batch": 1, "study_name": "synthetic", "storage": str(journal)} | changes
    grid = Grid(options.pop("space", None) or space(journal.parent), PROBLEM, GPU, KERNEL)  # type: ignore[arg-type]
    of_route = {name: options.pop(name) for name in ("trials", "seed", "starts", "batch", "patience") if name in options}
    return search(Route.of(grid, **of_route), call, **options)  # type: ignore[arg-type]


def digests(result: SearchResult) -> list[str]:
    """Of what it evaluated, in order."""
    return [trial.config.digest for trial in result.trials]


def main(journal: str, trials: str, batch: str, stay_at: str) -> None:
    begun = 0

    def announce(plan: Plan) -> Measurement:
        nonlocal begun
        begun += 1
        print(plan.steps[0].config.digest, flush=True)
        if begun == int(stay_at):
            threading.Event().wait()
        return evaluate(plan)

    run(Path(journal), announce, trials=int(trials), batch=int(batch))


if __name__ == "__main__":
    main(*sys.argv[1:])
