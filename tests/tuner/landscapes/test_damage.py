"""Files with something wrong in them: one line says where it stands, what was expected there, and what came."""

from __future__ import annotations

import copy
import gzip
import json
import math
import random

import pytest
from hostile import at, mutated

from latune.errors import LandscapeError
from latune.measurement import Measurement
from latune.tuner.landscapes.file import read_landscape, write_landscape
from latune.tuner.landscapes.record import record
from latune.tuner.landscapes.recorded import RecordedEvaluator

LONGEST_LINE = 700
"""Of an error: a path, and as much of a reason as can be read."""
OTHER_SPACE = "{kernel: dkdv, parameters: {algorithm: {kind: algorithm, values: [a], about: a}}, default: {algorithm: a}}"
NESTED = b"[" * 200_000


def compressed(lines) -> bytes:
    return gzip.compress(b"".join(json.dumps(line).encode() + b"\n" for line in lines), compresslevel=1, mtime=0)


def change(line, keys, value) -> None:
    """Puts the value in the place that the keys lead to."""
    at(line, keys[:-1])[keys[-1]] = value


@pytest.fixture
def path(tmp_path):
    return tmp_path / "o.jsonl.gz"


@pytest.fixture
def lines(landscape, path):
    """The landscape's file, parsed."""
    write_landscape(landscape, path)
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def refusal(path) -> str:
    with pytest.raises(LandscapeError) as caught:
        read_landscape(path)
    said = str(caught.value)
    assert said.startswith(f"{path}: expected ") and said.endswith("; record it anew")
    assert said.isprintable() and len(said) < LONGEST_LINE
    return said


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        (("raced_ms",), ["x"], ".raced_ms[0]: expected a finite number >= 0, got 'x'"),
        (("raced_ms",), [0.0], ".raced_ms[0]: expected a number above 0, got 0.0"),
        (("raced_ms",), [-1.0], ".raced_ms[0]: expected a finite number >= 0, got -1.0"),
        (("measurement", "outcome"), "timeout", ": raced_ms: expected none of a config that is not ok, got 3"),
        (("measurement", "median_ms"), math.inf, ".measurement.median_ms: expected a finite number >= 0, got inf"),
        (("measurement", "ci_low_ms"), "a", ".measurement.ci_low_ms: expected a finite number >= 0, got 'a'"),
        (("measurement", "samples"), "a", ".measurement.samples: expected an integer >= 0, got 'a'"),
        (("resources",), [{}], ".resources[0]: key 'name' is missing"),
        (("config", "num_warps"), "4", ".config: expected a config of its space, got {"),
        (("config", "choices"), [], ".config: expected a config of its space, got {"),
    ],
)
def test_a_damaged_point_is_named(path, lines, keys, value, said):
    number, line = next((number, line) for number, line in enumerate(lines, start=1) if line.get("raced_ms"))
    change(line, keys, value)
    path.write_bytes(compressed(lines))
    assert f"got: line {number}{said}" in refusal(path)


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        (("schema",), 2, "line 1.schema: expected 1, got 2"),
        (("space_yaml",), 3, "line 1.space_yaml: expected a string, got 3"),
        (("space_yaml",), "[", "space_yaml: expected YAML"),
        (("space_yaml",), OTHER_SPACE, "space_yaml: kernel: expected 'stream', got 'dkdv'"),
        (("bandwidth_gbps",), "x", "line 1.bandwidth_gbps: expected a finite number >= 0, got 'x'"),
        (("kernel",), "dq", "line 1: kernel: expected one of o for fwd, got 'dq'"),
        (("toolchain",), {}, "line 1.toolchain: key 'torch' is missing"),
        (("problem", "seqlen"), True, "line 1.problem.seqlen: expected an integer >= 1, got True"),
        (("gpu", "arch"), 80.5, "line 1.gpu.arch: expected an integer >= 1, got 80.5"),
    ],
)
def test_a_damaged_first_line_is_named(path, lines, keys, value, said):
    change(lines[0], keys, value)
    path.write_bytes(compressed(lines))
    assert f"got: {said}" in refusal(path)


