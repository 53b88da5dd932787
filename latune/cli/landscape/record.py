"""``latune landscape record``: a whole search space, measured config by config."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import click

from latune.cli.chosen_gpu import chosen_gpu
from latune.cli.options import DurationType, ShapeType, decay_option, dtype_option, gpu_option, jobs_option
from latune.cli.output import INTERRUPTED, milliseconds, next_time, say
from latune.cli.shapes import EXAMPLE, Shape
from latune.codegen.space import load_space
from latune.plan import KERNELS
from latune.tuner.grid import Grid
from latune.tuner.landscapes.landscape import Landscape, Point
from latune.tuner.landscapes.record import record as record_landscape
from latune.tuner.target import open_target

_FILE = click.Path(path_type=Path, dir_okay=False)
_LINE_EVERY_S = 10.0


@click.command(short_help="Measures every config of a kernel's space.")
@gpu_option
@click.option("--shape", type=ShapeType(), required=True, help=f"Of this shape; such as {EXAMPLE}.")
@click.option("--kernel", "kernel_name", type=click.Choice(list(KERNELS)), required=True, help="Whose search space.")
@dtype_option
@decay_option
@click.option("--space", "space_file", type=_FILE, help="A search space of your own.")
@click.option("--output", "path", type=_FILE, required=True, help="The file to write, such as fwd.jsonl.gz.")
@click.option("--time-budget", "time_budget_s", type=DurationType(), help="Stop after it; such as 10m.")
@click.option("--resume/--fresh", default=True, show_default=True, help="Keep what earlier runs measured, or begin anew.")
@jobs_option
def record(
    gpu_name: str,
    shape: Shape,
    kernel_name: str,
    dtype: str,
    decay: str,
    space_file: Path | None,
    path: Path,
    time_budget_s: float | None,
    resume: bool,
    jobs: int | None,
) -> None:
    """Every config is built, verified and timed, and the fastest are raced again three times.

    Each is kept as soon as it is measured, beside the output as `.part`: the same command goes on where a killed one, or
    one whose time was up, has stopped. A GPU that is not in this machine is not measured on: its landscape is the model's.
    """
    kernel = KERNELS[kernel_name]
    space = load_space(kernel.space, space_file)
    problem = shape.problem(direction=kernel.direction, decay=decay, dtype=dtype)
    with open_target(chosen_gpu(gpu_name).name, workers=jobs) as target:
        grid = Grid(space, problem, target.gpu, kernel)
        say(f"{len(grid.configs)} configs of {kernel_name}, {problem}, for {target.gpu.title} (evidence: {target.evidence})")
        try:
            landscape = record_landscape(
                grid,
                target.evaluator(problem),
                path,
                fresh=not resume,
                time_budget_s=time_budget_s,
                on_point=_progress(),
            )
        except KeyboardInterrupt:
            say(f"interrupted: {next_time(fresh=not resume)}")
            raise click.exceptions.Exit(INTERRUPTED) from None
    if landscape is None:
        say(f"the time is up: {next_time(fresh=not resume)}")
        return
    click.echo(f"{_summary(landscape)}\nwrote {path}")


def _progress() -> Callable[[Point, int, int], None]:
    """Says now and then how far it has come."""
    said_at = time.monotonic()

    def on_point(_: Point, done: int, total: int) -> None:
        nonlocal said_at
        if done == total or time.monotonic() - said_at >= _LINE_EVERY_S:
            said_at = time.monotonic()
            say(f"{done}/{total} configs")

    return on_point


def _summary(landscape: Landscape) -> str:
    outcomes = Counter(point.measurement.outcome for point in landscape.points)
    counted = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
    if "ok" not in outcomes:
        return f"{counted}: none is correct"
    tied = [point.config for point in landscape.points if landscape.in_tie(point.config)]
    best = max(tied, key=landscape.share_of_best)
    return f"{counted}; best {milliseconds(landscape.best_ms)} ms: {best}; {len(tied)} within 1% of it"
