"""Plots of a document of ``latune bench``: time against length, speed-ups, memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from latune.cli.benchmark.chart_bars import Bar, Group, draw_bars
from latune.cli.benchmark.chart_style import INK, Look, log_axis, looks, style, to_svg
from latune.cli.benchmark.records import LATUNE, CaseRecord, Document, PeerRecord
from latune.cli.output import write_text

_PASSES = {"fwd": "forward", "bwd": "backward"}
_PANEL_INCHES = (4.0, 4.2)
_LEGEND_INCHES = 2.8
_NOTE_COLUMNS = 88


def draw(document: Document, folder: Path) -> list[Path]:
    """Writes all plots into the folder, one SVG each, and returns their paths.

    Time against length is drawn for head dims that were timed at more than one.

    Raises:
        LatuneError: one cannot be written.
    """
    paths = []
    with style():
        for name, figure in _figures(document):
            paths.append(folder / f"{name}.svg")
            write_text(paths[-1], to_svg(figure))
    return paths


def _figures(document: Document) -> Iterator[tuple[str, Figure]]:
    peers = looks(document.peers)
    for direction, cases in document.cases_by_direction().items():
        for dims, same in groupby(sorted(cases, key=_head_dims), _head_dims):
            alike = list(same)
            if len({case.seqlen for case in alike}) > 1:
                name = f"time-{direction}-d{dims[0]}" + (f"-e{dims[1]}" if dims[1] != dims[0] else "")
                yield name, _times(alike, peers, f"{_title(direction, document)}, {_dims_text(dims)}")
        yield f"speedup-{direction}", _speedups(cases, peers, _title(direction, document))
        yield f"memory-{direction}", _memory(cases, peers, _title(direction, document))


def _title(direction: str, document: Document) -> str:
    return f"{document.gpu.title}, {document.cases[0].kind}, {_PASSES.get(direction, direction)}"


def _head_dims(case: CaseRecord) -> tuple[int, int]:
    return case.head_dim_k, case.head_dim_v


def _dims_text(dims: tuple[int, int]) -> str:
    return f"D {dims[0]}" if dims[0] == dims[1] else f"D {dims[0]}, E {dims[1]}"


def _rows(case: CaseRecord) -> tuple[int, int]:
    return case.batch, case.num_heads


def _times(cases: Sequence[CaseRecord], peers: dict[str, Look], title: str) -> Figure:
    """Time against length, a panel for each batch and number of heads, for lines join only what differs in length alone."""
    panels = [list(same) for _, same in groupby(sorted(cases, key=_rows), _rows)]
    width, height = _PANEL_INCHES
    figure = Figure(figsize=(_LEGEND_INCHES + width * len(panels), height), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True):
        _draw_panel(axes, sorted(panel, key=lambda case: case.seqlen), peers)
    figure.axes[0].set_ylabel("ms, median and 95% interval")
    figure.suptitle(title)
    handles = {label: line for axes in figure.axes for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside right center")
    figure.supxlabel(_missing(cases), fontsize=8)
    return figure


def _draw_panel(axes: Axes, cases: Sequence[CaseRecord], peers: dict[str, Look]) -> None:
    log_axis(axes, axes.yaxis)
    axes.set_xscale("log", base=2)
    lengths = [case.seqlen for case in cases]
    axes.set_xticks(lengths, [str(length) for length in lengths], minor=False)
    axes.set_xlim(lengths[0] / 1.5, lengths[-1] * 1.5)
    axes.set_xlabel("N")
    axes.set_title(f"B {cases[0].batch}, H {cases[0].num_heads}", fontsize=10)
    axes.grid(axis="y")
    for peer, look in peers.items():
        _draw_peer(axes, cases, peer, look)
    axes.plot(
        lengths, [case.roof_ms for case in cases], color=INK, linestyle=":", marker="_", markersize=10, label="memory roof"
    )


def _draw_peer(axes: Axes, cases: Sequence[CaseRecord], peer: str, look: Look) -> None:
    timed = [(case.seqlen, result) for case in cases for result in case.results if result.peer == peer and result.timed]
    if not timed:
        return
    lengths, times = [length for length, _ in timed], [result.median_ms for _, result in timed]
    below = [result.median_ms - result.ci_low_ms for _, result in timed]
    above = [result.ci_high_ms - result.median_ms for _, result in timed]
    linear = timed[0][1].linear
    axes.errorbar(
        lengths,
        times,
        yerr=[below, above],
        color=look.colour,
        marker=look.marker,
        markersize=5,
        capsize=3,
        linestyle="-" if linear else "--",
        linewidth=2.4 if peer == LATUNE else 1.3,
        label=peer if linear else f"{peer} (softmax)",
    )


def _missing(cases: Sequence[CaseRecord]) -> str:
    """Which peers have no point where, and why."""
    missing: dict[tuple[str, str], list[str]] = {}
    for case in cases:
        for result in case.results:
            if not result.timed:
                missing.setdefault((result.peer, result.verdict), []).append(case.shape)
    named = [f"{peer}: {verdict} at {' and '.join(shapes)}" for (peer, verdict), shapes in missing.items()]
    return fill("; ".join(named), _NOTE_COLUMNS)


def _speedups(cases: Sequence[CaseRecord], peers: dict[str, Look], title: str) -> Figure:
    groups = [Group(name=case.shape, bars=[_speedup(result, peers) for result in case.rivals]) for case in cases]
    return draw_bars(
        groups, f"{title}: time of each peer / latune's, with its 95% interval (the extremes of fewer than 6 rounds)"
    )


def _speedup(result: PeerRecord, peers: dict[str, Look]) -> Bar:
    ratio = result.times_latune
    return Bar(
        name=result.peer,
        colour=peers[result.peer].colour,
        value=None if ratio is None else ratio.median,
        interval=None if ratio is None else (ratio.low, ratio.high),
        missing=result.verdict if not result.timed else "latune not timed",
    )


def _memory(cases: Sequence[CaseRecord], peers: dict[str, Look], title: str) -> Figure:
    groups = [Group(name=case.shape, bars=[_memory_bar(result, peers) for result in case.results]) for case in cases]
    return draw_bars(groups, f"{title}: peak extra memory / that of the outputs alone")


def _memory_bar(result: PeerRecord, peers: dict[str, Look]) -> Bar:
    return Bar(name=result.peer, colour=peers[result.peer].colour, value=result.extra_over_outputs, missing=result.verdict)
