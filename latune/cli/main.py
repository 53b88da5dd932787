"""``latune``: the group of all commands."""

from __future__ import annotations

import warnings

import click

from latune.cli.bench import bench
from latune.cli.cache.group import cache
from latune.cli.doctor import doctor
from latune.cli.explain import explain
from latune.cli.generate import generate
from latune.cli.gpus import gpus
from latune.cli.landscape.group import landscape
from latune.cli.regret import regret
from latune.cli.show import show
from latune.cli.tune import tune
from latune.cli.verify import verify
from latune.errors import LatuneError


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except LatuneError as error:
            raise click.ClickException(" ".join(str(error).split())) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="latune")
def cli() -> None:
    """Tunes and generates Lightning Attention-2 kernels.

    Results go to stdout, messages to stderr. Exit codes: 0 done; 1 an error, said in one line with its remedy; 2 usage;
    130 interrupted by Ctrl-C, with the best so far kept.
    """


for command in (tune, show, explain, generate, verify, doctor, bench, regret, landscape, gpus, cache):
    cli.add_command(command)


def main() -> None:
    """The console script."""
    warnings.showwarning = _show_warning
    cli(prog_name="latune")


def _show_warning(message: Warning | str, category: type[Warning], *_: object) -> None:
    """One line on stderr; where in the code it was raised is no concern of the command's user."""
    text = str(message)
    click.echo(text if text.startswith("latune:") else f"{category.__name__}: {text}", err=True)
