"""What serves few heads on an H200, beside the same with shorter states, balanced segments, and what hides the handing over.

Run as ``python docs/results/fewer_rows_for_states.py SECONDS OUTPUT.json`` on commit cbc3022: the templates have what won
since. The variants are the text that serves, or that of `balanced` in its place, changed:

``reach N``      rows are left out of a segment's state whose decay is below 2^-N, not 2^-126
``backwards``    states are made from a segment's end to its beginning, where the walk then begins: the L2 has those rows last
``returned``     who comes last to a meeting does not poll
``prefetch N``   while states are handed over, the L2 fetches N chunks of the walk behind those in flight
``work N``       to make a row part of a state counts N thirds of walking it, not 2
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

from text_races import GPU, fits, race

from latune.cli.shapes import parse_shape
from latune.codegen.render import Source, render
from latune.ops.dispatch import resolve
from latune.plan import Plan
from latune.problem import Problem
from latune.tuner.worker import Worker

SHAPES = (
    ("fwd", "1,8,8192,128"),
    ("fwd", "1,16,8192,64,128"),
    ("fwd", "1,16,32768,128"),
    ("fwd", "1,16,16384,64"),
    ("fwd", "1,8,32768,128"),
    ("fwd", "1,16,8192,96"),
    ("fwd", "1,24,8192,128"),
    ("fwd", "1,32,8192,128"),
    ("fwd", "1,8,4096,128"),
    ("bwd", "1,16,32768,128"),
    ("bwd", "1,8,8192,128"),
    ("bwd", "1,16,16384,64"),
    ("bwd", "1,16,8192,96"),
)
POLL = re.compile(
    r"    gl\.atomic_add\(counter, 1\)\n    while gl\.atomic_add\(counter, 0\) < count:\n        pass\n",
)
POLL_ONCE_COME = """\
    come = gl.atomic_add(counter, 1) + 1
    while come < count:
        come = gl.atomic_add(counter, 0)
"""
FETCH = """\
# Has the L2 fetch what each pointer points to.
@gluon.jit
def fetch(pointers, SIZE: gl.constexpr):
    if SIZE == 128:
        gl.inline_asm_elementwise(ASM_128, "=r,l", [pointers], gl.int32, is_pure=False, pack=1)
    elif SIZE == 192:
        gl.inline_asm_elementwise(ASM_192, "=r,l", [pointers], gl.int32, is_pure=False, pack=1)
    else:
        gl.inline_asm_elementwise(ASM_256, "=r,l", [pointers], gl.int32, is_pure=False, pack=1)


"""
ASM = 'ASM_{0} = gl.constexpr("cp.async.bulk.prefetch.L2.global [$1], {0}; mov.b32 $0, 0;")\n'
AHEAD = """\
    o_ahead = gl.arange(0, 128, gl.BlockedLayout([1], [32], [gl.num_warps()], [0]))
    for further in range(0, FETCHED * BLOCK_N, 128):
        row = gl.minimum(first_row + STAGES * BLOCK_N + further + o_ahead, seqlen - 1).to(gl.int64)
        fetch(rows_q + row * stride_qn, 2 * D)
        fetch(rows_k + row * stride_kn, 2 * D)
        fetch(rows_v + row * stride_vn, 2 * WIDTH_V)
