"""``latune``: the group of all commands."""

from __future__ import annotations

import errno
import sys
import warnings
from importlib import import_module
from typing import cast

import click

from latune.cli.output import INTERRUPTED
from latune.errors import LatuneError

# By name: the module that defines it, and what is said of it in a line.
_COMMANDS = {
    "bench": ("latune.cli.bench", "latune, PyTorch and peers side by side."),
    "cache": ("latune.cli.cache.group", "Lists, merges, compares and checks cache files."),
    "doctor": ("latune.cli.doctor", "Are the entries still right and fastest here?"),
    "explain": ("latune.cli.explain", "What serves a shape, what was close, and why."),
    "generate": ("latune.cli.generate", "The module for a shape, as a standalone file."),
    "gpus": ("latune.cli.gpus", "The known GPUs."),
    "landscape": ("latune.cli.landscape.group", "Records whole search spaces, and searches them again."),
    "regret": ("latune.cli.regret", "What served shapes lose to tuned ones."),
    "show": ("latune.cli.show", "The cache's entries, or what serves a shape."),
    "tune": ("latune.cli.tune", "Tunes shapes for a GPU."),
    "verify": ("latune.cli.verify", "Checks the cache's entries."),
}


class _Group(click.Group):
    """Imports a command when it is asked for: most need torch, which takes seconds."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*_COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _ = _COMMANDS[cmd_name]
        return cast(click.Command, getattr(import_module(module), cmd_name))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, about) in _COMMANDS.items()])

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


def main() -> None:
    """The console script."""
    warnings.showwarning = _show_warning
    sys.exit(_exit_code())


def _exit_code() -> int:
    """Runs the command; whatever ends it early is one line on stderr."""
    try:
        code = cli.main(prog_name="latune", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except OSError as error:
        # Of files that commands name they speak themselves.
        if error.filename is not None:
            raise
        # Nor is what is left of the output written when the process ends.
        sys.stdout = None
        if error.errno != errno.EPIPE:
            click.echo(f"Error: cannot write the output: {error.strerror}; make room, or send it elsewhere", err=True)
        return 1
    return code if isinstance(code, int) else 0


def _show_warning(message: Warning | str, category: type[Warning], *_: object) -> None:
    """One line on stderr; where in the code it was raised is no concern of the command's user."""
    text = str(message)
    click.echo(text if text.startswith("latune:") else f"{category.__name__}: {text}", err=True)
