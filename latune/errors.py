"""The exceptions latune raises on purpose, and what it warns of once.

    LatuneError                 a domain error: the command line prints it in one line and exits 1
    ├── SpaceError              a search-space file is wrong; names file, key and remedy
    ├── RenderError             a template cannot serve this problem and config
    ├── BuildError              a rendered module does not compile for its target
    ├── CacheError              a cache file cannot be read or written as asked
    ├── StudyError              a study's storage cannot be opened, read or written
    ├── LandscapeError          a file is no landscape, or not a whole one
    ├── WorkerError             the tuner's worker process cannot start, or a problem does not fit its device
    └── UnknownGpuError         no GPU of that name in the catalogue

Wrong arguments to the operator are plain ``ValueError``s, as PyTorch users expect.
"""

from __future__ import annotations

import warnings

_said: set[str] = set()


def warn_once(message: str, *, stacklevel: int = 1) -> None:
    """Warns of what was not warned of before in this process: who has warnings raise goes on with the next call.

    Args:
        stacklevel: as ``warnings.warn`` has it, from the caller on.
    """
    if message not in _said:
        _said.add(message)
        warnings.warn(message, stacklevel=stacklevel + 1)


class LatuneError(Exception):
    """Base of every error a user can mend; its message says how."""


class SpaceError(LatuneError):
    """A search-space file is malformed; the message names file, key and remedy."""


class RenderError(LatuneError):
    """A template cannot render the given problem and plan."""


class BuildError(LatuneError):
    """A rendered module does not compile for its target."""


class CacheError(LatuneError):
    """A cache file cannot be read or written as asked."""


class StudyError(LatuneError):
    """A study's storage cannot be opened, read or written."""


class LandscapeError(LatuneError):
    """A file is no landscape, or not a whole one."""


class WorkerError(LatuneError):
    """The tuner's worker process cannot start, or a problem does not fit its device."""


class UnknownGpuError(LatuneError):
    """No GPU of that name is in the catalogue."""
