"""Digests of what is generated, and of what generates it."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from latune import paths

_HEADER_END = '\n"""\n'


def code_sha256(text: str) -> str:
    """SHA-256 of a generated module without its header, the docstring that names problem, configs and this digest.

    A cached plan serves as the code of this digest, whatever becomes of templates that it does not use.
    """
    _, _, code = text.partition(_HEADER_END)
    return hashlib.sha256(code.encode()).hexdigest()


def intact_sha256(text: str) -> str | None:
    """``code_sha256`` of a generated module that is as it was written, with that digest in its header; None of another."""
    header, _, _ = text.partition(_HEADER_END)
    sha256 = code_sha256(text)
    return sha256 if f"\ncode      {sha256}\n" in f"{header}\n" else None


@functools.cache
def generator_sha256() -> str:
    """SHA-256 over all that shapes a module's text: the templates, and the code that fills them in or that this rests on."""
    digest = hashlib.sha256(templates_sha256().encode())
    here = Path(__file__).parent
    for path in [*sorted(here.glob("*.py")), *(here.parent / f"{name}.py" for name in ("problem", "config", "plan"))]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


@functools.cache
def templates_sha256() -> str:
    """SHA-256 over all templates by name and content: what a search of many plans depends on."""
    folder = paths.templates()
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.jinja")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
