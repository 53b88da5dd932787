"""What several of these commands take."""

from __future__ import annotations

from pathlib import Path

import click

FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
"""A cache file that is there; whether it is sound is the command's to say."""
