from __future__ import annotations

import json

from latune.cache.store import cache_path, write_entries
from latune.gpu import find_gpu

A100, H200 = find_gpu("a100"), find_gpu("h200")
OTHER_CODE = "0" * 64


def test_no_files_are_told_with_the_command_that_makes_them(own_cache, run):
    result = run("cache", "list")
    assert result.exit_code == 0 and result.stdout == ""
    assert f"no cache files in {own_cache / 'cache'} and " in result.stderr and "`latune tune`" in result.stderr


def test_each_file_has_its_counts_and_what_is_wrong_with_it(own_cache, run, entry_at):
    entries = [entry_at(256), entry_at(512, "bwd", evidence="static"), entry_at(1024, template_sha256=OTHER_CODE)]
    path = write_entries(A100, entries)
    torn = cache_path(path.parent, H200)
    torn.write_text("{", encoding="utf-8")
    aside = torn.with_name(f"{torn.name}.damaged-3")
    aside.write_text('{"schema": 1, "schema": 1}', encoding="utf-8")
    result = run("cache", "list")
    assert result.exit_code == 0 and result.stderr == ""
    rows = [line.split() for line in result.stdout.splitlines() if "nvidia" in line]
    assert rows[0] == [str(path), "NVIDIA", "A100", "3", "2", "0", "1", "2", "1", "1", "serves"]
    assert rows[1][:9] == [str(torn), *"--------"] and "damaged: Expecting property name" in " ".join(rows[1])
    assert "set aside, damaged: expected each key once in an object, got 'schema' twice" in " ".join(rows[2])
    listed = json.loads(run("cache", "list", "--json").stdout)["files"]
    counts = {"entries": 3, "measured": 2, "transferred": 0, "static": 1, "fwd": 2, "bwd": 1, "stale": 1}
    assert listed[0] == {"path": str(path), "gpu": "a100", "fault": None, **counts}
    assert [(file["path"], file["gpu"], file["fault"].split(":")[0]) for file in listed[1:]] == [
        (str(torn), None, "damaged"),
        (str(aside), None, "set aside, damaged"),
    ]
    assert torn.read_text(encoding="utf-8") == "{", "looking changes nothing"
