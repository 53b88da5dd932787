"""Horizontal bars, a panel for each group, on one logarithmic axis on which they start at 1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from latune.cli.benchmark.chart_style import INK, log_axis

_MOST_COLUMNS = 3
_NAME_INCHES = 2.0
_PANEL_INCHES = 3.0
_BAR_INCHES = 0.24
_MARGIN_INCHES = 0.5
# Room for a figure at the end of the longest bar.
_ROOM = 1.45
_LEAST_END = 2.0
# From where on a panel is too narrow for many figures below it.
_FAR = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar.

    Attributes:
        interval: the ends of its error bar.
        missing: what is written in the place of a bar without a value.
    """

    name: str
    colour: str
    value: float | None
    interval: tuple[float, float] | None = None
    missing: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Bars under one heading; all groups of a figure have bars of the same names."""

    name: str
    bars: Sequence[Bar]


def draw_bars(groups: Sequence[Group], title: str) -> Figure:
    columns = min(len(groups), _MOST_COLUMNS)
    rows = math.ceil(len(groups) / columns)
    height = _MARGIN_INCHES + rows * (_MARGIN_INCHES + _BAR_INCHES * len(groups[0].bars))
    figure = Figure(figsize=(_NAME_INCHES + _PANEL_INCHES * columns, height), layout="constrained")
    limits = _limits(groups)
    sparse = limits[1] >= _FAR * limits[0]
    panels = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for axes, group in zip(panels, groups, strict=False):
        _draw_group(axes, group, sparse=sparse)
    for axes in panels[len(groups) :]:
        axes.set_axis_off()
    panels[0].set_xlim(*limits)
    figure.suptitle(title, fontsize=10)
    return figure


def _limits(groups: Sequence[Group]) -> tuple[float, float]:
    values = [bar.value for group in groups for bar in group.bars if bar.value is not None]
    return min([1.0, *(value / _ROOM for value in values if value < 1)]), _ROOM * max([_LEAST_END, *values])


def _draw_group(axes: Axes, group: Group, *, sparse: bool) -> None:
    log_axis(axes, axes.xaxis, sparse=sparse)
    axes.set_title(group.name, fontsize=10)
    axes.axvline(1, color=INK, linewidth=1)
    axes.grid(axis="x")
    axes.tick_params(axis="x", labelbottom=True)
    axes.tick_params(axis="y", length=0)
    axes.set_yticks(range(len(group.bars)), [bar.name for bar in group.bars])
    axes.set_ylim(len(group.bars) - 0.4, -0.6)
    for row, bar in enumerate(group.bars):
        _draw_bar(axes, row, bar)


def _draw_bar(axes: Axes, row: int, bar: Bar) -> None:
    if bar.value is None:
        _write(axes, row, 1, bar.missing)
        return
    axes.barh(row, bar.value - 1, left=1, height=0.72, color=bar.colour)
    low, high = bar.interval or (bar.value, bar.value)
    if bar.interval is not None:
        axes.errorbar(bar.value, row, xerr=[[bar.value - low], [high - bar.value]], color=INK, capsize=2, linewidth=1)
    _write(axes, row, max(high, 1), f"{bar.value:.2f}" if bar.value < 10 else f"{bar.value:.0f}")


def _write(axes: Axes, row: int, start: float, text: str) -> None:
    axes.annotate(text, (start, row), (4, 0), textcoords="offset points", va="center", fontsize=8)
