"""``latune cache``: the group of its commands."""

from __future__ import annotations

import click

from latune.cli.cache.diff import diff_command
from latune.cli.cache.list import list_command
from latune.cli.cache.merge import merge_command
from latune.cli.cache.verify import verify_command


@click.group()
def cache() -> None:
    """Lists, merges, compares and checks cache files, whichever GPUs they are of.

    The user's are read before those that ship with latune. None is changed but by merge.
    """


for command in (list_command, merge_command, diff_command, verify_command):
    cache.add_command(command)
