"""Problem + plan -> source text of a generated module."""

from __future__ import annotations

import functools
import hashlib
import textwrap
from dataclasses import dataclass
from pathlib import Path

import jinja2

from latune import paths
from latune.codegen.templates import template_sha256
from latune.codegen.view import ModuleView, StepView
from latune.errors import RenderError
from latune.plan import Plan
from latune.problem import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The text of a generated module and its SHA-256."""

    text: str
    sha256: str


def render(problem: Problem, plan: Plan) -> Source:
    """The module that serves ``problem`` by ``plan``.

    Args:
        plan: may be incomplete; the module then computes the plan's outputs only.

    Raises:
        RenderError: a config lacks a value its template needs, or the plan belongs to another direction.
    """
    _check(problem, plan)
    steps = [StepView(problem=problem, step=step) for step in plan.steps]
    module = ModuleView(problem=problem, plan=plan, steps=steps, template_sha256=template_sha256())
    try:
        text = _environment(paths.templates()).get_template("module.py.jinja").render(module=module, steps=steps)
    except (jinja2.TemplateError, KeyError) as error:
        raise RenderError(f"cannot render {plan} for {problem}: {error}") from error
    return Source(text=text, sha256=hashlib.sha256(text.encode()).hexdigest())


def _check(problem: Problem, plan: Plan) -> None:
    if not plan.steps:
        raise RenderError("cannot render an empty plan: expected at least one step")
    for kernel in plan.kernels:
        if kernel.direction != problem.direction:
            raise RenderError(f"cannot render kernel {kernel.name!r} ({kernel.direction}) for a {problem.direction} problem")
    if problem.varlen:
        raise RenderError("cannot render a varlen problem: no template serves packed sequences")


@functools.cache
def _environment(folder: Path) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters["block"] = lambda text, width: textwrap.indent(text, " " * width)
    return environment
