"""Generated modules with a fault put in, and a compiler that aborts: what a search must survive.

``start`` is a runner of compiler processes, for ``ParallelBuilder(runner=...)``.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from latune.codegen.build import Build, build
from latune.codegen.render import Source
from latune.tuner.jobs import Compile

ABORTS = 4
"""The number of stages with which a plan aborts its compiler."""

_KERNELS = """

import triton as _triton
import triton.language as _tl


@_triton.jit
def _run_for_ever(p_o, one):
    while one > 0:
        _tl.atomic_add(p_o + _tl.program_id(0), 1.0)


@_triton.jit
def _read_out_of_bounds(p_o, far):
    _tl.store(p_o, _tl.load(p_o + far + _tl.program_id(0).to(_tl.int64)))


_forward, _answers = forward, {}


def forward(q, k, v, slopes, scale):
    (o,) = _forward(q, k, v, slopes, scale)
"""

FAULTS = {
    "hangs": ("    _run_for_ever[(1,)](slopes.new_zeros(1), 2)\n", "timeout"),
    "reads out of bounds": ("    _read_out_of_bounds[(1,)](slopes.new_zeros(1), 2**44)\n", "illegal_access"),
    "wrong in one element": ("    o[-1, -1, -1, -1] += 1.0\n", "wrong_result"),
    "takes all memory": ("    q.new_empty(2**44)\n", "out_of_resources"),
}
"""By name: what comes after the right answer, and the outcome."""

# Right whenever it is asked, and at work once for each shape: what is timed are more sets of the same numbers.
_SKIPPING = _KERNELS.replace(
    "    (o,) = _forward(q, k, v, slopes, scale)\n",
    "    if q.shape not in _answers:\n"
    "        _answers[q.shape] = _forward(q, k, v, slopes, scale)[0]\n"
    "    o = _answers[q.shape]\n",
)

SKIPS = "skips work"


def with_fault(source: Source, fault: str) -> Source:
    """The module, right but for the fault."""
    text = source.text + (_SKIPPING if fault == SKIPS else _KERNELS + FAULTS[fault][0]) + "    return (o,)\n"
    return Source.of(text)


def start(_: int) -> Callable[[Compile], Build]:
    def compile_or_abort(job: Compile) -> Build:
        if any(step.config.num_stages == ABORTS for step in job.plan.steps):
            os.abort()
        return build(job.problem, job.plan, job.gpu)

    return compile_or_abort
