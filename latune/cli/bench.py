"""``latune bench``: latune, PyTorch and installed peers side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import click
import torch

from latune.cli.case import make_case
from latune.cli.contest import contest
from latune.cli.options import (
    ShapeType,
    chosen_shapes,
    decay_option,
    direction_option,
    dtype_option,
    local_gpu,
    preset_option,
)
from latune.cli.output import json_text, print_json, say, write_text
from latune.cli.records import to_records
from latune.cli.report import Report, to_document
from latune.cli.shapes import EXAMPLE, Shape, parse_shape, problems_of, shape_of
from latune.cli.stopwatch import Stopwatch
from latune.cli.summary import summarise
from latune.cli.tables import print_report, print_summary
from latune.errors import LatuneError
from latune.gpu import Gpu
from latune.ops.dispatch import resolve
from latune.problem import Problem
from latune.tuner.timing import roof_ms

_STDOUT = Path("-")


@click.command(short_help="latune, PyTorch and peers side by side.")
@click.option("--shape", "shapes", type=ShapeType(), multiple=True, help=f"Repeatable.  [default: {EXAMPLE}, without --preset]")
@preset_option("Time a named set of shapes, as `latune tune` knows them.")
@dtype_option
@direction_option
@decay_option
@click.option(
    "--json",
    "json_path",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="Write JSON to this file; -: to stdout, without the tables.",
)
def bench(shapes: Sequence[Shape], preset: str | None, dtype: str, direction: str, decay: str, json_path: Path | None) -> None:
    """Times latune, PyTorch and installed peers (fla, mlstm_kernels, lightning_attn) on this machine's GPU.

    In one process, in turns, with a cold L2 cache: medians of the GPU's time with their 95% intervals. Every output is
    checked against float64 first: what is wrong or cannot run is listed as such. The roof is the time in which the GPU
    copies as many bytes as any implementation must move. SDPA computes softmax attention, another function.

    Host time is the wall time of an eager call (backward: of a forward and backward step) of many in a row, where the GPU
    does not hold it up, also in multiples of a `torch.add` of tiny tensors; beside it the GPU's time of the same call,
    replayed from a CUDA graph, where it can be captured.
    """
    chosen = chosen_shapes(shapes, preset) or [parse_shape(EXAMPLE)]
    gpu = local_gpu()
    if gpu is None:
        raise LatuneError("bench needs a CUDA GPU, and this machine has none: run it where there is one")
    stopwatch = Stopwatch()
    problems = problems_of(chosen, direction=direction, dtype=dtype, decay=decay)
    reports = []
    for report in _reports(problems, gpu, stopwatch):
        reports.append(report)
        if json_path != _STDOUT:
            print_report(report)
        if json_path is not None and json_path != _STDOUT:
            write_text(json_path, json_text(to_document(gpu, stopwatch.copy_gbps, reports)) + "\n")
    document = to_document(gpu, stopwatch.copy_gbps, reports)
    if json_path == _STDOUT:
        print_json(document)
    else:
        print_summary(summarise(to_records(document)))


def _reports(problems: Sequence[Problem], gpu: Gpu, stopwatch: Stopwatch) -> Iterator[Report]:
    """One shape after another: both directions share its inputs and references."""
    for _, directions in groupby(problems, shape_of):
        yield from _reports_of_a_shape(list(directions), gpu, stopwatch)
        stopwatch.release()


def _reports_of_a_shape(problems: Sequence[Problem], gpu: Gpu, stopwatch: Stopwatch) -> Iterator[Report]:
    try:
        case = make_case(problems[0], stopwatch.device)
    except torch.OutOfMemoryError as error:
        raise LatuneError(f"{problems[0]} and its references do not fit {gpu.title}: choose a smaller shape") from error
    for problem in problems:
        say(f"timing {problem}")
        results = contest(problem, case, stopwatch)
        roof = roof_ms(problem.compulsory_bytes, stopwatch.copy_gbps)
        yield Report(problem=problem, roof_ms=roof, served=resolve(problem, gpu).why, results=results)
