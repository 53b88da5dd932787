"""Generated modules on disk: rendered once, never stale, and no obstacle where nothing can be written."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from latune import errors, paths
from latune.codegen import load, render
from latune.errors import RenderError
from latune.plan import Plan
from latune.problem import Problem


@pytest.fixture(autouse=True)
def cache_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LATUNE_CACHE_DIR", str(tmp_path / "root"))
    monkeypatch.setattr(errors, "_said", set())
    return tmp_path / "root"


@pytest.fixture
def case(problem_of: Callable[..., Problem], plan_of: Callable[..., Plan]) -> tuple[Problem, Plan]:
    return problem_of(), plan_of("o")


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[Problem]:
    """The problems that modules were rendered for."""
    problems: list[Problem] = []
    original = render.render
    monkeypatch.setattr(render, "render", lambda problem, plan: problems.append(problem) or original(problem, plan))
    return problems


def test_a_bucket_is_rendered_once_for_all_processes(case: tuple[Problem, Plan], rendered: list[Problem]) -> None:
    first, second = load.load_plan(*case), load.load_plan(*case)
    assert first.__file__ == second.__file__ and callable(first.forward)
    assert rendered == [case[0].bucket().problem()]


def test_another_generator_does_not_find_the_files_of_this_one(
    case: tuple[Problem, Plan], rendered: list[Problem], monkeypatch: pytest.MonkeyPatch
) -> None:
    load.load_plan(*case)
    monkeypatch.setattr(load, "generator_sha256", lambda: "another")
    load.load_plan(*case)
    assert len(rendered) == 2


def test_the_digest_is_that_of_the_file_that_is_loaded(case: tuple[Problem, Plan], rendered: list[Problem]) -> None:
    problem, plan = case
    digest = load.generated_sha256(problem.bucket(), plan)
    module = load.load_plan(problem, plan)
    assert load.generated_sha256(problem.bucket(), plan) == digest
    assert rendered == [problem.bucket().problem()]
    assert f"code      {digest}\n" in module.__doc__
    assert render.plan_sha256(problem.bucket(), plan) == digest


@pytest.mark.parametrize("damage", [b"", b'"""Forward', b"\x00\xff", None], ids=["empty", "torn", "binary", "edited"])
def test_a_damaged_file_is_written_again(case: tuple[Problem, Plan], cache_root: Path, damage: bytes | None) -> None:
    problem, plan = case
    digest = load.generated_sha256(problem.bucket(), plan)
    (path,) = cache_root.rglob("latune_*.py")
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"scale", b"scala") if damage is None else damage)
    assert load.generated_sha256(problem.bucket(), plan) == digest
    assert path.read_bytes() == whole and callable(load.load_plan(problem, plan).forward)


def test_a_module_outlives_who_asked_for_it(case: tuple[Problem, Plan]) -> None:
    """Graphs that captured its launches go on using its counters."""
    assert load.load_plan(*case) is load.load_plan(*case)


def test_what_cannot_be_rendered_leaves_no_file(
    problem_of: Callable[..., Problem], plan_of: Callable[..., Plan], cache_root: Path
) -> None:
    for _ in range(2):
        with pytest.raises(RenderError, match="BLOCK_N"):
            load.generated_sha256(problem_of().bucket(), plan_of("o", BLOCK_N=None))
    assert not list(cache_root.rglob("*.py"))


def test_a_closed_cache_root_costs_a_warning_and_no_more(case: tuple[Problem, Plan], cache_root: Path) -> None:
    cache_root.write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match=f"{paths.generated()}.*LATUNE_CACHE_DIR"):
        module = load.load_plan(*case)
    assert callable(module.forward) and not Path(module.__file__).is_relative_to(cache_root)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert callable(load.load_plan(*case).forward)
        assert load.generated_sha256(case[0].bucket(), case[1]) == render.plan_sha256(case[0].bucket(), case[1])


def test_plans_share_a_kernel_that_begins_at_another_line(
    problem_of: Callable[..., Problem], plan_of: Callable[..., Plan]
) -> None:
    plans = [Plan((*plan_of("dq", algorithm=algorithm).steps, *plan_of("dkdv").steps)) for algorithm in ("sequential", "split")]
    modules = [load.load_plan(problem_of("bwd"), plan) for plan in plans]
    kernels = [module.dkdv_kernel for module in modules]
    assert len({kernel.fn.__code__.co_firstlineno for kernel in kernels}) == 2
    assert len({kernel.cache_key for kernel in kernels}) == 1
    assert len({module.dq_kernel.cache_key for module in modules}) == 2
