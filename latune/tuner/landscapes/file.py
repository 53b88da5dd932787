"""The files of landscapes: a whole one, compressed, and one that is being recorded, to which lines are added."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from latune.cache.store import brief
from latune.config import Config
from latune.errors import LandscapeError, SpaceError
from latune.tuner.landscapes.landscape import Landscape, Point
from latune.tuner.landscapes.reading import PLAIN, SCHEMA, read_begun, read_nodes, read_points

# What a file begins with.
_FIRST = f'{{"schema":{SCHEMA},'.encode()
_MISTAKES = (OSError, EOFError, zlib.error, ValueError, RecursionError, SpaceError)


def write_landscape(landscape: Landscape, path: Path) -> None:
    """Puts the landscape in the file's place in one step; its bytes depend on the landscape alone.

    Raises:
        LandscapeError: it cannot be written.
    """
    lines = [_header(landscape), *(point.to_json() for point in landscape.points)]
    draft = path.with_name(f"{path.name}.tmp")
    try:
        draft.write_bytes(gzip.compress(b"".join(map(_line, lines)), mtime=0))
        draft.replace(path)
    except OSError as error:
        raise LandscapeError(f"cannot write {path}: {error.strerror}; give a path you can write to") from error


def read_landscape(path: Path) -> Landscape:
    """A whole landscape.

    Raises:
        LandscapeError: the file cannot be read, is no landscape, or lacks configs of its space.
    """
    try:
        header, *points = read_nodes(gzip.decompress(path.read_bytes()))
        begun = read_begun(header)
        landscape = replace(begun, points=read_points(points, begun))
        configs = begun.grid.configs
    except _MISTAKES as error:
        raise _no_landscape(path, error) from error
    if tuple(point.config for point in landscape.points) != configs:
        raise LandscapeError(
            f"{path}: expected the {len(configs)} configs of its space, got {len(landscape.points)}, or others; record it anew"
        )
    return landscape


class Recording:
    """A landscape that is being recorded: what is added is on disk before ``add`` returns, and found there by the next run.

    Args:
        begun: the landscape without its points.
        path: of the file; a last line that a crash left without its end is cut off.
        fresh: forget what earlier runs added.

    Raises:
        LandscapeError: the file cannot be read or written, or holds another landscape.
    """

    def __init__(self, begun: Landscape, path: Path, *, fresh: bool = False) -> None:
        self._path = path
        self.points: dict[Config, Point] = {}
        try:
            text = b"" if fresh or not path.exists() else path.read_bytes()
            whole = text[: text.rfind(b"\n") + 1]
            # A crash may have cut the first line.
            if not whole and _FIRST.startswith(text[: len(_FIRST)]):
                self._write([_header(begun)])
                return
            header, *points = read_nodes(whole)
            _check_same(path, read_begun(header), begun)
            self.points = {point.config: point for point in read_points(points, begun)}
            os.truncate(path, len(whole))
        except _MISTAKES as error:
            raise _no_landscape(path, error) from error

    def add(self, point: Point) -> None:
        """Keeps one more point.

        Raises:
            LandscapeError: it cannot be written.
        """
        self._write([point.to_json()], mode="ab")
        self.points[point.config] = point

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)

    def _write(self, lines: Iterable[Mapping[str, object]], mode: str = "wb") -> None:
        try:
            with self._path.open(mode) as file:
                file.write(b"".join(map(_line, lines)))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise LandscapeError(f"cannot write {self._path}: {error.strerror}; give a path you can write to") from error


def _header(landscape: Landscape) -> dict[str, object]:
    plain = {name: getattr(landscape, name) for name in PLAIN}
    return {"schema": SCHEMA, "problem": asdict(landscape.problem), "gpu": landscape.gpu.to_json(), **plain}


def _line(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _check_same(path: Path, found: Landscape, begun: Landscape) -> None:
    if _identity(found) != _identity(begun):
        raise LandscapeError(
            f"{path} holds what was recorded of {found}, or of other generated code, another space or another Triton: "
            "name another file, or begin anew with --fresh"
        )


def _identity(landscape: Landscape) -> Landscape:
    """What points of one landscape have in common, whichever run measured them."""
    versions = {name: landscape.toolchain[name] for name in ("triton", "protocol")}
    return replace(landscape, points=(), bandwidth_gbps=0.0, toolchain=versions)


def _no_landscape(path: Path, error: Exception) -> LandscapeError:
    expected = f"a landscape of schema {SCHEMA}, as `latune landscape record` writes"
    return LandscapeError(f"{path}: expected {expected}, got: {brief(error)}; record it anew")
