"""What several commands take: option types, and the options themselves."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from latune.cli.presets import read_presets
from latune.cli.shapes import EXAMPLE, Shape, parse_shape
from latune.gpu import STATIC_GPU
from latune.problem import DECAYS, DIRECTIONS, DTYPE_BYTES
from latune.tuner.effort import DEFAULT, EFFORTS

AUTO = "auto"

Command = TypeVar("Command", bound=Callable[..., Any])

_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


class ShapeType(click.ParamType):
    """``B,H,N,D[,E]``."""

    name = "B,H,N,D[,E]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Shape:
        try:
            return value if isinstance(value, Shape) else parse_shape(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class DurationType(click.ParamType):
    """A number with s, m or h, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", value.strip())
        seconds = float(found[1]) * _SECONDS[found[2]] if found else 0.0
        if not seconds:
            self.fail(f"expected a time above zero, such as 90s, 10m or 1h, got {value!r}", param, ctx)
        return seconds


def gpu_option(command: Command) -> Command:
    text = f"A GPU of `latune gpus`. auto: the one in this machine, else {STATIC_GPU}."
    return click.option("--gpu", "gpu_name", metavar="NAME", default=AUTO, show_default=True, help=text)(command)


def shapes_option(text: str) -> Callable[[Command], Command]:
    return click.option("--shape", "shapes", type=ShapeType(), multiple=True, help=f"{text} Repeatable; such as {EXAMPLE}.")


def preset_option(text: str) -> Callable[[Command], Command]:
    return click.option("--preset", metavar="NAME", help=text)


def chosen_shapes(shapes: Sequence[Shape], preset: str | None) -> list[Shape]:
    """The shapes named one by one, then those of the preset."""
    if preset is None:
        return list(shapes)
    presets = read_presets()
    if preset not in presets:
        raise click.BadParameter(f"expected one of {', '.join(presets)}, got {preset!r}", param_hint="--preset")
    return [*shapes, *presets[preset].shapes]


def dtype_option(command: Command) -> Command:
    kind = click.Choice(list(DTYPE_BYTES))
    return click.option("--dtype", type=kind, default="bf16", show_default=True, help="Of q, k, v and their gradients.")(
        command
    )


def decay_option(command: Command) -> Command:
    text = "constant: one slope a head; none: no decay."
    return click.option("--decay", type=click.Choice(DECAYS[::-1]), default="constant", show_default=True, help=text)(command)


def direction_option(command: Command) -> Command:
    kind = click.Choice([*DIRECTIONS, "both"])
    return click.option("--direction", type=kind, default="both", show_default=True, help="The passes meant.")(command)


def states_options(command: Command) -> Command:
    initial = "Takes an initial state; the backward pass returns its gradient."
    final = "Returns the final state; the backward pass takes its gradient."
    command = click.option("--final-state", is_flag=True, help=final)(command)
    return click.option("--initial-state", is_flag=True, help=initial)(command)


def trials_option(command: Command) -> Command:
    text = ", ".join(f"{count} {evidence}" for evidence, count in DEFAULT.trials.items())
    kind = click.IntRange(min=1)
    return click.option("--trials", type=kind, help=f"Evaluations of each kernel, at most.  [default: {text}]")(command)


def effort_option(command: Command) -> Command:
    text = (
        "How much to search. quick: nothing, what has won here and in the nearest buckets is raced, and its variants; "
        f"default: until {DEFAULT.patience} evaluations in a row bring nothing; max: four times as many, whatever they bring."
    )
    return click.option("--effort", type=click.Choice(list(EFFORTS)), default="default", show_default=True, help=text)(command)


def storage_option(command: Command) -> Command:
    text = "Where evaluations are kept: a database's URL, a journal file (its name has a suffix), or a folder of journals."
    return click.option("--storage", metavar="URL", help=text)(command)


def json_option(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON to stdout.")(command)


def jobs_option(command: Command) -> Command:
    text = "Builds at a time.  [default: one a CPU core]"
    return click.option("--jobs", type=click.IntRange(min=1), metavar="N", help=text)(command)