"""


def within(text: str, part: str, pattern: str, instead: str, count: int = 0) -> str:
    """The text with the pattern replaced in one function alone, at least once."""
    found = re.search(rf"def {part}\(.*?(?=\n\n\n)", text, re.DOTALL)
    assert found is not None, part
    changed, times = re.subn(pattern, instead, found[0], count=count)
    assert times, (part, pattern)
    return text.replace(found[0], changed)


def reach(text: str, exponent: int) -> str:
    return text.replace("(126.0 / ", f"({exponent}.0 / ")


def backwards(text: str) -> str:
    text = within(text, "o_load", r"own_row \+ chunk \* BLOCK_N", "own_row + (own_chunks - 1 - chunk) * BLOCK_N")
    later = r"* (to_state * gl.exp2(-slope * BLOCK_N * chunk))[:, None]"
    text = within(text, "o_score", r"\* to_state\[:, None\]", later, count=1)
    # Of one tile or of three, in the first loop alone.
    return within(text, "o_walk", r" {8}b_state\d? \*= across\n(?= {8}(b_state|mbarrier))", "", count=3)


def returned(text: str) -> str:
    assert POLL.search(text)
    return POLL.sub(POLL_ONCE_COME, text)


def prefetch(text: str, chunks: int) -> str:
    d, e, block_e = (int(re.search(rf"        {name}=(\d+),", text)[1]) for name in ("D", "E", "BLOCK_E"))  # type: ignore[index]
    width_v = min(e, block_e)
    names = ("rows_q", "rows_k", "rows_v", "stride_qn", "stride_kn", "stride_vn", "first_row", "seqlen")
    text = text.replace(
        "# Weighs the scores", "".join(map(ASM.format, (128, 192, 256))) + "\n\n" + FETCH + "# Weighs the scores"
    )
    text = re.sub(r"(def o_score\(\n)", r"\1" + "".join(f"    {name},\n" for name in names), text)
    text = re.sub(r"( +o_score,\n +\(\n)( +)", lambda m: m[1] + "".join(f"{m[2]}{name},\n" for name in names) + m[2], text)
    ahead = AHEAD.replace("FETCHED", str(chunks)).replace("2 * D", str(2 * d)).replace("2 * WIDTH_V", str(2 * width_v))
    text = within(text, "o_score", r"(?=    for chunk in range\(num_chunks\))", ahead)
    strides = [f"stride_{name}{axis}" for name in "qkv" for axis in "bhn"]
    given = "".join(f"    {name},\n" for name in ("rows_q", "rows_k", "rows_v", *strides))
    text = within(text, "o_kernel", r"(?<=    counters,\n)    scale,\n", given + "    scale,\n", count=1)
    heads = "".join(
        f"    rows_{name} += i_b.to(gl.int64) * stride_{name}b + i_h.to(gl.int64) * stride_{name}h\n" for name in "qkv"
    )
    text = within(text, "o_kernel", r"(?=    ring_q = )", heads + "    rows_v += column\n", count=1)
    passed = "        q,\n        k,\n        v,\n" + "".join(f"        *{name}.stride()[:3],\n" for name in "qkv")
    return re.sub(r"(        _counters\(q\.device, .*\),\n)", r"\1" + passed, text)


def balanced(plan: Plan) -> Plan:
    (step,) = plan.steps
    config = replace(step.config.with_constexprs(PROGRAMS=GPU.sms), algorithm="balanced")
    return Plan((replace(step, config=config),))


def variants(problem: Problem, plan: Plan) -> Iterator[tuple[str, str]]:
    text = render(problem, plan).text
    yield "served", text
    for exponent in (64, 48, 32):
        yield f"reach {exponent}", reach(text, exponent)
    if plan.steps[0].config.algorithm != "cooperative" or problem.direction != "fwd":
        return
    yield "backwards", backwards(text)
    yield "returned", returned(text)
    for chunks in (4, 8):
        yield f"prefetch {chunks}", prefetch(text, chunks)
    text = render(problem, balanced(plan)).text
    yield "balanced", text
    for exponent in (64, 48, 32):
        yield f"balanced, reach {exponent}", reach(text, exponent)
    short = reach(text, 48)
    yield "balanced, reach 48, returned", returned(short)
    yield "balanced, reach 48, backwards", backwards(short)
    yield "balanced, reach 48, backwards, returned", returned(backwards(short))
    for chunks in (4, 8):
        yield f"balanced, reach 48, prefetch {chunks}", prefetch(short, chunks)
    for thirds in (1, 3):
        yield f"balanced, reach 48, work {thirds}", short.replace("3.0 + 2.0 * live", f"3.0 + {thirds}.0 * live")


def main(seconds: float, output: Path) -> None:
    end, rows = time.monotonic() + seconds, []
    with Worker() as worker, ProcessPoolExecutor() as pool:
        cases = []
        for direction, shape in SHAPES:
            problem = parse_shape(shape).problem(direction=direction, decay="constant", dtype="bf16")
            plan = resolve(problem, GPU).plan
            # Of equal texts the first name stands.
            sources = {Source.of(text): name for name, text in reversed(list(variants(problem, plan)))}
            cases.append((problem, plan, sources, [pool.submit(fits, problem, source) for source in sources]))
        for problem, plan, sources, checks in cases:
            if time.monotonic() > end:
                pool.shutdown(cancel_futures=True)
                return
            fitting = [source for source, check in zip(sources, checks, strict=True) if check.result()]
            rows += race(worker, problem, plan, sources, fitting)
            output.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(float(sys.argv[1]), Path(sys.argv[2]))
