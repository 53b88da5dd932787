"""``latune bench``: latune, PyTorch and installed peers side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import click
import torch
from click.core import ParameterSource

from latune.cli.benchmark.autotuning import compiling_together, forget_choices
from latune.cli.benchmark.case import make_case
from latune.cli.benchmark.contest import contest
from latune.cli.benchmark.plots import plotter
from latune.cli.benchmark.records import Document, read_all_records, to_records
from latune.cli.benchmark.report import Report, to_document
from latune.cli.benchmark.stopwatch import Stopwatch
from latune.cli.benchmark.summary import summarise
from latune.cli.benchmark.tables import print_report, print_summary
from latune.cli.chosen_gpu import needed_gpu
from latune.cli.options import ShapeType, chosen_shapes, decay_option, direction_option, dtype_option, preset_option
from latune.cli.output import json_text, print_json, say, write_text
from latune.cli.shapes import EXAMPLE, Shape, parse_shape, problems_of, shape_of
from latune.errors import LatuneError
from latune.gpu import Gpu
from latune.ops.dispatch import resolve
from latune.problem import Problem
from latune.tuner.timing import roof_ms

_STDOUT = Path("-")


@click.command()
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
@click.option(
    "--plots",
    "folder",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Draw times, speed-ups and memory into this folder, as SVG.",
)
@click.option(
    "--from",
    "sources",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    help="Time nothing: sum up, and with --plots draw, what an earlier run wrote with --json. Repeatable, for runs of "
    "different shapes on GPUs of one kind.",
)
@click.pass_context
def bench(
    ctx: click.Context,
    shapes: Sequence[Shape],
    preset: str | None,
    dtype: str,
    direction: str,
    decay: str,
    json_path: Path | None,
    folder: Path | None,
    sources: Sequence[Path],
) -> None:
    """Times latune, PyTorch and installed peers (fla, mlstm_kernels, lightning_attn) on this machine's GPU.

    In one process, in turns, from CUDA graphs over rotated inputs that leave the L2 cache cold: medians of the GPU's time with
    their 95% intervals. Every output is checked against float64 first: what is wrong or cannot run is listed as such. The
    roof is the time in which the GPU copies as many bytes as any implementation must move. SDPA computes softmax
    attention, another function.

    Host time is the wall time of an eager call (backward: of a forward and backward step) of many in a row, where the GPU
    does not hold it up, also in multiples of a `torch.add` of tiny tensors; beside it the GPU's time of the same call,
    replayed from a CUDA graph, where it can be captured.

    At the end stands, for each direction, how far latune is ahead of the fastest peer over all shapes: the geometric mean
    and the worst.
    """
    if sources:
        _check_alone(ctx)
    chosen = chosen_shapes(shapes, preset) or [parse_shape(EXAMPLE)]
    plot = None if folder is None else plotter(folder)
    if sources:
        records = read_all_records(sources)
    else:
        records = _run(problems_of(chosen, direction=direction, dtype=dtype, decay=decay), json_path)
    if json_path != _STDOUT:
        print_summary(summarise(records))
    if plot is not None:
        plot(records)


def _check_alone(ctx: click.Context) -> None:
    """``--from`` times nothing: what says how to would be ignored."""
    given = [param.opts[0] for param in ctx.command.params if _is_given(ctx, param) and param.name not in ("sources", "folder")]
    if given:
        raise click.UsageError(f"--from times nothing: expected --plots alone beside it, got {', '.join(given)}; leave out one")


def _is_given(ctx: click.Context, param: click.Parameter) -> bool:
    return param.name is not None and ctx.get_parameter_source(param.name) == ParameterSource.COMMANDLINE


def _run(problems: Sequence[Problem], json_path: Path | None) -> Document:
    """Times all problems; tables and the file grow with every one of them."""
    gpu = needed_gpu("bench")
    stopwatch = Stopwatch()
    reports: list[Report] = []
    document: dict[str, object] = {}
    for report in _reports(problems, gpu, stopwatch):
        reports.append(report)
        document = to_document(gpu, stopwatch.copy_gbps, reports)
        if json_path != _STDOUT:
            print_report(report)
        if json_path is not None and json_path != _STDOUT:
            write_text(json_path, json_text(document) + "\n")
    if not reports:
        raise LatuneError(f"none of the shapes fits {gpu.title}: choose smaller ones")
    if json_path == _STDOUT:
        print_json(document)
    return to_records(document)


def _reports(problems: Sequence[Problem], gpu: Gpu, stopwatch: Stopwatch) -> Iterator[Report]:
    """One shape after another: both directions share its inputs and references."""
    for _, directions in groupby(problems, shape_of):
        yield from _reports_of_a_shape(list(directions), gpu, stopwatch)
        stopwatch.release()


def _reports_of_a_shape(problems: Sequence[Problem], gpu: Gpu, stopwatch: Stopwatch) -> Iterator[Report]:
    try:
        case = make_case(problems[0], stopwatch.device)
    except torch.OutOfMemoryError as error:
        say(f"leaving out {shape_of(problems[0])}, which with its references does not fit {gpu.title}: {error}")
        return
    forget_choices()
    for problem in problems:
        say(f"timing {problem}")
        with compiling_together():
            results = contest(problem, case, stopwatch)
        roof = roof_ms(problem.compulsory_bytes, stopwatch.copy_gbps)
        yield Report(problem=problem, roof_ms=roof, served=resolve(problem, gpu).why, results=results)
