"""The identity of the templates, which a cached plan was measured with, and of all that generates a module."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from latune import paths


@functools.cache
def generator_sha256() -> str:
    """SHA-256 over all that shapes a module's text: the templates, and the code that fills them in or that this rests on."""
    digest = hashlib.sha256(template_sha256().encode())
    here = Path(__file__).parent
    for path in [*sorted(here.glob("*.py")), *(here.parent / f"{name}.py" for name in ("problem", "config", "plan"))]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


@functools.cache
def template_sha256() -> str:
    """SHA-256 over all templates by name and content."""
    folder = paths.templates()
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.jinja")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
