from __future__ import annotations

import click
import pytest

from latune.cli.options import DurationType
from latune.cli.shapes import Shape, parse_shape, problems_of, shape_of


@pytest.mark.parametrize("text", ["4,32,8192,128", "1,16,1000,96,64"])
def test_a_shape_reads_back(text):
    assert str(parse_shape(text)) == text


def test_the_value_dim_is_the_key_dim_when_left_out():
    assert parse_shape(" 2, 4,100,64") == Shape(batch=2, num_heads=4, seqlen=100, head_dim_k=64, head_dim_v=64)


@pytest.mark.parametrize("text", ["4,32,8192", "4,32,-1,128", "4,32,8192,128,", "4;32;8192;128", "1.5,2,3,16", "1,2,3,272"])
def test_what_is_no_shape_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match="such as 4,32,8192,128, got"):
        parse_shape(text)


def test_both_directions_of_each_shape_without_repeats():
    shapes = [parse_shape(text) for text in ("1,2,64,16", "1,2,128,16", "1,2,64,16")]
    problems = problems_of(shapes, direction="both", dtype="fp16", decay="none")
    assert [(str(shape_of(problem)), problem.direction) for problem in problems] == [
        ("1,2,64,16", "fwd"),
        ("1,2,64,16", "bwd"),
        ("1,2,128,16", "fwd"),
        ("1,2,128,16", "bwd"),
    ]
    assert {(problem.dtype, problem.decay) for problem in problems} == {("fp16", "none")}
    assert [problem.direction for problem in problems_of(shapes[:1], direction="bwd", dtype="fp16", decay="none")] == ["bwd"]


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90.0), ("10m", 600.0), ("1.5h", 5400.0), ("45", 45.0)])
def test_durations(text, seconds):
    assert DurationType().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "0m", "m", "10d", "-5s", "1e3"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(click.BadParameter, match="such as 90s, 10m or 1h"):
        DurationType().convert(text, None, None)
