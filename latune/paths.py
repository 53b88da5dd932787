"""Where latune's data lives. No other module builds a path to templates, spaces, presets or caches."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from pathlib import Path

from platformdirs import user_cache_path

from latune.errors import warn_once

_PACKAGE = Path(__file__).resolve().parent


def data_root() -> Path:
    """The checkout when the package's parent is one of latune's, else the data inside the wheel."""
    checkout = _PACKAGE.parent
    return checkout if _is_latune_checkout(checkout) else _PACKAGE / "_data"


def _is_latune_checkout(folder: Path) -> bool:
    project = folder / "pyproject.toml"
    return project.is_file() and 'name = "latune"' in project.read_text(encoding="utf-8")


def templates() -> Path:
    return data_root() / "templates"


def search_spaces() -> Path:
    return data_root() / "search_spaces"


def shipped_cache() -> Path:
    return data_root() / "cache"


def user_root() -> Path:
    """``LATUNE_CACHE_DIR``, else the platform's cache folder for latune; of a user who has no home, one of this process."""
    override = os.environ.get("LATUNE_CACHE_DIR")
    if override:
        return Path(os.path.expanduser(override))
    try:
        return user_cache_path("latune", appauthor=False)
    except RuntimeError as error:
        warn_once(f"latune: {error}; what is kept goes with this process: set LATUNE_CACHE_DIR to a folder you can write to")
        return of_this_process()


@functools.cache
def of_this_process() -> Path:
    """A temporary folder that lives as long as the process."""
    folder = Path(tempfile.mkdtemp(prefix="latune-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def user_cache() -> Path:
    return user_root() / "cache"


def generated() -> Path:
    return user_root() / "generated"


def studies() -> Path:
    return user_root() / "studies"


def regrets() -> Path:
    return user_root() / "regrets"


def logs() -> Path:
    return user_root() / "logs"
