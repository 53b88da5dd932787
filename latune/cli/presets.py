"""Named sets of shapes, read from ``search_spaces/presets.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import yaml

from latune import paths
from latune.cli.shapes import Shape, parse_shape
from latune.errors import SpaceError

DEFAULT_PRESET = "default"
"""What is meant where neither shapes nor a preset are named."""

_KEYS = ("about", "shapes"), ("about", "product")
_AXES = ("batch_heads", "seqlen", "head_dims")


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Some shapes and what they are for."""

    about: str
    shapes: tuple[Shape, ...]


def read_presets(path: Path | None = None) -> dict[str, Preset]:
    """All presets by name.

    Raises:
        SpaceError: the file cannot be read or has a mistake; the message names file, key and remedy.
    """
    path = path or paths.search_spaces() / "presets.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SpaceError(f"{path}: expected a YAML file of presets, got: {' '.join(str(error).split())}; mend it") from error
    if not isinstance(content, Mapping) or not content:
        raise SpaceError(
            f"{path}: expected presets by name, got {type(content).__name__}; write name: {{about: …, shapes: […]}}"
        )
    return {str(name): _preset(path, str(name), value) for name, value in content.items()}


def _preset(path: Path, name: str, value: object) -> Preset:
    if not isinstance(value, Mapping) or tuple(sorted(map(str, value))) not in map(tuple, map(sorted, _KEYS)):
        got = ", ".join(map(str, value)) if isinstance(value, Mapping) else repr(value)
        raise SpaceError(
            f"{path}: {name}: expected the keys about and shapes, or about and product, got {got}; write these two"
        )
    about = value["about"]
    if not isinstance(about, str) or not about.strip():
        raise SpaceError(f"{path}: {name}.about: expected a sentence, got {about!r}; say what the preset is for")
    if "product" in value:
        return Preset(about=about, shapes=_product(path, f"{name}.product", value["product"]))
    shapes = value["shapes"]
    if not isinstance(shapes, list) or not shapes:
        raise SpaceError(f"{path}: {name}.shapes: expected a list of shapes, got {shapes!r}; write at least one B,H,N,D")
    return Preset(about=about, shapes=tuple(_shape(path, f"{name}.shapes[{index}]", text) for index, text in enumerate(shapes)))


def _product(path: Path, where: str, axes: object) -> tuple[Shape, ...]:
    """Every combination, of one batch each; ``head_dims`` are D or ``D,E``."""
    if (
        not isinstance(axes, Mapping)
        or set(axes) != set(_AXES)
        or not all(isinstance(axes[axis], list) and axes[axis] for axis in _AXES)
    ):
        raise SpaceError(f"{path}: {where}: expected lists for {', '.join(_AXES)}, got {axes!r}; write all three")
    combinations = product(*(axes[axis] for axis in _AXES))
    return tuple(_shape(path, where, f"1,{batch_heads},{seqlen},{dims}") for batch_heads, seqlen, dims in combinations)


def _shape(path: Path, where: str, text: object) -> Shape:
    try:
        return parse_shape(str(text))
    except ValueError as error:
        raise SpaceError(f"{path}: {where}: {error}") from error
