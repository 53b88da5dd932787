"""Where latune's data lives. No other module builds a path to templates, spaces, presets or caches."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path

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
    """``LATUNE_CACHE_DIR``, else the platform's cache folder for latune."""
    override = os.environ.get("LATUNE_CACHE_DIR")
    return Path(os.path.expanduser(override)) if override else user_cache_path("latune", appauthor=False)


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
