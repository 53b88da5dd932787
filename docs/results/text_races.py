"""Races of generated text that was changed by hand, for the scripts beside this one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from latune.codegen.build import compile_launch
from latune.codegen.launches import record_launches
from latune.codegen.load import load
from latune.codegen.render import Source
from latune.errors import BuildError
from latune.gpu import find_gpu
from latune.plan import Plan
from latune.problem import Problem
from latune.tuner.worker import Worker

GPU = find_gpu("h200")
ROUNDS = 20


def fits(problem: Problem, source: Source) -> bool:
    """Whether it compiles and shared memory holds it: one that does not would end the race for all."""
    try:
        launches = record_launches(load(source), problem)
        return all(compile_launch(launch, GPU).metadata.shared <= GPU.shared_per_block_bytes for launch in launches)
    except BuildError as error:
        print(problem, error, flush=True)
        return False


def race(worker: Worker, problem: Problem, plan: Plan, names: Mapping[Source, str], fitting: Sequence[Source]) -> list[dict]:
    """Verifies and times what fits, in turns; rows of results, which it prints as well."""
    rows: list[dict] = []
    raced = worker.race(problem, [(plan, source) for source in fitting], rounds=ROUNDS)
    for name, measurement in zip(map(names.__getitem__, fitting), raced, strict=True):
        times = {"ms": measurement.median_ms, "low": measurement.ci_low_ms, "high": measurement.ci_high_ms}
        rows.append({"problem": str(problem), "variant": name, "outcome": measurement.outcome, **times})
        print(*rows[-1].values(), measurement.detail[:80], flush=True)
    return rows
