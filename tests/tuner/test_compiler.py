"""What a compiler process makes of a job."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest

from latune.codegen.build import Build
from latune.gpu import Gpu, find_gpu
from latune.plan import Plan
from latune.problem import Problem
from latune.tuner import compiler
from latune.tuner.cases import small_problems
from latune.tuner.compiler import start, start_verified, warm_up
from latune.tuner.jobs import Compile

GPU = find_gpu("a100")
PROBLEM = Problem(
    direction="fwd", decay="constant", dtype="bf16", batch=1, num_heads=2, seqlen=64, head_dim_k=16, head_dim_v=16
)


@pytest.mark.parametrize(
    ("begin", "wanted"), [(start, {}), (start_verified, {"also": small_problems(PROBLEM), "launchers": True})]
)
def test_what_will_be_verified_is_compiled_for_that_too(
    fake_builds: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    begin: Callable[[int], Callable[[Compile], Build]],
    wanted: dict[str, object],
) -> None:
    asked: list[dict[str, object]] = []

    def build_(problem: Problem, plan: Plan, gpu: Gpu, **options: object) -> Build:
        asked.append(options)
        return fake_builds.build(problem, plan, gpu)

    warm: list[bool] = []
    monkeypatch.setattr("latune.tuner.compiler.build", build_)
    monkeypatch.setattr("latune.tuner.compiler.warm_up", lambda: warm.append(True))
    compile_ = begin(0)
    assert warm == [True], "before there is anything to compile"
    compile_(Compile(problem=PROBLEM, plan=fake_builds.one("o", fake_builds.config()), gpu=GPU))
    assert asked == [wanted] and warm == [True]


def test_a_warm_compiler_has_parsed_templates_and_recorded_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    record = compiler.record_launches
    monkeypatch.setattr(compiler, "hash_triton", lambda: done.append("hashed"))
    monkeypatch.setattr(compiler, "record_launches", lambda *of: done.extend(launch.kernel.__name__ for launch in record(*of)))
    warm_up()
    assert done == ["hashed", "o_kernel"]


def test_what_is_in_the_way_of_warming_up_is_left_to_the_first_job(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compiler, "hash_triton", lambda: None)
    monkeypatch.setattr(compiler, "load", full)
    warm_up()
