"""The tables of ``latune bench``."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import shorten

from latune.cli.benchmark.case import LINEAR
from latune.cli.benchmark.hosttime import HostTime
from latune.cli.benchmark.report import Report
from latune.cli.benchmark.result import Result
from latune.cli.benchmark.summary import Summary
from latune.cli.output import milliseconds, print_table, share_of_roof

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
    "step MiB",
    "note",
)
_SUMMARY_COLUMNS = ("direction", "shapes", "geometric mean", "worst", "at", "against", "left out")
# A driver's message may be a paragraph; the JSON has all of it.
_NOTE_COLUMNS = 72


def print_report(report: Report) -> None:
    title = f"{report.problem}: roof {milliseconds(report.roof_ms)} ms; latune: {report.served}"
    print_table(_COLUMNS, [_row(result, report.roof_ms) for result in report.results], right=_COLUMNS[1:-1], title=title)


def _row(result: Result, roof: float) -> list[str]:
    timed = result.timing
    error = "-" if result.error is None else f"{result.error:.1e}"
    if timed is None:
        return [result.peer.name, *"-------", error, *"---", _note(result)]
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
        "-" if result.step_bytes is None else f"{result.step_bytes / 2**20:.0f}",
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
    note = result.peer.remark if result.peer.function == LINEAR else f"{result.peer.function}: another function"
    return "; ".join(filter(None, [note, "" if result.replayed else "cannot be captured, timed one by one"]))


def print_summary(summaries: Sequence[Summary]) -> None:
    """Nothing where nothing was timed."""
    if summaries:
        title = "the fastest linear-attention peer's time / latune's, over all shapes"
        print_table(_SUMMARY_COLUMNS, map(_summary_row, summaries), right=_SUMMARY_COLUMNS[1:4], title=title)


def _summary_row(summary: Summary) -> list[str]:
    mean, worst = summary.geometric_mean, summary.worst
    figures = ["-"] * 4 if mean is None or worst is None else [f"{mean:.2f}", f"{worst.ratio:.2f}", worst.shape, worst.peer]
    return [summary.direction, str(len(summary.leads)), *figures, "\n".join(summary.left_out)]
