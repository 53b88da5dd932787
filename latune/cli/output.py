"""Results go to stdout as tables or JSON, messages to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from latune.config import Config
from latune.errors import LatuneError
from latune.files import replace_text
from latune.plan import Plan

INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells have it."""

# Wide enough for any table: in a pipe or a file nothing is folded to fit a screen that is not there.
_UNBOUNDED_COLUMNS = 10_000


def next_time(*, fresh: bool, keeps: bool = True) -> str:
    """What the same command does after one that was ended before its time.

    Args:
        fresh: whether the command forgets what earlier ones kept.
        keeps: whether it keeps anything for the next one.
    """
    if not keeps:
        return "the same command begins anew"
    return f"the same command{', without --fresh,' * fresh} goes on from here"


def say(message: str) -> None:
    click.echo(message, err=True)


def json_text(value: object) -> str:
    return json.dumps(value, indent=2, allow_nan=False)


def print_json(value: object) -> None:
    click.echo(json_text(value))


def write_text(path: Path, text: str) -> None:
    """A file of results, in one step: what was there before stays until all of it is written.

    Raises:
        LatuneError: it cannot be written.
    """
    try:
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8")  # A device, or a pipe.
        else:
            replace_text(path.resolve(), text)
    except OSError as error:
        raise LatuneError(f"cannot write {path}: {error.strerror}; give a path you can write to") from error


def make_folder(path: Path) -> None:
    """A folder for results, if it is not there yet.

    Raises:
        LatuneError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LatuneError(f"cannot make the folder {path}: {error.strerror}; give a path you can write to") from error


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = (), title: str | None = None
) -> None:
    """A table with a head.

    Args:
        columns: their names.
        rows: the cells' texts, a line break where a cell has several lines.
        right: columns of numbers.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left")
    for row in rows:
        table.add_row(*map(Text, row))
    Console(width=None if sys.stdout is not None and sys.stdout.isatty() else _UNBOUNDED_COLUMNS).print(table)


def milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def share_of_roof(roof_ms: float | None, median_ms: float | None) -> str:
    """How close a time is to one that cannot be beaten: ``84%``."""
    return f"{100 * roof_ms / median_ms:.0f}%" if roof_ms and median_ms else "-"


def plan_lines(plan: Plan) -> str:
    """The plan for a table's cell, a line for each config; kernels that share one share a line."""
    kernels: dict[Config, list[str]] = {}
    for step in plan.steps:
        kernels.setdefault(step.config, []).append(step.kernel)
    lines = [f"{', '.join(names)}: {config_text(config)}" for config, names in kernels.items()]
    return "\n".join([*lines, *(["launches chained"] if plan.is_chained else [])])


def config_text(config: Config) -> str:
    """Choices by value alone, numbers by name."""
    words = [config.algorithm, *(value for _, value in config.choices)]
    words += [f"{name}={value}" for name, value in (*config.constexprs, *config.options)]
    return " ".join([*words, f"warps={config.num_warps}", f"stages={config.num_stages}"])
