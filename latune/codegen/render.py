"""Problem + plan -> source text of a generated module."""

from __future__ import annotations

import functools
import hashlib
import re
import textwrap
from dataclasses import dataclass, replace
from pathlib import Path

import jinja2

from latune import paths
from latune.codegen.module_view import ModuleView
from latune.codegen.step_view import StepView
from latune.codegen.templates import code_sha256
from latune.codegen.warp_parts import parts
from latune.errors import RenderError
from latune.plan import Plan
from latune.problem import Bucket, Problem

_OF_TRITON = re.compile(r"\btl\.(?!extra\b)")

# In the header's place for the digest of what follows it.
_UNKNOWN_SHA256 = "0" * 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The text of a generated module and its SHA-256."""

    text: str
    sha256: str

    @classmethod
    def of(cls, text: str) -> Source:
        return cls(text=text, sha256=hashlib.sha256(text.encode()).hexdigest())

    @property
    def code_sha256(self) -> str:
        """That of the text without its header, which states it."""
        return code_sha256(self.text)


def render(problem: Problem, plan: Plan) -> Source:
    """The module that serves ``problem`` by ``plan``.

    Args:
        plan: may be incomplete; the module then computes the plan's outputs only.

    Raises:
        RenderError: a config lacks a value its template needs, or the plan belongs to another direction, or has no states for a
            problem that has some.
    """
    _check(problem, plan)
    steps = _views(problem, plan)
    module = ModuleView(problem=problem, plan=plan, steps=steps, code_sha256=_UNKNOWN_SHA256)
    try:
        text = _environment(paths.templates()).get_template("module.py.jinja").render(module=module, steps=steps)
    except (jinja2.TemplateError, KeyError) as error:
        raise RenderError(f"cannot render {plan} for {problem}: {error}") from error
    text = text.replace(_UNKNOWN_SHA256, code_sha256(text), 1)
    return Source.of(text)


def _views(problem: Problem, plan: Plan) -> list[StepView]:
    last = len(plan.steps) - 1
    alone = [StepView(problem=problem, step=step) for step in plan.steps]
    # What is handed on from share to share is fp32, whatever the memory.
    lends = alone[last].given and not any(view.relayed for view in alone)
    views = []
    for index, view in enumerate(alone):
        # States of all steps have the same memory, and that may be what the last step writes to.
        used = any(other.stores_states for other in alone[:index])
        views.append(
            replace(
                view,
                follows=index > 0,
                precedes=index < last,
                # Programs that wait for one another have to start together (see order.jinja).
                chained=plan.is_chained and not view.waits,
                alongside=not (used and (view.stores_states or (lends and index == last))),
                may_borrow=lends and index < last,
            )
        )
    return views


def plan_sha256(bucket: Bucket, plan: Plan) -> str:
    """SHA-256 of the code that serves ``bucket`` by ``plan``: what a cache entry is recognised by.

    Raises:
        RenderError: as ``render``.
    """
    # Batch, heads and length are named in the header alone: buckets that differ in no more share a rendering.
    return _plan_sha256(bucket.unsized, plan, paths.templates())


@functools.cache
def _plan_sha256(bucket: Bucket, plan: Plan, templates: Path) -> str:
    return render(bucket.problem(), plan).code_sha256


def _in_gluon(text: str) -> str:
    """What is written for Triton, in Gluon's names; what Triton alone has keeps its own."""
    text = text.replace("@triton.jit", "@gluon.jit").replace("tl.range(", "range(")
    return _OF_TRITON.sub("gl.", text)


def _check(problem: Problem, plan: Plan) -> None:
    if not plan.steps:
        raise RenderError("cannot render an empty plan: expected at least one step")
    for kernel in plan.kernels:
        if kernel.direction != problem.direction:
            raise RenderError(f"cannot render kernel {kernel.name!r} ({kernel.direction}) for a {problem.direction} problem")
    if plan.stateless and (problem.has_initial_state or problem.needs_final_state):
        raise RenderError(f"cannot render {plan} for {problem}: in the parallel form no state can be taken or left")
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
        # What was rendered stays what would be rendered, whoever edits the templates meanwhile.
        auto_reload=False,
    )
    environment.globals["parts"] = parts
    environment.filters["gluon"] = _in_gluon
    environment.filters["block"] = lambda text, width: textwrap.indent(text, " " * width)
    return environment