def test_a_point_that_comes_twice_is_refused(landscape, path):
    write_landscape(landscape, path)
    header, first, *others = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    path.write_bytes(gzip.compress(b"".join([header, first, first, *others])))
    count = len(landscape.points)
    assert f"expected the {count} configs of its space, got {count + 1}" in refusal(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (NESTED, "line 1: expected JSON, got: maximum recursion depth exceeded"),
        (b"", "line 1: expected JSON, got: Expecting value"),
        (b'"\xff' + bytes(range(256)) * 200, "line 1: expected JSON, got: 'utf-8' codec can't decode byte 0xff"),
    ],
)
def test_a_file_of_something_else_is_told_in_short(path, text, said):
    path.write_bytes(gzip.compress(text))
    assert f"got: {said}" in refusal(path)


def test_wrong_values_anywhere_are_refused_or_can_be_searched(path, lines):
    draw = random.Random(20260131)
    served, drawn = 0, 40
    for _ in range(drawn):
        changed = copy.copy(lines)
        number = draw.choice([0, draw.randrange(len(lines))])
        changed[number] = mutated(lines[number], draw)
        path.write_bytes(compressed(changed))
        try:
            landscape = read_landscape(path)
        except LandscapeError:
            continue
        served += 1
        evaluate = RecordedEvaluator(landscape)
        for config in landscape.grid.configs[:8]:
            evaluate.race([landscape.grid.plan(config)])
    assert 0 < served < drawn, "some changes do no harm, others do"


@pytest.fixture
def part(grid, judge, path):
    """What a run has kept that was stopped after a few points."""

    def on_point(_, done, __):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record(grid, judge, path, on_point=on_point)
    return path.with_name(f"{path.name}.part")


@pytest.mark.parametrize(
    ("toolchain", "said"),
    [
        ({}, "key 'torch' is missing"),
        (["triton"], r"expected an object, got \['triton'\]"),
        (None, "expected an object, got None"),
    ],
)
def test_a_recording_whose_first_line_is_damaged_is_left_as_it_is(grid, judge, path, part, toolchain, said):
    header, *points = part.read_bytes().splitlines(keepends=True)
    damaged = json.dumps(json.loads(header) | {"toolchain": toolchain}).encode() + b"\n"
    part.write_bytes(b"".join([damaged, *points, points[0][:9]]))
    kept = part.read_bytes()
    with pytest.raises(LandscapeError, match=rf"part: expected a landscape .*line 1\.toolchain: {said}"):
        record(grid, judge, path)
    assert part.read_bytes() == kept


def test_a_recording_with_a_damaged_point_is_left_as_it_is(grid, judge, path, part):
    kept = part.read_bytes() + NESTED + b"\n"
    part.write_bytes(kept)
    with pytest.raises(LandscapeError, match=r"part: expected a landscape .*line 7: expected JSON"):
        record(grid, judge, path)
    assert part.read_bytes() == kept


def test_another_landscape_s_recording_keeps_its_last_line(grid, judge, path, part):
    kept = part.read_bytes() + b'{"config"'
    part.write_bytes(kept)
    judge.toolchain["triton"] = "3.7.0"
    with pytest.raises(LandscapeError, match="another Triton"):
        record(grid, judge, path)
    assert part.read_bytes() == kept


def test_what_other_generator_code_recorded_is_not_mixed_in(grid, judge, path, part, monkeypatch):
    kept = part.read_bytes()
    monkeypatch.setattr("latune.tuner.landscapes.record.generator_sha256", lambda: "other")
    with pytest.raises(LandscapeError, match=r"other generated code.*--fresh"):
        record(grid, judge, path)
    assert part.read_bytes() == kept


def test_a_detail_that_a_terminal_does_not_show_is_kept_as_blanks(grid, judge, path, monkeypatch):
    failed = Measurement(outcome="compile_error", detail="ptxas:\terror\n\x1b[31m")
    monkeypatch.setattr(judge, "_measure", lambda plan: failed)
    assert record(grid, judge, path) == read_landscape(path)
    assert {point.measurement.detail for point in read_landscape(path).points} == {"ptxas: error  [31m"}
