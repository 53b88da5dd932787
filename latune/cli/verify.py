"""``latune verify``: are the cache's entries still right?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click

from latune.cache.entry import Entry
from latune.cli.chosen_gpu import chosen_gpu
from latune.cli.entries import entries_of, fail_for
from latune.cli.options import gpu_option, jobs_option, json_option, shapes_option
from latune.cli.output import plan_lines, print_json, print_table, say
from latune.cli.shapes import Shape
from latune.cli.verdict import Verdict, rebuilt
from latune.codegen.render import plan_sha256, render
from latune.errors import BuildError, RenderError
from latune.tuner.evaluators import StaticEvaluator
from latune.tuner.target import Target, open_target

_COLUMNS = ("bucket", "evidence", "plan", "verdict", "detail")


@click.command()
@gpu_option
@shapes_option("Check the entries of this shape's buckets only.")
@jobs_option
@json_option
def verify(gpu_name: str, shapes: Sequence[Shape], jobs: int | None, as_json: bool) -> None:
    """Checks the winner of each of a GPU's entries.

    With that GPU in this machine every output is compared with float64 references, in a worker process. Elsewhere each
    plan is compiled for the GPU and its resources are compared with those the entry states. Exit code 1 when any fails,
    with the command that mends it.
    """
    gpu = chosen_gpu(gpu_name)
    entries = entries_of(gpu, shapes)
    with open_target(gpu.name, workers=jobs) as target:
        say(f"verifying {len(entries)} entries for {gpu.title}, {'by running' if target.worker else 'by compiling'} them")
        verdicts = list(_verdicts(entries, target))
    if as_json:
        print_json({"gpu": gpu.name, "entries": [verdict.to_json(gpu) for verdict in verdicts]})
    else:
        print_table(_COLUMNS, [_row(verdict) for verdict in verdicts])
    fail_for([verdict.entry for verdict in verdicts if not verdict.ok], len(verdicts), gpu)


def _verdicts(entries: Sequence[Entry], target: Target) -> Iterator[Verdict]:
    stale = {entry.bucket: entry.why_stale(plan_sha256) for entry in entries}
    if target.worker is None:
        for entry in entries:
            if stale[entry.bucket] is None:
                target.builder.prepare(entry.problem, [entry.plan], target.gpu)
    for number, entry in enumerate(entries, start=1):
        why = stale[entry.bucket]
        verdict = _verdict(entry, target) if why is None else Verdict(entry=entry, verdict="stale", detail=why)
        say(f"  {number}/{len(entries)} {entry.bucket}: {verdict.verdict}")
        yield verdict


def _verdict(entry: Entry, target: Target) -> Verdict:
    try:
        if target.worker is None:
            return rebuilt(entry, StaticEvaluator(entry.problem, target.gpu, target.builder))
        return _run(entry, target)
    except (BuildError, RenderError) as error:
        return Verdict(entry=entry, verdict="compile_error", detail=str(error))


def _run(entry: Entry, target: Target) -> Verdict:
    assert target.worker is not None, "the caller has asked"
    problem = entry.problem
    source = render(problem, entry.plan)
    measurement = target.worker.evaluate(problem, entry.plan, source, ahead=target.ahead(problem))
    detail = measurement.detail or f"{measurement.median_ms:.4g} ms now"
    return Verdict(entry=entry, verdict=measurement.outcome, detail=detail, errors=measurement.errors)


def _row(verdict: Verdict) -> list[str]:
    errors = ", ".join(f"{name} {error:.2g}" for name, error in verdict.errors)
    detail = f"{verdict.detail}; RMS errors {errors}" if errors else verdict.detail
    return [str(verdict.entry.bucket), verdict.entry.evidence, plan_lines(verdict.entry.plan), verdict.verdict, detail]
