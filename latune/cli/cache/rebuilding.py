"""Plans of cache entries compiled for the GPUs they were tuned for, each once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from latune.cache.entry import Entry
from latune.cli.output import say
from latune.cli.verdict import Verdict, rebuilt
from latune.codegen.kept import handing_over
from latune.codegen.render import plan_sha256
from latune.errors import RenderError
from latune.gpu import Gpu
from latune.measurement import Measurement
from latune.plan import Plan
from latune.problem import Bucket
from latune.tuner.builders import ParallelBuilder
from latune.tuner.evaluators import StaticEvaluator

Tuned = tuple[Gpu, Entry]
_Code = tuple[Gpu, str, Plan]


def rebuild(entries: Sequence[Tuned], workers: int | None = None) -> dict[Tuned, Verdict]:
    """Compiles winners, alternates and winners as they hand over, and holds the resources of the winners against those stated.

    Buckets whose code is the same share a build: sizes go into a launch, not into the kernel.

    Args:
        workers: compiler processes; None: one a CPU core.

    Raises:
        WorkerError: no compiler process can be started.
    """
    winners = {(gpu, entry.bucket): entry for gpu, entry in entries}
    others = {(gpu, entry): _others(entry, winners.get((gpu, _opposite(entry.bucket)))) for gpu, entry in entries}
    with ParallelBuilder(workers=workers) as builder:
        judges: dict[_Code, StaticEvaluator] = {}
        for gpu, entry in entries:
            for plan in (entry.plan, *others[gpu, entry].values()):
                judges.setdefault(_code(gpu, entry.bucket, plan), StaticEvaluator(entry.problem, gpu, builder))
        say(f"compiling {len(judges)} plans of {len(entries)} entries on {builder.workers} cores")
        _build(judges)
        return {(gpu, entry): _verdict(entry, gpu, others[gpu, entry], judges) for gpu, entry in entries}


def _others(entry: Entry, opposite: Entry | None) -> dict[str, Plan]:
    """What may run in the winner's place, by what it is."""
    plans = {f"alternate {number}": plan for number, plan in enumerate(entry.alternates, start=1)}
    if opposite is None:
        return plans
    is_forward = entry.bucket.direction == "fwd"
    ahead, behind = (entry, opposite) if is_forward else (opposite, entry)
    if handed := handing_over(ahead.plan, behind.plan, entry.problem):
        what = "with what its backward pass starts from" if is_forward else "from what its forward pass keeps"
        plans[what] = handed[0] if is_forward else handed[1]
    return plans


def _opposite(bucket: Bucket) -> Bucket:
    return replace(bucket, direction="bwd" if bucket.direction == "fwd" else "fwd")


def _build(judges: dict[_Code, StaticEvaluator]) -> None:
    for (*_, plan), judge in judges.items():
        judge.prepare([plan])
    for number, ((gpu, _, plan), judge) in enumerate(judges.items(), start=1):
        built = judge.build(plan)
        outcome = built.outcome if isinstance(built, Measurement) else "ok"
        say(f"  {number}/{len(judges)} {gpu.name} {judge.problem}: {outcome}")


def _verdict(entry: Entry, gpu: Gpu, others: Mapping[str, Plan], judges: dict[_Code, StaticEvaluator]) -> Verdict:
    winner = rebuilt(entry, judges[_code(gpu, entry.bucket, entry.plan)])
    for what, plan in others.items() if winner.ok else ():
        built = judges[_code(gpu, entry.bucket, plan)].build(plan)
        if isinstance(built, Measurement):
            return Verdict(entry=entry, verdict=built.outcome, detail=f"{what}: {built.detail}")
    return winner


def _code(gpu: Gpu, bucket: Bucket, plan: Plan) -> _Code:
    """What one build is of; a plan that cannot be generated fails alike in all buckets."""
    try:
        return gpu, plan_sha256(bucket, plan), plan
    except RenderError:
        return gpu, "", plan
