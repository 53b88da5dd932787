from __future__ import annotations

import json
from dataclasses import replace

import pytest

from latune.cache.store import write_entries
from latune.gpu import find_gpu

A100, H200 = find_gpu("a100"), find_gpu("h200")


@pytest.fixture
def pair(entry_at, tmp_path):
    """Two files of one GPU: a bucket of each only, one timed anew and one as it was."""
    timed = entry_at(512)
    faster = replace(timed, measurement=replace(timed.measurement, median_ms=0.15))
    old = write_entries(A100, [entry_at(256), timed, entry_at(2048)], tmp_path / "old")
    return old, write_entries(A100, [faster, entry_at(1024), entry_at(2048)], tmp_path / "new")


def test_each_bucket_that_differs_has_its_row_and_the_exit_code_is_0(run, pair):
    result = run("cache", "diff", *map(str, pair))
    assert result.exit_code == 0 and result.stderr == ""
    rows = {" ".join(line.split()[2:3]): line for line in result.stdout.splitlines() if line.startswith(" fwd")}
    assert list(rows) == ["n256", "n512", "n1024"]
    assert "only in old" in rows["n256"] and "only in new" in rows["n1024"]
    assert "other time" in rows["n512"] and " 0.3 " in rows["n512"] and " 0.15 " in rows["n512"] and " 0.500 " in rows["n512"]
    summary = result.stdout.splitlines()[-1]
    assert summary.startswith(
        "1 only in old, 1 only in new, 0 other plan, 1 other time, 1 alike; new / old 0.707 in the geometric"
    )
    assert "of different runs: an indication" in summary


def test_json_has_the_entries_of_both(run, pair):
    found = json.loads(run("cache", "diff", *map(str, pair), "--json").stdout)
    assert found["gpus"] == {"old": "a100", "new": "a100"}
    assert found["counts"] == {"only in old": 1, "only in new": 1, "other plan": 0, "other time": 1, "alike": 1}
    assert found["mean_ratio"] == pytest.approx(0.5**0.5)
    one, two, three = found["differences"]
    assert one["new"] is None and one["ratio"] is None and one["old"]["bucket"]["seqlen"] == 256
    assert (two["change"], two["ratio"], two["new"]["measurement"]["median_ms"]) == ("other time", 0.5, 0.15)
    assert three["old"] is None and three["bucket"]["seqlen"] == 1024


def test_files_alike_have_no_rows(run, pair):
    result = run("cache", "diff", str(pair[0]), str(pair[0]))
    assert result.exit_code == 0 and result.stdout.startswith("0 only in old") and "3 alike; new / old 1.000" in result.stdout


def test_files_of_two_gpus_are_compared_with_a_word_of_caution(run, entry_at, tmp_path):
    paths = [str(write_entries(gpu, [entry_at(256)], tmp_path)) for gpu in (A100, H200)]
    result = run("cache", "diff", *paths)
    assert result.exit_code == 0 and "is of NVIDIA A100, " in result.stderr and "say nothing of their plans" in result.stderr
