"""Files that other processes, and a power failure, find whole or as they were."""

from __future__ import annotations

import os
import threading
from pathlib import Path


def write_synced(path: Path, text: str) -> None:
    """Writes a file and waits until it is on the disk: renamed before, it could be found empty after a power failure.

    Raises:
        OSError: it cannot be written.
    """
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def replace_text(path: Path, text: str) -> None:
    """Makes a file, or replaces it, in one step.

    Raises:
        OSError: it cannot be written; what was there before stays, and nothing else is left.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        write_synced(partial, text)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
