"""The file of all entries of one GPU, as JSON and back."""

from __future__ import annotations

import itertools
import json
import reprlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from latune.cache.entry import Entry
from latune.cache.node import Node
from latune.cache.reading import read_gpu
from latune.gpu import Gpu
from latune.problem import Bucket

SCHEMA = 1


class SchemaError(ValueError):
    """The file follows another schema than this version of latune reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCache:
    """All entries of one GPU, in the order of their buckets."""

    gpu: Gpu
    entries: Mapping[Bucket, Entry]

    @classmethod
    def of(cls, gpu: Gpu, entries: Iterable[Entry] = ()) -> DeviceCache:
        """A cache of entries of different buckets.

        Raises:
            ValueError: two entries have one bucket.
        """
        ordered = sorted(entries, key=lambda entry: entry.bucket)
        by_bucket = {entry.bucket: entry for entry in ordered}
        if len(by_bucket) < len(ordered):
            twice = next(a.bucket for a, b in itertools.pairwise(ordered) if a.bucket == b.bucket)
            raise ValueError(f"entries: expected one entry a bucket, got two for {twice}")
        return cls(gpu=gpu, entries=by_bucket)

    def to_text(self) -> str:
        """The file's text: the same for the same entries, whatever order they came in."""
        entries = [self.entries[bucket].to_json() for bucket in sorted(self.entries)]
        document = {"schema": SCHEMA, "gpu": self.gpu.to_json(), "entries": entries}
        return json.dumps(document, indent=2, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def from_text(cls, text: str) -> DeviceCache:
        """The inverse of ``to_text``.

        Raises:
            SchemaError: it is a file of another version of latune.
            ValueError: the text is not such a file; the message names the key at fault.
        """
        document = _parse(text)
        if isinstance(document, dict):
            _check_schema(document.get("schema"))
        found = Node(document, "").fields("schema", "gpu", "entries")
        return cls.of(read_gpu(found["gpu"]), [Entry.from_json(entry.value, entry.where) for entry in found["entries"].items()])


def _check_schema(schema: object) -> None:
    # True is an int, and equal to 1.
    if type(schema) is not int or schema != SCHEMA:
        other = SchemaError if type(schema) is int else ValueError
        raise other(f"schema: expected {SCHEMA}, got {reprlib.repr(schema)}; use the latune that wrote it")


def _parse(text: str) -> object:
    def refuse(constant: str) -> object:
        raise ValueError(f"expected finite numbers, got {constant}")

    try:
        return json.loads(text, parse_constant=refuse, object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError("the file is nested too deeply") from error


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Of a key that comes twice JSON would keep the last, and lose what came before."""
    result = dict(pairs)
    if len(result) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"expected each key once in an object, got {reprlib.repr(twice)} twice")
    return result
