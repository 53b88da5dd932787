"""``latune bench``: latune, PyTorch and installed peers side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from textwrap import shorten

import click
import torch

from latune.cli.case import LINEAR, make_case
from latune.cli.contest import contest
from latune.cli.hosttime import HostTime
from latune.cli.options import (
    ShapeType,
    chosen_shapes,
    decay_option,
    direction_option,
    dtype_option,
    local_gpu,
    preset_option,
)
from latune.cli.output import milliseconds, print_table, say, share_of_roof, write_text
from latune.cli.result import Result
from latune.cli.shapes import EXAMPLE, Shape, parse_shape, problems_of, shape_of
from latune.cli.stopwatch import Stopwatch
from latune.errors import LatuneError
from latune.gpu import Gpu
from latune.ops.dispatch import resolve
from latune.problem import Problem
from latune.tuner.runner import toolchain
from latune.tuner.timing import roof_ms

_COLUMNS = (
    "peer",
    "ms",
    "95%",
    "of roof",
    "times latune",
    "host us",
    "/ add",
    "graph us",
    "error",
    "extra MiB",
    "/ outputs",
    "note",
)
_STDOUT = Path("-")
# A driver's message may be a paragraph; the JSON has all of it.
_NOTE_COLUMNS = 72


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All peers in one direction of one shape.

    Attributes:
        served: what the cache holds for latune, and how it was found.
    """

    problem: Problem
    roof_ms: float
    served: str
    results: Sequence[Result]

    def to_json(self) -> dict[str, object]:
        return {
            "problem": str(self.problem),
            "direction": self.problem.direction,
            "batch": self.problem.batch,
            "num_heads": self.problem.num_heads,
            "seqlen": self.problem.seqlen,
            "head_dim_k": self.problem.head_dim_k,
            "head_dim_v": self.problem.head_dim_v,
            "roof_ms": self.roof_ms,
            "served": self.served,
            "results": [result.to_json() for result in self.results],
        }


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
            write_text(json_path, _document(gpu, stopwatch.copy_gbps, reports))
    if json_path == _STDOUT:
        click.echo(_document(gpu, stopwatch.copy_gbps, reports), nl=False)


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


def _document(gpu: Gpu, copy_gbps: float, reports: Sequence[Report]) -> str:
    document = {
        "gpu": gpu.to_json(),
        "copy_gbps": copy_gbps,
        "toolchain": dict(toolchain()),
        "cases": [report.to_json() for report in reports],
    }
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def print_report(report: Report) -> None:
    title = f"{report.problem}: roof {milliseconds(report.roof_ms)} ms; latune: {report.served}"
    print_table(_COLUMNS, [_row(result, report.roof_ms) for result in report.results], right=_COLUMNS[1:11], title=title)


def _row(result: Result, roof: float) -> list[str]:
    timed = result.timing
    error = "-" if result.error is None else f"{result.error:.1e}"
    if timed is None:
        return [result.peer.name, *"-------", error, "-", "-", _note(result)]
    assert result.extra_bytes is not None and result.output_bytes is not None, "set when timed"
    return [
        result.peer.name,
        milliseconds(timed.median_ms),
        f"{milliseconds(timed.ci_low_ms)} to {milliseconds(timed.ci_high_ms)}",
        share_of_roof(roof, timed.median_ms),
        "-" if result.ratio is None else f"{result.ratio[0]:.2f}",
        *_host_cells(result.host),
        error,
        f"{result.extra_bytes / 2**20:.0f}",
        f"{result.extra_bytes / result.output_bytes:.2f}",
        _note(result),
    ]


def _host_cells(host: HostTime | None) -> tuple[str, str, str]:
    """The host's time in microseconds and in units, and the GPU's time of the same call."""
    if host is None:
        return "-", "-", "-"
    gpu = "-" if host.gpu_us is None else f"{host.gpu_us:.1f}"
    if host.host_us is None or host.units is None:
        return "GPU-bound" if host.gpu_bound else "failed", "-", gpu
    return f"{host.host_us:.1f}", f"{host.units:.1f}", gpu


def _note(result: Result) -> str:
    if result.verdict != "ok":
        note = f"{result.verdict}: {result.detail}" if result.detail else result.verdict
        return shorten(note, _NOTE_COLUMNS, placeholder=" …")
    return result.peer.remark if result.peer.function == LINEAR else f"{result.peer.function}: another function"
