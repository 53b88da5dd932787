"""An H200's forward buckets of 8 to 64 heads again: what serves each, beside programs that wait for one another.

Run as ``python docs/results/race_cooperative_buckets.py SECONDS CACHE_FOLDER OUTPUT_FOLDER [SHARE/SHARES]``: of several at
once, each takes its share of the buckets, counted from 0. It ran on `cooperative` alone first, and later as it is now.

Raced with less than a transfer races, so that a bucket takes a second or two: the plan of its entry, and by both algorithms
its config, if that has warps of its own, and each such start of the search space. Where the entry's plan leaves states to
the backward pass, only those take part that do so, too. Entries are written to the output folder, for `latune cache merge`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from latune.cache.entry import Entry
from latune.cache.store import read_entries, write_entries
from latune.codegen.kept import handing_over
from latune.codegen.render import plan_sha256
from latune.gpu import find_gpu
from latune.plan import KERNELS, Plan, Step
from latune.problem import Bucket, Problem
from latune.tuner.compose import all_spaces
from latune.tuner.podium import entry_of, podium
from latune.tuner.target import open_target
from latune.tuner.transfer import TRANSFERRED

GPU = find_gpu("h200")
SPACE = all_spaces()["stream"]
PROGRAMS = {"cooperative": 128, "balanced": GPU.sms}
AHEAD = 2
"""Buckets that compile while one is raced."""

Entries = Mapping[Bucket, Entry]


def is_of_few_heads(bucket: Bucket) -> bool:
    return bucket.direction == "fwd" and bucket.batch_heads <= 64 and bucket.seqlen >= 1024


def plans_of(problem: Problem, entries: Entries) -> list[Plan]:
    bucket = problem.bucket()
    served, behind = entries[bucket].plan, entries.get(replace(bucket, direction="bwd"))
    configs = {}
    for start in (served.steps[0].config, *SPACE.feasible_starts(problem, GPU, KERNELS["o"])):
        if dict(start.choices).get("loads") == "specialized":
            for algorithm, programs in PROGRAMS.items():
                config = replace(start.with_constexprs(PROGRAMS=programs), algorithm=algorithm)
                configs |= dict.fromkeys((config, replace(config, num_stages=config.num_stages + 1)))
    allowed = [config for config in configs if SPACE.feasible(config, problem, GPU, KERNELS["o"]) is None]
    plans = [Plan((Step(kernel="o", config=config),)) for config in allowed]
    if behind and handing_over(served, behind.plan, problem):
        plans = [plan for plan in plans if handing_over(plan, behind.plan, problem)]
    return list(dict.fromkeys([served, *plans]))


def main(seconds: float, cache: Path, output: Path, share: str = "0/1") -> None:
    end = time.monotonic() + seconds
    entries = {bucket: found[0] for bucket, found in read_entries(GPU, [cache]).items()}
    first, shares = map(int, share.split("/"))
    problems = [entry.problem for bucket, entry in entries.items() if is_of_few_heads(bucket)][first::shares]
    with open_target(GPU.name) as target:
        for number, problem in enumerate(problems):
            if time.monotonic() > end:
                return
            evaluate, plans = target.evaluator(problem), plans_of(problem, entries)
            for other in problems[number + 1 : number + 1 + AHEAD]:
                target.evaluator(other).prepare(plans_of(other, entries), urgent=False)
            if len(plans) == 1 and entries[problem.bucket()].is_current(plan_sha256):
                continue
            placed = podium(problem, tuple(zip(plans, evaluate.race_here(plans), strict=True)), evaluate)
            if placed:
                entry = entry_of(problem, placed, evaluate, alternates=1, seed=0, evidence=TRANSFERRED)
                write_entries(GPU, [entry], output)
                print(problem, entry.measurement.median_ms, entry.plan, flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]), *map(Path, sys.argv[2:4]), *sys.argv[4:])
