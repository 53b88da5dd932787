"""What two plans have otherwise."""

from __future__ import annotations

from dataclasses import replace

from latune.cli.differences import changes_text, config_changes, plan_changes, plan_changes_lines
from latune.config import Config
from latune.plan import Plan, Step

DEEP = Config.of("split", choices={"loads": "tma"}, constexprs={"BLOCK_N": 64, "PROGRAMS": 128}, num_stages=3)
WHOLE = Config.of("sequential", choices={"loads": "tma"}, constexprs={"BLOCK_N": 32}, num_stages=3)
THREE = Plan(tuple(Step(kernel=name, config=DEEP) for name in ("dq", "dk", "dv")))


def test_of_configs_only_what_differs_is_told() -> None:
    changes = config_changes(DEEP, WHOLE)
    assert changes == {"algorithm": ("split", "sequential"), "BLOCK_N": (64, 32), "PROGRAMS": (128, None)}
    assert changes_text(changes) == "algorithm split -> sequential, BLOCK_N 64 -> 32, PROGRAMS 128 -> -"
    assert config_changes(DEEP, DEEP) == {}


def test_kernels_that_change_alike_share_a_line() -> None:
    other = THREE.with_steps([THREE.steps[0], *(replace(step, config=WHOLE) for step in THREE.steps[1:])])
    assert plan_changes(THREE, other) == {"dk": config_changes(DEEP, WHOLE), "dv": config_changes(DEEP, WHOLE)}
    assert plan_changes_lines(THREE, other) == ["dk, dv: algorithm split -> sequential, BLOCK_N 64 -> 32, PROGRAMS 128 -> -"]


def test_kernels_of_one_plan_alone_are_named_and_shown() -> None:
    fused = Plan((THREE.steps[0], Step(kernel="dkdv", config=WHOLE)))
    assert plan_changes(THREE, fused) == {}
    assert plan_changes_lines(THREE, fused) == [
        "in place of dk, dv:",
        "  dkdv: sequential tma BLOCK_N=32 warps=4 stages=3",
    ]


def test_launches_that_are_chained_are_a_difference() -> None:
    assert plan_changes_lines(THREE, THREE.chained()) == ["launches chained"]
    assert plan_changes_lines(THREE.chained(), THREE) == ["launches not chained"]
