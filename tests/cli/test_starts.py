"""What a search starts from: a few of the likeliest plans, and no more asked for than that takes."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from latune.cli import starts
from latune.config import Config
from latune.gpu import find_gpu
from latune.plan import Plan, Step
from latune.problem import Problem

PROBLEM = Problem(
    direction="fwd", decay="constant", dtype="bf16", batch=1, num_heads=4, seqlen=256, head_dim_k=64, head_dim_v=64
)


def _plan(number):
    return Plan((Step(kernel="o", config=Config.of("sequential", constexprs={"BLOCK_N": number})),))


def test_starts_are_different_plans_and_no_more_are_asked_for(monkeypatch, tmp_path):
    asked = []

    def starting_plans(problem, gpu, *, plan_sha256, folders):
        assert folders == [tmp_path]
        for number in itertools.chain((4, 4, 5), itertools.count(1)):
            asked.append(number)
            yield _plan(number)

    monkeypatch.setattr(starts, "starting_plans", starting_plans)
    monkeypatch.setattr(starts, "serving_plan", lambda *_: Plan(()))
    assert starts.starts_of(PROBLEM, find_gpu("h200"), [tmp_path]) == [_plan(number) for number in (4, 5, 1, 2, 3, 6)]
    assert asked == [4, 4, 5, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("problem", "kernels", "expected"),
    [
        (PROBLEM, ("dq", "dkdv"), [_plan(1), _plan(7)]),
        (PROBLEM, ("dqdkdv",), [_plan(1)]),
        (replace(PROBLEM, head_dim_v=128), ("dq", "dkdv"), [_plan(1)]),
        (replace(PROBLEM, direction="bwd"), ("dq", "dkdv"), [_plan(1)]),
    ],
)
def test_a_forward_pass_starts_from_what_computes_dq_where_that_is_as_wide(monkeypatch, tmp_path, problem, kernels, expected):
    def serving_plan(asked, gpu, folders):
        assert (asked.direction, asked.seqlen, folders) == ("bwd", PROBLEM.seqlen, [tmp_path])
        (step,) = _plan(7).steps
        return Plan(tuple(replace(step, kernel=kernel) for kernel in kernels))

    monkeypatch.setattr(starts, "starting_plans", lambda *_, **__: [_plan(1)])
    monkeypatch.setattr(starts, "serving_plan", serving_plan)
    assert starts.starts_of(problem, find_gpu("h200"), [tmp_path]) == expected
