from __future__ import annotations

import json

from latune.cache.store import cache_path, read_file, write_entries
from latune.gpu import find_gpu

A100, H200 = find_gpu("a100"), find_gpu("h200")


def test_a_row_for_each_source_says_what_became_of_its_entries_and_why(own_cache, run, entry_at, tmp_path):
    write_entries(A100, [entry_at(512), entry_at(1024)])
    offered = [entry_at(256), entry_at(512), entry_at(1024, evidence="static"), entry_at(2048, template_sha256="0" * 64)]
    sources = [write_entries(A100, offered, tmp_path / "one"), write_entries(H200, offered[:1], tmp_path / "two")]
    into = cache_path(own_cache / "cache", A100)
    result = run("cache", "merge", *map(str, sources), "--json")
    assert result.exit_code == 0 and result.stderr == ""
    first, second = json.loads(result.stdout)["merges"]
    counts = {"taken": 1, "same": 1, "kept": 1, "refused": 1}
    assert {name: first[name] for name in ("source", "into", "gpu", *counts)} == {
        **{"source": str(sources[0]), "into": str(into), "gpu": "a100"},
        **counts,
    }
    assert [(entry["bucket"]["seqlen"], entry["outcome"], entry["why"] is not None) for entry in first["entries"]] == [
        (256, "taken", False),
        (512, "same", False),
        (1024, "kept", True),
        (2048, "refused", True),
    ]
    assert second["gpu"] == "h200" and second["taken"] == 1
    text = run("cache", "merge", str(sources[0])).stdout
    assert "1 kept: the file's is measured, this one static" in text
    assert "1 refused: its plan is not generated as the code it was tuned as" in text
    assert {entry.bucket.seqlen for entry in read_file(into, A100).entries.values()} == {256, 512, 1024}


def test_into_names_the_folder(own_cache, run, entry_at, tmp_path):
    source = write_entries(A100, [entry_at(256)], tmp_path / "one")
    result = run("cache", "merge", str(source), "--into", str(tmp_path / "two"))
    assert result.exit_code == 0 and str(tmp_path / "two" / source.name) in result.stdout
    assert (tmp_path / "two" / source.name).read_bytes() == source.read_bytes()
    assert not own_cache.exists()


def test_a_source_that_is_no_cache_is_an_error_in_one_line(own_cache, run, tmp_path):
    source = tmp_path / "torn.json"
    source.write_text("[]", encoding="utf-8")
    result = run("cache", "merge", str(source))
    assert result.exit_code == 1 and result.stdout == "" and len(result.stderr.splitlines()) == 1
    assert f"expected a cache file at {source}, got one that is damaged: the file: expected an object" in result.stderr


def test_a_source_that_is_not_there_is_a_usage_error(own_cache, run):
    assert run("cache", "merge", "none.json").exit_code == 2
    assert run("cache", "merge").exit_code == 2
