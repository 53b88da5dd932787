"""What the forward pass of few heads and of the shortest sequences waits for on an H200: the same with parts left out.

Run as ``python docs/results/few_heads_by_parts.py OUTPUT.json``. The variants are the text that serves, changed; most of them
are wrong, and none is verified: they are timed alone, in one race for each shape.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from latune.cli.shapes import parse_shape
from latune.codegen.load import load
from latune.codegen.render import Source, render
from latune.gpu import find_gpu
from latune.ops.dispatch import resolve
from latune.tuner import timing
from latune.tuner.cases import timed_case
from latune.tuner.sampling import gpu_sampler, input_sets

GPU = find_gpu("h200")
ROUNDS = 20
SHAPES = ("1,4,256,64", "1,8,8192,128", "1,16,8192,96", "1,16,8192,64,128", "1,16,16384,64", "1,16,32768,128")

Change = tuple[str, str]
# Of `cooperative`, by what is left out.
SAME_ROWS: tuple[Change, ...] = (
    (r"(?<=        start = own_row \+ chunk)(?= \* BLOCK_N\n        stage = )", " % 2"),
    (r"(?<=        start = first_row \+ chunk)(?= \* BLOCK_N\n        stage = )", " % 2"),
)
SAME_OUTPUT: tuple[Change, ...] = ((r"start - BLOCK_N, column\], staged_o", "first_row, column], staged_o"),)
NO_MEETING: tuple[Change, ...] = (
    (r"    barrier\(\)\n    gl\.atomic_add\(counter, 1\)\n(.*\n)*?    barrier\(\)\n", "    barrier()\n"),
)
NO_SCAN: tuple[Change, ...] = ((r"    o_scan\(segment_states.*\n", ""),)
NO_STATES: tuple[Change, ...] = ((r"(?<=own_chunks = )gl\.where\(.*\)", "0"),)
NO_WALK: tuple[Change, ...] = ((r"(?<=num_chunks = )gl\.cdiv\(end - begin, BLOCK_N\)", "1"),)
COOPERATIVE: dict[str, tuple[Change, ...]] = {
    "all loads of two chunks": SAME_ROWS,
    "all output to one chunk": SAME_OUTPUT,
    "loads of two chunks, output to one": SAME_ROWS + SAME_OUTPUT,
    "no meeting": NO_MEETING,
    "no meeting, no scan": NO_MEETING + NO_SCAN,
    "no states, no meeting, no scan": NO_STATES + NO_MEETING + NO_SCAN,
    "the same, loads of two chunks": NO_STATES + NO_MEETING + NO_SCAN + SAME_ROWS,
    "the same, loads of two chunks, output to one": NO_STATES + NO_MEETING + NO_SCAN + SAME_ROWS + SAME_OUTPUT,
    "walk of one chunk": NO_WALK,
    "walk of one chunk, no meeting, no scan": NO_WALK + NO_MEETING + NO_SCAN,
    "walk of one chunk, no meeting, no scan, loads of two chunks": NO_WALK + NO_MEETING + NO_SCAN + SAME_ROWS,
    "walk of one chunk, no states, no meeting, no scan": NO_WALK + NO_STATES + NO_MEETING + NO_SCAN,
}
# Of `parallel`.
NO_SLOPE: tuple[Change, ...] = ((r"tl\.load\(slopes \+ i_h\)", "0.01"),)
OWN_CHUNK: tuple[Change, ...] = ((r"first, last = .*", "first, last = start, start"),)
NO_PRODUCTS: tuple[Change, ...] = (
    (r"b_p = tl\.dot\(b_q, tl\.trans\(b_k_j\)\).*", "b_p = b_q.to(tl.float32) + b_k_j"),
    (r"b_o = tl\.dot\(b_p.*", "b_o += b_p + b_v_j"),
)
ONE_LOAD: tuple[Change, ...] = ((r"    for start_j in (.*\n)*?(?=    p_o = )", "    b_o += b_q\n"),)
NOTHING: tuple[Change, ...] = (
    (r"    i_bh = tl\.program_id\(0\)\n", "    if seqlen > 0:\n        return\n    i_bh = tl.program_id(0)\n"),
)
PARALLEL: dict[str, tuple[Change, ...]] = {
    "slope given": NO_SLOPE,
    "own chunk": OWN_CHUNK,
    "slope given, own chunk": NO_SLOPE + OWN_CHUNK,
    "no products": NO_PRODUCTS,
    "no products, slope given": NO_PRODUCTS + NO_SLOPE,
    "q alone": ONE_LOAD,
    "q alone, slope given": ONE_LOAD + NO_SLOPE,
    "nothing": NOTHING,
}


def changed(text: str, changes: tuple[Change, ...]) -> str:
    for pattern, instead in changes:
        text, count = re.subn(pattern, instead, text)
        assert count, pattern
    return text


def variants(text: str, algorithm: str) -> Iterator[tuple[str, str]]:
    yield "served", text
    for name, changes in (COOPERATIVE if algorithm == "cooperative" else PARALLEL).items():
        yield name, changed(text, changes)


def main(output: Path) -> None:
    device, rows = torch.device("cuda"), []
    for shape in SHAPES:
        problem = parse_shape(shape).problem(direction="fwd", decay="constant", dtype="bf16")
        plan = resolve(problem, GPU).plan
        inputs = timed_case(problem, device, 0).inputs
        sets = inputs.copies(input_sets(inputs.bytes, torch.cuda.get_device_properties(device).L2_cache_size))
        names, samplers, pool = [], [], torch.cuda.graph_pool_handle()
        for name, text in variants(render(problem, plan).text, plan.steps[0].config.algorithm):
            module = load(Source.of(text))
            calls = [partial(one.launch, module) for one in sets]
            calls[0]()
            torch.cuda.synchronize()
            names.append(name)
            samplers.append(gpu_sampler(calls, pool))
        for name, drawn in zip(names, timing.interleave(samplers, rounds=ROUNDS, seed=0), strict=True):
            timed = timing.summarise([timing.median(times) for times in drawn])
            rows.append({"problem": str(problem), "variant": name, "us": 1e3 * timed.median_ms})
            print(problem, f"{1e3 * timed.median_ms:8.2f}", name, flush=True)
        output.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
