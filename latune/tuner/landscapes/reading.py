"""Lines of a landscape's file -> its header and its points, or where they are damaged."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import fields

from latune.cache.entry import TOOLCHAIN
from latune.cache.node import Node
from latune.cache.reading import read_gpu, read_measurement, read_problem
from latune.cache.resources import Resources
from latune.config import Config
from latune.tuner.landscapes.landscape import Landscape, Point

SCHEMA = 1
PLAIN = ("kernel", "space_yaml", "evidence", "bandwidth_gbps", "toolchain", "templates_sha256")


def read_nodes(text: bytes) -> list[Node]:
    """What is in each line; an empty file has one, which is empty."""
    return [_node(line, f"line {number}") for number, line in enumerate(text.splitlines() or [b""], start=1)]


def _node(line: bytes, where: str) -> Node:
    try:
        return Node(json.loads(line), where)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: expected JSON, got: {error}") from error


def read_begun(header: Node) -> Landscape:
    """The landscape without its points.

    Raises:
        ValueError: the header is damaged; so do ``read_nodes`` and ``read_points``.
    """
    schema = header.mapping().get("schema", Node(None, f"{header.where}.schema"))
    if schema.value != SCHEMA:
        raise ValueError(f"{schema.where}: expected {SCHEMA}, got {reprlib.repr(schema.value)}")
    found = header.fields("schema", "problem", "gpu", *PLAIN)
    return header.make(
        Landscape,
        problem=read_problem(found["problem"]),
        gpu=read_gpu(found["gpu"]),
        space_yaml=_lines(found["space_yaml"]),
        bandwidth_gbps=found["bandwidth_gbps"].positive(),
        toolchain={name: version.optional(Node.text) for name, version in found["toolchain"].fields(*TOOLCHAIN).items()},
        **{name: found[name].text() for name in ("kernel", "evidence", "templates_sha256")},
    )


def _lines(node: Node) -> str:
    """A string of one line or several."""
    if not isinstance(node.value, str):
        raise ValueError(f"{node.where}: expected a string, got {reprlib.repr(node.value)}")
    return node.value


def read_points(nodes: Iterable[Node], landscape: Landscape) -> tuple[Point, ...]:
    """Those of the landscape that the lines hold, each of a config of its space."""
    known = {_text(config.to_json()): config for config in landscape.grid.configs}
    return tuple(_point(node, known) for node in nodes)


def _point(node: Node, known: Mapping[str, Config]) -> Point:
    found = node.fields(*(member.name for member in fields(Point)))
    config = found["config"]
    if (text := _text(config.value)) not in known:
        raise ValueError(f"{config.where}: expected a config of its space, got {reprlib.repr(config.value)}")
    return node.make(
        Point,
        config=known[text],
        measurement=read_measurement(found["measurement"]),
        raced_ms=tuple(time_ms.positive() for time_ms in found["raced_ms"].items()),
        resources=tuple(Resources.read(kernel) for kernel in found["resources"].items()),
    )


def _text(value: object) -> str:
    """The same for equal JSON, whatever the order of its keys."""
    return json.dumps(value, sort_keys=True)
