"""``latune landscape`` without a GPU: the model's landscape of a handful of configs, and searches of it."""

from __future__ import annotations

import gzip
import json

import pytest

from latune.tuner.landscapes.file import read_landscape

SPACE = """
kernel: stream
parameters:
  algorithm: {kind: algorithm, values: [sequential], about: where states come from}
  state_layout: {kind: choice, values: [plain, transposed], about: layout of the state}
  branched: {kind: choice, values: [none], when: state_layout == 'transposed', about: products under a branch}
  loads: {kind: choice, values: [pointer], about: how tiles come from memory}
  decay_mode: {kind: choice, values: [matrix], about: the decay inside a chunk}
  decayed: {kind: choice, values: [value], about: the operand that carries the decay}
  BLOCK_D: {kind: constexpr, values: [64], about: columns of a tile}
  BLOCK_E: {kind: constexpr, values: [32, 64], about: columns}
  BLOCK_N: {kind: constexpr, values: [32], about: rows}
  PROGRAMS: {kind: constexpr, values: [128], when: algorithm == 'split', about: programs}
  num_warps: {kind: launch, values: [4], about: warps}
  num_stages: {kind: launch, values: [1, 2], about: stages}
default: {algorithm: sequential, state_layout: plain, branched: none, loads: pointer, decay_mode: matrix,
  decayed: value, BLOCK_E: 32, BLOCK_N: 32, BLOCK_D: 64, PROGRAMS: 128,
  num_warps: 4, num_stages: 1}
"""


@pytest.fixture
def arguments(tmp_path):
    (tmp_path / "few.yaml").write_text(SPACE, encoding="utf-8")
    problem = ("--gpu", "a100", "--shape", "1,8,2048,64", "--kernel", "o", "--space", str(tmp_path / "few.yaml"))
    return ("landscape", "record", *problem, "--output", str(tmp_path / "o.gz"))


def test_it_is_recorded_and_searched(run, arguments, tmp_path):
    stopped = run(*arguments, "--time-budget", "0.001s")
    assert stopped.exit_code == 0 and "the time is up: the same command goes on" in stopped.stderr
    assert stopped.stdout == "" and not (tmp_path / "o.gz").exists()
    recorded = run(*arguments)
    assert recorded.exit_code == 0, recorded.stderr
    assert "8 configs of o" in recorded.stderr and "evidence: static" in recorded.stderr
    landscape = read_landscape(tmp_path / "o.gz")
    assert len(landscape.points) == 8 and recorded.stdout.startswith("8 ok; best ")
    assert all(point.resources[0].registers > 0 for point in landscape.points)

    table = run("landscape", "replay", str(tmp_path / "o.gz"), "--trials", "8", "--seeds", "2")
    assert table.exit_code == 0, table.stderr
    assert [line.split()[-4:] for line in table.stdout.splitlines() if " random " in line] == [
        ["random", "100.0%", "100.0%", "100.0%"]
    ]
    by_default = run("landscape", "replay", str(tmp_path / "o.gz"), "--strategy", "random", "--seeds", "2", "--json")
    (found,) = json.loads(by_default.stdout)
    assert (found["strategy"], found["configs"], found["trials"], len(found["shares"])) == ("random", 8, [1, 1], 2)


@pytest.mark.parametrize("content", [b"no", gzip.compress(b'"\xff' * 20_000)], ids=["no gzip", "no JSON"])
def test_what_is_no_landscape_is_refused(run, tmp_path, content):
    (tmp_path / "x.gz").write_bytes(content)
    result = run("landscape", "replay", str(tmp_path / "x.gz"))
    assert result.exit_code == 1 and "expected a landscape of schema 1" in result.stderr and result.stdout == ""
    assert result.stderr.count("\n") == 1 and len(result.stderr) < 700
