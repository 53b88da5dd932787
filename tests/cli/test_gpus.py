from __future__ import annotations

import json
from dataclasses import replace

import pytest

from latune.cli import gpus as command
from latune.gpu import CATALOGUE, find_gpu


def test_every_gpu_has_a_row_and_none_is_local(run):
    result = run("gpus")
    assert result.exit_code == 0 and result.stderr == ""
    assert all(gpu.title in result.stdout for gpu in CATALOGUE)
    assert "here" not in result.stdout


def test_json_names_the_local_one(run, monkeypatch):
    monkeypatch.setattr(command, "local_gpu", lambda: find_gpu("h200"))
    listed = json.loads(run("gpus", "--json").stdout)
    assert [gpu["name"] for gpu in listed] == [gpu.name for gpu in CATALOGUE]
    assert [gpu["name"] for gpu in listed if gpu["local"]] == ["h200"]


@pytest.mark.parametrize("arguments", [["gpus"], ["gpus", "--json"]])
def test_a_local_gpu_outside_the_catalogue_is_listed_too(run, monkeypatch, arguments):
    unlisted = replace(find_gpu("l4"), name="t1000", title="NVIDIA T1000")
    monkeypatch.setattr(command, "local_gpu", lambda: unlisted)
    assert "NVIDIA T1000" in run(*arguments).stdout
