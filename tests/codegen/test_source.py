"""What a rendering says of itself, digests of its code, and what is not rendered."""

from __future__ import annotations

import ast
import hashlib
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from renderings import body

from latune.codegen import render as rendering
from latune.codegen.render import plan_sha256, render
from latune.errors import RenderError
from latune.plan import KERNELS, Plan
from latune.problem import Problem

PlanOf = Callable[..., Plan]
ProblemOf = Callable[..., Problem]


def test_the_header_names_problem_plan_and_the_digest_of_the_code(problem_of: ProblemOf, plan_of: PlanOf) -> None:
    problem, plan = problem_of("bwd"), plan_of("dq", "dkdv")
    source = render(problem, plan)
    header = ast.get_docstring(ast.parse(source.text))
    assert header is not None
    assert f"problem   {problem}\n" in header
    assert f"code      {source.code_sha256}\n" in header
    assert source.code_sha256 == hashlib.sha256(body(source.text).encode()).hexdigest()
    for step in plan.steps:
        assert f"{step.kernel:<9} {step.config}" in header.splitlines()


def test_a_kernel_starts_at_the_same_line_for_every_problem(problem_of: ProblemOf, plan_of: PlanOf) -> None:
    """Triton's own cache key has the line a kernel starts at."""
    plan = plan_of("dq", "dkdv", algorithm="split")
    problems = (problem_of("bwd"), problem_of("bwd", seqlen=1, batch=1000), problem_of("bwd", num_heads=12345))
    lines = [render(problem, plan).text.splitlines() for problem in problems]
    starts = [[number for number, line in enumerate(text) if line.startswith("@triton.jit")] for text in lines]
    assert len(starts[0]) == 4
    assert starts[0] == starts[1] == starts[2]


def test_the_digest_is_the_texts(problem_of: ProblemOf, plan_of: PlanOf) -> None:
    source = render(problem_of(), plan_of("o"))
    assert source.sha256 == hashlib.sha256(source.text.encode()).hexdigest()
    assert source == render(problem_of(), plan_of("o"))


@pytest.mark.parametrize(("direction", "kernel"), [("fwd", "dq"), ("fwd", "dkdv"), ("bwd", "o")])
def test_a_plan_of_the_other_direction_is_refused(problem_of: ProblemOf, plan_of: PlanOf, direction: str, kernel: str) -> None:
    with pytest.raises(RenderError, match=rf"kernel '{kernel}' \({KERNELS[kernel].direction}\) for a {direction} problem"):
        render(problem_of(direction), plan_of(kernel))


def test_an_empty_plan_and_packed_sequences_are_refused(problem_of: ProblemOf, plan_of: PlanOf) -> None:
    with pytest.raises(RenderError, match="empty plan"):
        render(problem_of(), Plan(()))
    with pytest.raises(RenderError, match="varlen"):
        render(problem_of(varlen=True), plan_of("o"))


@pytest.mark.parametrize("missing", ["BLOCK_N", "BLOCK_E", "state_layout", "loads", "decay_mode", "PROGRAMS"])
def test_a_config_without_a_needed_value_is_refused(problem_of: ProblemOf, plan_of: PlanOf, missing: str) -> None:
    plan = plan_of("o", algorithm="split", **{missing: None})
    with pytest.raises(RenderError, match=missing):
        render(problem_of(), plan)


@pytest.mark.parametrize("state", ["has_initial_state", "needs_final_state"])
def test_a_plan_without_a_state_is_refused_where_there_is_one(problem_of: ProblemOf, plan_of: PlanOf, state: str) -> None:
    plan = plan_of("o", algorithm="parallel")
    assert "parallel" in render(problem_of(), plan).text
    with pytest.raises(RenderError, match="no state can be taken or left"):
        render(problem_of(**{state: True}), plan)


def test_an_unknown_algorithm_is_refused(problem_of: ProblemOf, plan_of: PlanOf) -> None:
    with pytest.raises(RenderError, match="spiral"):
        render(problem_of(), plan_of("o", algorithm="spiral"))


def test_an_undefined_name_in_a_template_is_refused(
    problem_of: ProblemOf, plan_of: PlanOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "module.py.jinja").write_text("{{ module.title }} {{ module.subtitle }}", encoding="utf-8")
    monkeypatch.setattr(rendering.paths, "templates", lambda: tmp_path)
    with pytest.raises(RenderError, match="subtitle"):
        render(problem_of(), plan_of("o"))


@pytest.fixture
def templates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Takes the templates' place by a copy, with other text in a file of it."""
    original, copies = rendering.paths.templates(), itertools.count()

    def edit(name: str, change: Callable[[str], str]) -> None:
        copy = tmp_path / str(next(copies))
        shutil.copytree(original, copy)
        path = copy / name
        path.write_text(change(path.read_text(encoding="utf-8") if path.exists() else ""), encoding="utf-8")
        monkeypatch.setattr(rendering.paths, "templates", lambda: copy)

    return edit


def test_a_plans_digest_changes_with_its_code_alone(
    problem_of: ProblemOf, plan_of: PlanOf, templates: Callable[..., None]
) -> None:
    bucket = problem_of().bucket()
    by_pointer, by_tma = plan_of("o", loads="pointer"), plan_of("o", loads="tma")

    def digests() -> tuple[str, str]:
        return plan_sha256(bucket, by_pointer), plan_sha256(bucket, by_tma)

    before = digests()
    templates("spiral.py.jinja", lambda _: "{# another algorithm #}")
    assert digests() == before
    templates("module.py.jinja", lambda text: text.replace("\nproblem   ", "\ncase      "))
    assert "\ncase " in render(problem_of(), by_pointer).text
    assert digests() == before
    templates("module.py.jinja", lambda text: text + "{% if module.uses_tma %}\n# a choice\n{% endif %}")
    assert digests()[0] == before[0]
    assert digests()[1] not in before
    templates("module.py.jinja", lambda text: text + "\n# for all\n")
    assert not set(digests()) & set(before)


def test_buckets_that_differ_in_lengths_alone_share_a_rendering(
    problem_of: ProblemOf, plan_of: PlanOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendering._plan_sha256.cache_clear()
    rendered = []
    monkeypatch.setattr(rendering, "render", lambda problem, plan: rendered.append(plan) or render(problem, plan))
    plans = [plan_of("o", num_warps=warps) for warps in (4, 8)]
    problems = [problem_of(seqlen=2**power, batch=batch) for power in range(10) for batch in (1, 4)]
    digests = {plan_sha256(problem.bucket(), plan) for problem in problems for plan in plans}
    assert rendered == plans and len(digests) == 2
    assert plan_sha256(problem_of(has_initial_state=True).bucket(), plans[0]) not in digests


def test_a_plan_that_cannot_be_rendered_has_no_digest(problem_of: ProblemOf, plan_of: PlanOf) -> None:
    with pytest.raises(RenderError, match="BLOCK_N"):
        plan_sha256(problem_of().bucket(), plan_of("o", BLOCK_N=None))
