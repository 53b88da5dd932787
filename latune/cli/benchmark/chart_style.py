"""How plots look: an SVG without a background, in colours that keep their contrast on white and on black paper."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

# Its contrast is 4.3 to white and to GitHub's dark page alike: no grey has more to both.
INK = "#7d7d7d"
_COLOURS = ("#2f81f7", "#d9730d", "#1f9d55", "#a371f7", "#d6336c", "#0c9aa8", "#8d6e0f", "#a0522d", "#6b7c93", "#e5484d")
_MARKERS = "osD^vPX*<>"
_RC = {
    "svg.hashsalt": "latune",
    "svg.fonttype": "none",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A peer's colour and marker, the same in all plots of a document."""

    colour: str
    marker: str


def looks(peers: Sequence[str]) -> dict[str, Look]:
    return {
        peer: Look(colour=_COLOURS[index % len(_COLOURS)], marker=_MARKERS[index % len(_MARKERS)])
        for index, peer in enumerate(peers)
    }


@contextmanager
def style() -> Iterator[None]:
    with rc_context(_RC):
        yield


def log_axis(axes: Axes, axis: Axis, *, sparse: bool = False) -> None:
    """Decades, twice and five times them (sparse: three times them), written as plain numbers."""
    (axes.set_xscale if axis is axes.xaxis else axes.set_yscale)("log")
    axis.set_major_locator(LogLocator(subs=(1, 3) if sparse else (1, 2, 5), numticks=20))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def to_svg(figure: Figure) -> str:
    """The figure, the same to the byte each time; within ``style``."""
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None, "Creator": None})
    return text.getvalue()
