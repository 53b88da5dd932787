"""``--plots DIR`` of ``latune bench``: where matplotlib is, which nothing else needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from latune.cli.benchmark.records import Document
from latune.cli.output import make_folder, say
from latune.errors import LatuneError


def plotter(folder: Path) -> Callable[[Document], None]:
    """What draws a document into the folder; asked for before anything is timed, so that it does not fail after.

    Raises:
        LatuneError: matplotlib is missing, or the folder cannot be made.
    """
    try:
        from latune.cli.benchmark.charts import draw
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "matplotlib":
            raise
        raise LatuneError("--plots needs matplotlib, which is not installed: pip install 'matplotlib>=3.8'") from error
    make_folder(folder)

    def plot(document: Document) -> None:
        for path in draw(document, folder):
            say(f"wrote {path}")

    return plot
