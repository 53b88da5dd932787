"""``latune explain``: what serves a shape, what else was close, and why."""

from __future__ import annotations

import click

from latune.cli import explanation
from latune.cli.chosen_gpu import chosen_gpu
from latune.cli.explanation_text import explanation_text
from latune.cli.options import (
    ShapeType,
    decay_option,
    direction_option,
    dtype_option,
    gpu_option,
    json_option,
    states_options,
    storage_option,
)
from latune.cli.output import print_json
from latune.cli.shapes import Shape, problems_of


@click.command()
@click.argument("shape", metavar="SHAPE", type=ShapeType())
@gpu_option
@dtype_option
@direction_option
@decay_option
@states_options
@storage_option
@json_option
def explain(
    shape: Shape,
    gpu_name: str,
    dtype: str,
    direction: str,
    decay: str,
    initial_state: bool,
    final_state: bool,
    storage: str | None,
    as_json: bool,
) -> None:
    """Explains what serves SHAPE (B,H,N,D[,E]; such as 4,32,8192,128).

    For each pass: the step of the ladder that serves it, the winner with its time, interval and share of the roof, the
    alternates by what they have otherwise, the resources of its kernels and how many programs of each an SM holds.

    From the searches of `latune tune` that this machine has: each kernel's runners-up, and the importance of parameters, by
    PED-ANOVA over the correct trials. From `latune regret`: what was lost where the same entry served. What is not known
    here is said, with the command that finds it out. Nothing is compiled or run.
    """
    gpu = chosen_gpu(gpu_name)
    states = {"initial_state": initial_state, "final_state": final_state}
    problems = problems_of([shape], direction=direction, dtype=dtype, decay=decay, **states)
    explanations = [explanation.explain(problem, gpu, storage) for problem in problems]
    if as_json:
        print_json({"gpu": gpu.name, "explanations": [explained.to_json() for explained in explanations]})
        return
    click.echo("\n\n".join(map(explanation_text, explanations)))
