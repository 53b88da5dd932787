"""What serves short sequences and few heads on an H200, beside the same where no load waits for the head's slope.

Run as ``python docs/results/loads_before_slopes.py SECONDS OUTPUT.json``. The variants are the text that serves, changed:

``all rows``   rows that the decay has brought to nothing are read too, so that what is read does not depend on the slope
``stages``     the same with more chunks in flight, or in chunks of 32 rows
``backwards``  `cooperative` forward: the same, and states are made from a segment's end to its beginning, so that the
               first chunks of the walk are in shared memory when it begins
``launched``   `cooperative` forward: not by a cooperative launch, to see what that takes
``counter``    `cooperative` forward: the last program sets the counter back behind the walk, not ahead of it
``scan``       `cooperative` forward: of more elements a warp, or more segments, at once
``wide``       `parallel` forward: the rows before the program's chunk in wide blocks, and that chunk last, loaded first
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from text_races import GPU, fits, race

from latune.cli.shapes import parse_shape
from latune.codegen.render import Source, render
from latune.config import Config
from latune.ops.dispatch import resolve
from latune.plan import Plan
from latune.problem import Problem
from latune.tuner.worker import Worker

SHAPES = (
    ("fwd", "1,4,256,64"),
    ("bwd", "1,4,256,64"),
    ("fwd", "1,8,512,128"),
    ("bwd", "1,8,512,128"),
    ("fwd", "1,8,1024,128"),
    ("fwd", "1,16,512,96"),
    ("fwd", "1,8,1024,256"),
    ("fwd", "1,8,4096,128"),
    ("fwd", "1,8,8192,128"),
    ("fwd", "1,16,8192,96"),
    ("fwd", "1,16,8192,64,128"),
    ("fwd", "1,16,16384,64"),
    ("fwd", "1,8,32768,128"),
    ("fwd", "1,16,32768,128"),
    ("bwd", "1,8,8192,128"),
    ("bwd", "1,16,8192,96"),
)
# Pairs of a pattern and what stands in its place; of the first two, what `parallel` reads, of the others, what first passes do.
ALL_ROWS = (
    (r"tl\.maximum\(start - live_rows, 0\)", "0"),
    (r"tl\.minimum\(start \+ BLOCK_N - 1 \+ live_rows, seqlen - 1\)", "(seqlen - 1)"),
    (r"(?<=begin \+ )[gt]l\.maximum\(end - begin - live_rows, 0\)", "0"),
    (r"[gt]l\.minimum\(last, begin \+ live_rows // BLOCK_N \* BLOCK_N\)", "last"),
)
# Where a chunk of the walk lies: the first ones where they were loaded last, and how often that has been filled.
PLACE = """\
        stage = (own_chunks + STAGES - 1 + (STAGES - 1) * chunk) % STAGES
        fills = (own_chunks - stage + STAGES - 1) // STAGES + chunk // STAGES
"""
EARLIER_ROWS = """\
    o_j = tl.arange(0, BLOCK_J)
    p_k = k + o_row[:, None] * stride_kn + o_d[None, :]
    b_k = tl.load(p_k, mask=m_row, other=0.0)
    p_v = v + o_row[:, None] * stride_vn + o_e[None, :]
    b_v = tl.load(p_v, mask=m_row, other=0.0)
    for i_j in tl.range(0, tl.cdiv(start, BLOCK_J)):
        start_j = start - (i_j + 1) * BLOCK_J
        o_row_j = start_j + o_j.to(tl.int64)
        m_row_j = (o_row_j >= 0)[:, None]
        p_k_j = k + o_row_j[:, None] * stride_kn + o_d[None, :]
        b_k_j = tl.load(p_k_j, mask=m_row_j, other=0.0)
        p_v_j = v + o_row_j[:, None] * stride_vn + o_e[None, :]
        b_v_j = tl.load(p_v_j, mask=m_row_j, other=0.0)
        b_p = tl.dot(b_q, tl.trans(b_k_j))  # [BLOCK_N, BLOCK_J]
        to_chunk = tl.exp2(-slope * (start - 1 - start_j - o_j))
        b_p *= from_chunk[:, None] * to_chunk[None, :]
        b_o = tl.dot(b_p.to(tl.bfloat16), b_v_j, b_o)
    b_p = tl.dot(b_q, tl.trans(b_k)) * decay_matrix
    b_o = tl.dot(b_p.to(tl.bfloat16), b_v, b_o)
