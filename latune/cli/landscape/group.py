"""The group of ``latune landscape``'s commands."""

from __future__ import annotations

import click

from latune.cli.landscape.record import record
from latune.cli.landscape.replay import replay


@click.group()
def landscape() -> None:
    """A landscape is a search space measured config by config: by it a search can be judged without a GPU."""


for command in (record, replay):
    landscape.add_command(command)
