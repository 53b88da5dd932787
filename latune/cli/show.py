"""``latune show``: what the cache holds for a GPU, or what would run for a shape and why."""

from __future__ import annotations

from collections.abc import Sequence

import click

from latune.cache.entry import Entry
from latune.cache.resolve import Resolution
from latune.cache.store import read_entries
from latune.cli.chosen_gpu import chosen_gpu
from latune.cli.entries import serving
from latune.cli.options import (
    decay_option,
    direction_option,
    dtype_option,
    gpu_option,
    json_option,
    shapes_option,
    states_options,
)
from latune.cli.output import milliseconds, plan_lines, print_json, print_table, say, share_of_roof
from latune.cli.resolutions import resolution_json, resolution_lines, resources_text
from latune.cli.shapes import Shape, problems_of
from latune.codegen.render import plan_sha256
from latune.gpu import Gpu
from latune.ops.dispatch import resolve, tune_command
from latune.problem import Problem

_COLUMNS = ("bucket", "ms", "of roof", "evidence", "plan", "tuned at")


@click.command()
@gpu_option
@shapes_option("Show what would run for this shape, and why.")
@dtype_option
@direction_option
@decay_option
@states_options
@json_option
def show(
    gpu_name: str,
    shapes: Sequence[Shape],
    dtype: str,
    direction: str,
    decay: str,
    initial_state: bool,
    final_state: bool,
    as_json: bool,
) -> None:
    """Lists a GPU's entries, or what would run for --shape and why.

    Without --shape all entries are listed, whatever their dtype, direction and decay.
    """
    gpu = chosen_gpu(gpu_name)
    if not shapes:
        _show_entries(gpu, as_json)
        return
    states = {"initial_state": initial_state, "final_state": final_state}
    problems = problems_of(shapes, direction=direction, dtype=dtype, decay=decay, **states)
    resolutions = [(problem, resolve(problem, gpu)) for problem in problems]
    if as_json:
        print_json({"gpu": gpu.name, "resolutions": [resolution_json(*pair) for pair in resolutions]})
        return
    click.echo("\n\n".join(_resolution_text(*pair) for pair in resolutions))


def _show_entries(gpu: Gpu, as_json: bool) -> None:
    entries = [serving(entries) for entries in read_entries(gpu).values()]
    if as_json:
        listed = [{**entry.to_json(), "current": entry.is_current(plan_sha256)} for entry in entries]
        print_json({"gpu": gpu.name, "entries": listed})
        return
    if not entries:
        say(f"no entries for {gpu.title}: tune it with `latune tune --gpu {gpu.name}`")
        return
    print_table(_COLUMNS, [_entry_row(entry) for entry in entries], right=_COLUMNS[1:3])


def _entry_row(entry: Entry) -> list[str]:
    median_ms = entry.measurement.median_ms
    evidence = entry.evidence if entry.is_current(plan_sha256) else f"{entry.evidence}, of other code: ignored"
    roof = share_of_roof(entry.roof_ms, median_ms)
    return [str(entry.bucket), milliseconds(median_ms), roof, evidence, plan_lines(entry.plan), entry.tuned_at]


def _resolution_text(problem: Problem, resolution: Resolution) -> str:
    lines = resolution_lines(problem, resolution)
    if resolution.entry is not None:
        lines += ["  resources, as compiled for the entry's shape:"]
        lines += [f"    {resources_text(kernel)}" for kernel in resolution.entry.resources]
    lines += ["  candidates, in the order in which they would be tried:"]
    lines += [f"    {number}. {why}" for number, (_, why) in enumerate(resolution.candidates, start=1)]
    if resolution.step != "exact":
        lines += [f"  tune it: {tune_command(problem, resolution.gpu)}"]
    return "\n".join(lines)
