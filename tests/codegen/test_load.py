"""Generated modules on disk: rendered once, never stale, and no obstacle where nothing can be written."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from latune import paths
from latune.codegen import load, render
from latune.plan import Plan
from latune.problem import Problem


@pytest.fixture(autouse=True)
def cache_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LATUNE_CACHE_DIR", str(tmp_path / "root"))
    load._own_folder.cache_clear()
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


def test_a_closed_cache_root_costs_a_warning_and_no_more(case: tuple[Problem, Plan], cache_root: Path) -> None:
    cache_root.write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match=f"{paths.generated()}.*LATUNE_CACHE_DIR"):
        module = load.load_plan(*case)
    assert callable(module.forward) and not Path(module.__file__).is_relative_to(cache_root)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert callable(load.load_plan(*case).forward)
