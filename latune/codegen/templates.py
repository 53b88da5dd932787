"""The identity of the templates: what a cached plan was measured with, and what a generated file is named by."""

from __future__ import annotations

import functools
import hashlib

from latune import paths


@functools.cache
def template_sha256() -> str:
    """SHA-256 over all templates by name and content."""
    folder = paths.templates()
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.jinja")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
