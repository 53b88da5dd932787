"""``latune tune``: the command and its options, and the processes it needs; what it does is in ``tuning``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click

from latune.cli.options import (
    DurationType,
    chosen_shapes,
    decay_option,
    direction_option,
    dtype_option,
    effort_option,
    gpu_option,
    jobs_option,
    json_option,
    preset_option,
    shapes_option,
    states_options,
    storage_option,
    trials_option,
)
from latune.cli.output import next_time, print_json
from latune.cli.presets import DEFAULT_PRESET
from latune.cli.shapes import Shape, problems_of
from latune.tuner.effort import EFFORTS
from latune.tuner.standby import standing_by

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@gpu_option
@shapes_option("Tune this shape.")
@preset_option("Tune a named set of shapes.  [default: default, without --shape]")
@dtype_option
@direction_option
@decay_option
@states_options
@effort_option
@trials_option
@click.option("--time-budget", "time_budget_s", type=DurationType(), help="For all searches together; such as 10m.")
@click.option(
    "--transfer",
    is_flag=True,
    help="Search nothing: race the winners of the nearest buckets on shapes whose bucket has no entry, or, with --fresh, one "
    "that was transferred.",
)
@click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Same seed and same cache, same search."
)
@storage_option
@click.option("--resume/--fresh", default=True, show_default=True, help="Keep what earlier runs found, or begin anew.")
@click.option(
    "--output", type=click.Path(path_type=Path, file_okay=False), help="The folder to write to, not the user's cache."
)
@click.option(
    "--space", "space_files", type=_FILE, multiple=True, help="A search space of your own; it names its kernel. Repeatable."
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Processes that tune together, each on a GPU of its own.",
)
@jobs_option
@json_option
def tune(
    gpu_name: str,
    shapes: Sequence[Shape],
    preset: str | None,
    dtype: str,
    direction: str,
    decay: str,
    initial_state: bool,
    final_state: bool,
    effort: str,
    trials: int | None,
    time_budget_s: float | None,
    transfer: bool,
    seed: int,
    storage: str | None,
    resume: bool,
    output: Path | None,
    space_files: Sequence[Path],
    workers: int,
    jobs: int | None,
    as_json: bool,
) -> None:
    """Searches the fastest correct kernels and writes them to the cache.

    A GPU that is in this machine is measured on. For any other, candidates are compiled and ranked by a model: evidence
    `static`, which never replaces `measured`. Every evaluation is stored: the same command goes on where a killed one
    stopped. Beside one that runs, here or on another host with the same --storage, it takes what that has not in hand.
    What --effort quick races of known plans is evidence `transferred`, and replaces no `measured` either.
    Ctrl-C keeps the best so far and exits with 130.
    """
    states = {"initial_state": initial_state, "final_state": final_state}
    if preset is None and not shapes:
        preset = DEFAULT_PRESET
    problems = problems_of(chosen_shapes(shapes, preset), direction=direction, dtype=dtype, decay=decay, **states)
    searches = check_searches(effort=effort, transfer=transfer, trials=trials, storage=storage)
    check_workers(workers, searches=searches, fresh=not resume)
    jobs = jobs or max(len(os.sched_getaffinity(0)) // workers, 1)
    with standing_by(seed=seed, workers=jobs) as standby:
        # PyTorch, Triton and Optuna take seconds to import, while the processes come up.
        from latune.cli.tuning import tune_problems

        session = tune_problems(
            problems,
            standby,
            gpu_name=gpu_name,
            effort=EFFORTS[effort],
            transfer=transfer,
            trials=trials,
            time_budget_s=time_budget_s,
            seed=seed,
            storage=storage,
            fresh=not resume,
            output=output,
            space_files=space_files,
            workers=workers,
            jobs=jobs,
        )
    if not as_json:
        session.print_table()
    session.say_what_lost_its_start()
    # The worker has left the GPU: the call has all of its memory.
    call = session.closing_call()
    if as_json:
        print_json(session.to_json(call))
    elif call is not None:
        click.echo(str(call))
    session.exit(next_time(fresh=searches and not resume, keeps=searches or (transfer and resume)))


def check_searches(*, effort: str, transfer: bool, trials: int | None, storage: str | None) -> bool:
    """Whether anything is searched, by options that say so together."""
    if transfer and effort != "default":
        raise click.UsageError("--transfer searches nothing: expected it without --effort; leave that out")
    searches = EFFORTS[effort].searches and not transfer
    if not searches and (trials is not None or storage is not None):
        named = "--transfer" if transfer else f"--effort {effort}"
        raise click.UsageError(f"{named} searches nothing: expected it without --trials and --storage; leave them out")
    return searches


def check_workers(workers: int, *, searches: bool, fresh: bool) -> None:
    if workers > 1 and (not searches or fresh):
        other = "--fresh" if searches else "--transfer or --effort quick"
        remedy = "leave one out, or begin anew by another --seed"
        raise click.UsageError(f"expected --workers without {other}, which each process would do for itself: {remedy}")
