"""``latune generate``: the module that serves a shape, as a file that needs torch and triton alone."""

from __future__ import annotations

from pathlib import Path

import click

from latune.cache.resolve import without_checkpoints
from latune.cli.chosen_gpu import chosen_gpu
from latune.cli.options import ShapeType, decay_option, dtype_option, gpu_option, states_options
from latune.cli.output import say, write_text
from latune.cli.shapes import EXAMPLE, Shape
from latune.codegen.render import render
from latune.ops.dispatch import resolve
from latune.problem import DIRECTIONS


@click.command()
@gpu_option
@click.option("--shape", type=ShapeType(), required=True, help=f"The shape it serves; such as {EXAMPLE}.")
@click.option("--direction", type=click.Choice(DIRECTIONS), default="fwd", show_default=True, help="The pass it computes.")
@dtype_option
@decay_option
@states_options
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file, not to stdout.")
def generate(
    gpu_name: str,
    shape: Shape,
    direction: str,
    dtype: str,
    decay: str,
    initial_state: bool,
    final_state: bool,
    output: Path | None,
) -> None:
    """Prints the module that serves a shape, as lightning_attn would choose it with nothing kept by another pass.

    It depends on torch and triton alone: paste it into any code base.
    """
    problem = shape.problem(direction=direction, decay=decay, dtype=dtype, initial_state=initial_state, final_state=final_state)
    plan, why = next(without_checkpoints(resolve(problem, chosen_gpu(gpu_name)).candidates))
    text = render(problem, plan).text
    say(why)
    if output is None:
        click.echo(text, nl=False)
        return
    write_text(output, text)
    say(f"wrote {output}")