"""


def all_rows(text: str) -> str:
    for pattern, instead in ALL_ROWS:
        text = re.sub(pattern, instead, text)
    return text


def with_stages(text: str, num_stages: int) -> str:
    return re.sub(r"num_stages=\d", f"num_stages={num_stages}", re.sub(r"STAGES=\d", f"STAGES={num_stages}", text))


def wide(text: str, block_j: int, num_warps: int, num_stages: int) -> str:
    """Of `parallel` by pointers, where D is one tile that is full."""
    loop = re.search(r"    for start_j in tl\.range\(first.*?(?=    p_o = )", text, re.DOTALL)
    bounds = re.search(r"    # Over more rows.*?\n.*?\n.*?\n", text)
    if loop is None or bounds is None or "(o_d < D)" in text or "b_q0" in text:
        return text
    text = text.replace(loop[0], EARLIER_ROWS).replace(bounds[0], "")
    text = text.replace("    BLOCK_N: tl.constexpr,\n", "    BLOCK_N: tl.constexpr,\n    BLOCK_J: tl.constexpr,\n")
    text = re.sub(r"        BLOCK_N=\d+,\n", lambda found: found[0] + f"        BLOCK_J={block_j},\n", text)
    return with_stages(re.sub(r"num_warps=\d", f"num_warps={num_warps}", text), num_stages)


def backwards(text: str) -> str:
    """Of `cooperative`, all of whose rows are read for states."""
    for role, changed in (("load", _loads_backwards), ("score", _scores_backwards), ("walk", _states_backwards)):
        found = re.search(rf"def o_{role}\(.*?(?=\n\n\n)", text, re.DOTALL)
        if found is not None:
            text = text.replace(found[0], changed(found[0]))
    return text


def _loads_backwards(role: str) -> str:
    own, loop, walk = role.partition("    for chunk in range(num_chunks):\n")
    own = own.replace("own_row + chunk * BLOCK_N", "own_row + (own_chunks - 1 - chunk) * BLOCK_N")
    before, expect, loads = re.split(r"( +mbarrier\.expect.*\n)", walk)
    only_q = "".join(f"    {line}" for line in loads.splitlines(keepends=True) if "load_block(q," in line)
    all_three = "".join(f"    {line}" for line in loads.splitlines(keepends=True))
    q_bytes, _, _ = expect.partition(" + ")
    before = re.sub(r" +stage = .*\n", PLACE, before).replace("turn // STAGES + 1", "fills + 1")
    kept = f"        if chunk < gl.minimum(own_chunks, STAGES):\n    {q_bytes})\n{only_q}        else:\n    {expect}{all_three}"
    return own + loop + before + kept


def _scores_backwards(role: str) -> str:
    own, loop, walk = role.partition("    for chunk in range(num_chunks):\n")
    return own.replace("* to_state[:", "* (to_state * gl.exp2(-slope * BLOCK_N * chunk))[:") + loop + _placed(walk)


def _states_backwards(role: str) -> str:
    own, loop, walk = role.partition("    for chunk in range(num_chunks):\n")
    # Once, ahead of the walk, the state has to decay all the same.
    return re.sub(r" {8}b_state\d? \*= across\n", "", own) + loop + _placed(walk)


def _placed(walk: str) -> str:
    place = re.sub(r" +stage, ahead = .*\n", PLACE + "        ahead = turn % AHEAD\n", walk)
    return place.replace("filled.index(stage), turn // STAGES % 2", "filled.index(stage), fills % 2")


def counter_last(text: str) -> str:
    walk = re.search(r"def o_walk\(.*?(?=\n\n\n)", text, re.DOTALL)
    assert walk is not None
    leave = re.search(r" +# The last one leaves .*\n.*\n.*\n", walk[0])
    assert leave is not None
    return text.replace(walk[0], walk[0].replace(leave[0], "") + "\n" + leave[0].rstrip("\n"))


def wide_scan(text: str, part: int, at_once: int) -> str:
    text = text.replace("PART: gl.constexpr = 128", f"PART: gl.constexpr = {part}")
    return re.sub(r"(AT_ONCE: gl.constexpr = )\d+", rf"\g<1>{at_once}", text)


def by_pointers(plan: Plan) -> Plan:
    return _changed(plan, lambda config: config.with_choices(loads="pointer"))


def in_short_chunks(plan: Plan, num_warps: int) -> Plan:
    return _changed(by_pointers(plan), lambda config: replace(config.with_constexprs(BLOCK_N=32), num_warps=num_warps))


def _changed(plan: Plan, how: Callable[[Config], Config]) -> Plan:
    return Plan.from_steps([replace(step, config=how(step.config)) for step in plan.steps])


def variants(problem: Problem, plan: Plan) -> Iterator[tuple[str, str]]:
    text = render(problem, plan).text
    yield "served", text
    yield "all rows", all_rows(text)
    if problem.direction == "fwd" and plan.steps[0].config.algorithm == "cooperative":
        yield "launched as others are", re.sub(r"(?<=launch_cooperative_grid=).*,", "False,", text)
        yield "counter last", counter_last(text)
        for part, at_once in ((128, 16), (256, 8), (256, 16)):
            yield f"scan, {part} and {at_once}", wide_scan(text, part, at_once)
        for num_stages in range(plan.steps[0].config.num_stages, 8):
            changed = with_stages(backwards(all_rows(text)), num_stages)
            yield f"backwards, {num_stages} stages", changed
            yield f"backwards, {num_stages} stages, counter last", counter_last(changed)
            for part, at_once in ((128, 8), (128, 16), (256, 8), (256, 16)):
                name = f"backwards, {num_stages} stages, counter last, scan, {part} and {at_once}"
                yield name, wide_scan(counter_last(changed), part, at_once)
    if all(step.config.algorithm == "parallel" for step in plan.steps):
        for num_stages in (4, 5, 6):
            yield f"all rows, {num_stages} stages", with_stages(all_rows(text), num_stages)
        for num_warps in (2, 4):
            short = all_rows(render(problem, in_short_chunks(plan, num_warps)).text)
            yield f"all rows, chunks of 32, {num_warps} warps", with_stages(short, 6)
        if problem.direction == "fwd":
            text = render(problem, by_pointers(plan)).text
            for block_j, num_warps, num_stages in ((64, 4, 5), (128, 4, 3), (128, 8, 3), (256, 8, 2), (256, 4, 2)):
                name = f"wide, {block_j} rows, {num_warps} warps, {num_stages} stages"
                yield name, wide(text, block_j, num_warps, num_stages)


def main(seconds: float, output: Path) -> None:
    end, rows = time.monotonic() + seconds, []
    with Worker() as worker:
        for direction, shape in SHAPES:
            if time.monotonic() > end:
                return
            problem = parse_shape(shape).problem(direction=direction, decay="constant", dtype="bf16")
            plan = resolve(problem, GPU).plan
            # Of equal texts the first name stands.
            sources = {Source.of(text): name for name, text in reversed(list(variants(problem, plan)))}
            rows += race(worker, problem, plan, sources, [source for source in sources if fits(problem, source)])
            output.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(float(sys.argv[1]), Path(sys.argv[2]))
