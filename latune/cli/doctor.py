"""``latune doctor``: do the cache's entries still hold on the GPU that is here, with the toolchain of today?"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import click

from latune import paths
from latune.cache.entry import Entry
from latune.cache.store import read_cache, read_entries
from latune.cli.checkup import CheckUp
from latune.cli.chosen_gpu import needed_gpu
from latune.cli.entries import entries_alike, entries_of, serving
from latune.cli.options import DurationType, chosen_shapes, jobs_option, json_option, preset_option, shapes_option
from latune.cli.output import print_json, say
from latune.cli.presets import DEFAULT_PRESET
from latune.cli.session import warn_of_a_shared_device
from latune.cli.shapes import Shape
from latune.errors import LatuneError
from latune.gpu import Gpu
from latune.tuner.doctor import check_up, in_turns, raced_plans
from latune.tuner.evaluators import measured_toolchain
from latune.tuner.target import Target, open_target

# Entries whose plans are compiled before their turn comes: as many as a minute has room for.
_AHEAD = 16


@click.command()
@shapes_option("Check the entries of this shape's buckets.")
@preset_option(f"Check those of a named set of shapes.  [default: your own and those of {DEFAULT_PRESET}, without --shape]")
@click.option(
    "--time-budget",
    "time_budget_s",
    type=DurationType(),
    default="60s",
    show_default=True,
    help="For the whole command: no entry is begun that is likely to end later.",
)
@jobs_option
@json_option
def doctor(
    shapes: Sequence[Shape],
    preset: str | None,
    time_budget_s: float,
    jobs: int | None,
    as_json: bool,
) -> None:
    """Verifies and times entries of this machine's GPU anew, as after an update of the driver or of Triton.

    An entry's winner, its alternates and the default of the search space run in turns. The entry `fails` if one of its own
    plans does, or is of other code than would be generated now; it is `beaten` if another plan is faster than its winner by
    more than 1%, beyond the noise of the rounds, in two processes; else it `holds`. Exit code 1 when any fails or is beaten,
    with the command that mends it.

    Without --shape and --preset it checks the entries of your own cache, which `latune tune` wrote here, and those of the
    preset `default`, whoever tuned them: what you run is among the former, and the latter, of common models, are few enough
    for a minute. Entries of another toolchain than the present one come first, and sizes take turns, so that each has been
    looked at when the time is up. What is not checked then is named.
    """
    deadline = time.monotonic() + time_budget_s
    gpu = needed_gpu("doctor")
    entries = _serving(gpu, shapes, preset)
    with open_target(gpu.name, workers=jobs) as target:
        assert target.worker is not None, "the GPU is in this machine"
        report = target.worker.device()
        warn_of_a_shared_device(report)
        say(f"checking {len(entries)} entries for {gpu.title}, for at most {time_budget_s:g} s")
        checkup = CheckUp(gpu=gpu, entries=in_turns(entries, measured_toolchain(report)))
        ahead = _compiled_ahead(checkup.entries, target)
        checkup.follow(check_up(ahead, target.evaluator, deadline=deadline))  # type: ignore[arg-type]
    if as_json:
        print_json(checkup.to_json())
    else:
        checkup.print_table()
    checkup.exit()


def _serving(gpu: Gpu, shapes: Sequence[Shape], preset: str | None) -> list[Entry]:
    """What serves the buckets that are meant: the first entry of each that is current, or the first if none is.

    Raises:
        LatuneError: there is none, or none of a shape that was named.
    """
    known = read_entries(gpu)
    meant = entries_of(gpu, shapes) if shapes else []
    if preset is None and not shapes:
        meant += read_cache(gpu, [paths.user_cache()]).entries.values()
        preset = DEFAULT_PRESET
    for shape in chosen_shapes((), preset):
        meant += entries_alike((first for first, *_ in known.values()), shape)
    if not meant:
        listed = f"`latune show --gpu {gpu.name}` lists those there are"
        raise LatuneError(f"no entries for the preset {preset} on {gpu.title}: tune it, or name other shapes; {listed}")
    buckets = dict.fromkeys(entry.bucket for entry in meant)
    return [serving(known[bucket]) for bucket in buckets]


def _compiled_ahead(entries: Sequence[Entry], target: Target) -> Iterator[Entry]:
    """The entries one by one, while all cores compile the plans of the next ones."""
    prepared = 0
    for index, entry in enumerate(entries):
        for soon in entries[prepared : index + _AHEAD]:
            target.builder.prepare(soon.problem, list(raced_plans(soon, target.gpu)), target.gpu, urgent=False)
        prepared = index + _AHEAD
        yield entry
