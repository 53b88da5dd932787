"""`latune doctor` on a real GPU: one entry that holds, and one whose default beats it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from entries import valid_entry

from latune.cache.resolve import default_plan
from latune.cache.store import write_entries
from latune.cli.chosen_gpu import needed_gpu
from latune.cli.main import cli
from latune.problem import Problem


@pytest.mark.gpu
def test_an_entry_holds_until_its_winner_is_slowed_down(own_cache: Path) -> None:
    gpu = needed_gpu("this test")
    holding = Problem(
        direction="fwd", decay="constant", dtype="bf16", batch=4, num_heads=32, seqlen=2048, head_dim_k=64, head_dim_v=64
    )
    beaten = replace(holding, seqlen=4096)
    default = default_plan(holding, gpu)
    assert default == default_plan(beaten, gpu)
    (step,) = default.steps
    # Half the rows a chunk, and no load ahead of its use: twice as many steps, each of which waits longer.
    slowed = default.with_steps([replace(step, config=replace(step.config.with_constexprs(BLOCK_N=16), num_stages=1))])
    write_entries(gpu, [valid_entry(holding, default, alternates=(slowed,)), valid_entry(beaten, slowed)])
    result = CliRunner().invoke(cli, ["doctor", "--time-budget", "5m", "--json"])
    report = json.loads(result.stdout)
    found = {finding["bucket"]["seqlen"]: finding for finding in report["findings"]}
    assert report["unchecked"] == [] and result.exit_code == 1, result.stderr
    assert {seqlen: (one["verdict"], one["rival"]["name"]) for seqlen, one in found.items()} == {
        2048: ("holds", "alternate 1"),
        4096: ("beaten", "default"),
    }
    assert found[2048]["rival"]["winner_takes_times"]["ci_high"] < 1 < found[4096]["rival"]["winner_takes_times"]["ci_low"]
