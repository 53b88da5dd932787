"""The reviewed results in cache/: each file can serve, on the GPU it is named for, what its entries promise."""

from __future__ import annotations

from pathlib import Path

import pytest

from latune.cache.device import DeviceCache
from latune.cache.entry import Entry
from latune.cache.resolve import fits
from latune.cache.store import cache_path, read_file
from latune.cli.presets import read_presets
from latune.cli.shapes import problems_of
from latune.codegen.render import plan_sha256
from latune.gpu import CATALOGUE, Gpu

FOLDER = Path(__file__).resolve().parents[2] / "cache"
SHIPPED = [gpu for gpu in CATALOGUE if cache_path(FOLDER, gpu).is_file()]


def entries(gpu: Gpu) -> list[Entry]:
    return list(read_file(cache_path(FOLDER, gpu), gpu).entries.values())


def test_every_file_is_of_a_gpu_of_the_catalogue() -> None:
    assert SHIPPED
    assert {path.name for path in FOLDER.glob("*.json")} == {cache_path(FOLDER, gpu).name for gpu in SHIPPED}


@pytest.mark.parametrize("gpu", SHIPPED, ids=lambda gpu: gpu.name)
def test_a_file_is_as_the_tuner_would_write_it(gpu: Gpu) -> None:
    path = cache_path(FOLDER, gpu)
    assert entries(gpu)
    assert DeviceCache.of(gpu, entries(gpu)).to_text() == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("gpu", SHIPPED, ids=lambda gpu: gpu.name)
def test_every_entry_is_current_and_fits(gpu: Gpu) -> None:
    """Others would be ignored in silence: tune again what a change of templates gives other code."""
    for entry in entries(gpu):
        assert entry.is_current(plan_sha256), f"{entry.bucket} on {gpu.name}"
        assert fits(entry, gpu), f"{entry.bucket} on {gpu.name}"


@pytest.mark.parametrize("gpu", SHIPPED, ids=lambda gpu: gpu.name)
def test_every_file_holds_the_default_preset(gpu: Gpu) -> None:
    problems = problems_of(read_presets()["default"].shapes, direction="both", dtype="bf16", decay="constant")
    assert {problem.bucket() for problem in problems} <= {entry.bucket for entry in entries(gpu)}


@pytest.mark.parametrize("gpu", SHIPPED, ids=lambda gpu: gpu.name)
def test_every_plan_renders(gpu: Gpu) -> None:
    """By its digest, which buckets that differ in size alone share."""
    for entry in entries(gpu):
        for plan in (entry.plan, *entry.alternates):
            assert plan_sha256(entry.bucket, plan)
