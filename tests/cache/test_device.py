"""The file of a GPU's entries: the same text for the same entries, and read strictly."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from documents import MISSING, changed

from latune.cache.device import DeviceCache
from latune.cache.entry import Entry
from latune.gpu import find_gpu
from latune.problem import Problem

EntryOf = Callable[..., Entry]
ProblemOf = Callable[..., Problem]

H200 = find_gpu("h200")


def test_the_file_does_not_depend_on_the_order_of_its_entries(entry_of: EntryOf, problem_of: ProblemOf) -> None:
    entries = [entry_of(problem_of(seqlen=seqlen)) for seqlen in (8192, 1024, 4096)]
    text = DeviceCache.of(H200, entries).to_text()
    assert text == DeviceCache.of(H200, reversed(entries)).to_text()
    assert [entry["bucket"]["seqlen"] for entry in json.loads(text)["entries"]] == [1024, 4096, 8192]
    assert list(json.loads(text)) == ["entries", "gpu", "schema"]
    assert text.endswith("}\n")


def test_a_file_survives_reading_and_writing(entry_of: EntryOf) -> None:
    cache = DeviceCache.of(H200, [entry_of()])
    assert DeviceCache.from_text(cache.to_text()) == cache
    assert DeviceCache.from_text(DeviceCache.of(H200).to_text()) == DeviceCache.of(H200)


def test_two_entries_of_one_bucket_are_refused(entry_of: EntryOf) -> None:
    with pytest.raises(ValueError, match="expected one entry a bucket, got two for fwd bh32 n4096"):
        DeviceCache.of(H200, [entry_of(), entry_of(study="other")])


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("schema",), 2, "schema: expected 1, got 2"),
        (("schema",), MISSING, "schema: expected 1, got None"),
        (("gpu", "sms"), "132", "gpu.sms: expected an integer"),
        (("gpu", "colour"), "green", "gpu: unknown key 'colour'"),
        (("entries",), None, "entries: expected a list"),
        (("entries", 0, "study"), MISSING, "entries\\[0\\]: key 'study' is missing"),
        (("entries", 0, "roof_ms"), float("nan"), "expected finite numbers, got NaN"),
        (("notes",), "", "unknown key 'notes'"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(entry_of: EntryOf, path: tuple[str | int, ...], value: object, message: str) -> None:
    document = json.loads(DeviceCache.of(H200, [entry_of()]).to_text())
    with pytest.raises(ValueError, match=message):
        DeviceCache.from_text(json.dumps(changed(document, path, value)))
