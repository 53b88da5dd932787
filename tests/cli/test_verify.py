"""`latune verify` with the GPU in the machine: a worker's answers, without one."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
from entries import valid_entry

from latune import paths
from latune.cache.device import DeviceCache
from latune.cache.entry import Entry
from latune.cache.store import cache_path, write_entries
from latune.cli import verify as command
from latune.codegen.space import load_space
from latune.config import Config
from latune.gpu import find_gpu
from latune.measurement import Measurement
from latune.plan import KERNELS, Plan, Step
from latune.problem import Problem

H200 = find_gpu("h200")
PROBLEM = Problem(
    direction="fwd", decay="constant", dtype="bf16", batch=1, num_heads=4, seqlen=256, head_dim_k=64, head_dim_v=64
)

AHEAD = Plan((Step(kernel="o", config=Config.of("split")),))


def _entry(seqlen: int) -> Entry:
    problem = replace(PROBLEM, seqlen=seqlen)
    plan = Plan((Step(kernel="o", config=load_space("stream").default(problem, H200, KERNELS["o"])),))
    return valid_entry(problem, plan)


@pytest.fixture
def measured(own_cache, monkeypatch):
    """Two entries on a GPU whose worker gives these answers by sequence length."""
    write_entries(H200, [_entry(256), _entry(1024)])
    answers = {
        256: Measurement(outcome="ok", median_ms=0.1, samples=9, errors=(("o", 0.002),)),
        1024: Measurement(outcome="wrong_result", detail="o[0]: expected 1, got 2"),
    }
    worker = SimpleNamespace(evaluate=lambda problem, plan, source, ahead: answers[problem.seqlen] if ahead == AHEAD else None)

    @contextmanager
    def open_target(name, workers):
        yield SimpleNamespace(gpu=H200, builder=None, worker=worker, ahead=lambda problem: AHEAD)

    monkeypatch.setattr(command, "open_target", open_target)
    return answers


def test_the_entry_that_serves_is_listed_and_run_not_a_stale_one_ahead_of_it(measured, run, monkeypatch, tmp_path):
    """A user's, of before an upgrade; of what nothing current serves, the first."""
    stale = [replace(_entry(seqlen), template_sha256="0" * 64) for seqlen in (256, 512)]
    monkeypatch.setattr(paths, "shipped_cache", lambda: tmp_path / "shipped")
    write_entries(H200, [_entry(256)], tmp_path / "shipped")
    cache_path(paths.user_cache(), H200).write_text(DeviceCache.of(H200, stale).to_text(), encoding="utf-8")
    listed = json.loads(run("show", "--gpu", "h200", "--json").stdout)["entries"]
    assert {entry["bucket"]["seqlen"]: entry["current"] for entry in listed} == {256: True, 512: False}
    result = run("verify", "--gpu", "h200", "--shape", "1,4,256,64", "--json")
    assert [entry["verdict"] for entry in json.loads(result.stdout)["entries"]] == ["ok"] and result.exit_code == 0


def test_every_entry_is_run_and_a_wrong_one_fails(measured, run):
    result = run("verify", "--gpu", "h200", "--json")
    verdicts = {entry["bucket"]["seqlen"]: entry for entry in json.loads(result.stdout)["entries"]}
    assert result.exit_code == 1 and "1 of 2 entries failed" in result.stderr
    assert verdicts[256]["verdict"] == "ok" and verdicts[256]["errors"] == {"o": 0.002} and verdicts[256]["mend"] is None
    assert verdicts[1024]["verdict"] == "wrong_result" and "got 2" in verdicts[1024]["detail"]
    assert verdicts[1024]["mend"] == (
        "latune tune --gpu h200 --shape 1,4,1024,64,64 --dtype bf16 --direction fwd --decay constant --fresh"
    )


def test_a_shape_takes_its_bucket_alone(measured, run):
    result = run("verify", "--gpu", "h200", "--shape", "2,2,250,64")
    assert result.exit_code == 0, result.stderr
    assert "n256" in result.stdout and "n1024" not in result.stdout and "RMS errors o 0.002" in result.stdout
