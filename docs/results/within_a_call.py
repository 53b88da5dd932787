"""When the parts of a forward pass that has warps of its own do what, on an H200: clocks read inside the kernel.

Run as ``python docs/results/within_a_call.py OUTPUT.json``; tidied since it ran. The text that serves, or the config named,
with stamps added: each part of a program stores its SM's clock at some points. Of the last call of a graph of calls with cold
inputs.
"""

from __future__ import annotations

import json
import re
import sys
from functools import partial
from pathlib import Path

import torch

from latune.cli.shapes import parse_shape
from latune.codegen.load import load
from latune.codegen.render import Source, render
from latune.config import Config
from latune.gpu import find_gpu
from latune.ops.dispatch import resolve
from latune.plan import Plan, Step
from latune.tuner.cases import timed_case
from latune.tuner.sampling import gpu_sampler, input_sets
from latune.tuner.timing import median

GPU = find_gpu("h200")
MHZ = 1755
SLOTS = 64
FIRST_CHUNK, LAST_CHUNK = 16, 61
# Where the global timer is stored, as a program begins and ends.
BEGINS, ENDS = 62, 63
WHOLE = Config.from_json(
    {
        "algorithm": "sequential",
        "choices": {
            "branched": "none",
            "decay_mode": "matrix",
            "decayed": "value",
            "loads": "specialized",
            "state_layout": "transposed",
        },
        "constexprs": {"BLOCK_D": 128, "BLOCK_E": 128, "BLOCK_N": 64},
        "num_stages": 2,
        "num_warps": 8,
        "options": {},
    }
)
CASES = (
    ("1,8,8192,128", None),
    ("1,16,8192,96", None),
    ("1,16,8192,64,128", None),
    ("1,16,16384,64", None),
    ("1,16,32768,128", None),
    ("4,32,512,128", WHOLE),
)
POINTS = (
    "begins", "parts begin", "load begins", "first chunk asked for", "scores begin", "first chunk there", "first scores made",
    "walk begins", "own state made", "own state stored", "met once", "scanned", "met twice", "walk ahead of its first chunk",
    "ends",
)  # fmt: skip
STAMP = """

@gluon.jit
def stamp(stamps, place):
    clock = gl.inline_asm_elementwise("mov.u32 $0, %clock; //$1", "=r,r", [place], gl.int32, is_pure=False, pack=1)
    gl.store(stamps + (gl.program_id(0) * gl.num_programs(1) + gl.program_id(1)) * 64 + place, clock)


@gluon.jit
def stamp_time(stamps, place):
    ns = gl.inline_asm_elementwise("mov.u32 $0, %globaltimer_lo; //$1", "=r,r", [place], gl.int32, is_pure=False, pack=1)
    gl.store(stamps + (gl.program_id(0) * gl.num_programs(1) + gl.program_id(1)) * 64 + place, ns)

"""


def stamped(text: str) -> str:
    text = text.replace("LOG2_E = ", "STAMPS = None\nLOG2_E = ", 1)
    text = text.replace("\n\n# Fills the rings", STAMP + "\n# Fills the rings", 1)
    text = text.replace("def o_kernel(\n", "def o_kernel(\n    stamps,\n")
    text = re.sub(r"    o_kernel\[.*\]\(\n", r"\g<0>        STAMPS,\n", text)
    for part in ("load", "score", "walk"):
        text = text.replace(f"def o_{part}(\n", f"def o_{part}(\n    stamps,\n")
        call = f"                o_{part},\n                (\n"
        text = text.replace(call, call + "                    stamps,\n")
    for function, points in (
        ("kernel", ((r"(?<=\n\):\n)", 0), (r"(?=    gl\.warp_specialize)", 1))),
        ("load", ((r"(?<=\n\):\n)", 2), (r"        load_block\(v, (?:.*)\n", 3))),
        (
            "score",
            ((r"(?<=\n\):\n)", 4), (r"        mbarrier\.wait\(filled.*\n", 5), (r"        mbarrier\.arrive\(made.*\n", 6)),
        ),
        (
            "walk",
            (
                (r"(?<=\n\):\n)", 7),
                (r"(?=    if i_s \+ 1 < num_segments:)", 8),
                (r"(?=    meet\(counter, num_segments)", 9),
                (r"    meet\(counter, num_segments\)\n", 10),
                (r"(?=    meet\(counter, 2)", 11),
                (r"    meet\(counter, 2.*\n", 12),
                (r"(?=    for chunk in range\(num_chunks)", 13),
                (r"    tma\.store_wait\(0\)\n$", 14),
            ),
        ),
    ):
        found = re.search(rf"def o_{function}\(.*?\n(?=\n\n)", text, re.DOTALL)
        assert found is not None
        changed = found[0]
        for pattern, place in points:
            in_loop = pattern.startswith("        ")
            call = (
                f"        if chunk == 0:\n            stamp(stamps, {place})\n" if in_loop else f"    stamp(stamps, {place})\n"
            )
            changed = re.sub(pattern, lambda match, call=call: match[0] + call, changed, count=1)
        if function == "walk":
            place = f"{FIRST_CHUNK} + gl.minimum(chunk, {LAST_CHUNK - FIRST_CHUNK})"
            end = r"        staged_o\.reshape.*\n        fence_async_shared\(\)\n"
            changed = re.sub(end, rf"\g<0>        stamp(stamps, {place})\n", changed)
            changed += f"    stamp_time(stamps, {ENDS})\n"
        if function == "kernel":
            changed = changed.replace("    stamp(stamps, 0)\n", f"    stamp_time(stamps, {BEGINS})\n    stamp(stamps, 0)\n")
        text = text.replace(found[0], changed)
    return text


def main(output: Path) -> None:
    device, rows = torch.device("cuda"), []
    for shape, config in CASES:
        problem = parse_shape(shape).problem(direction="fwd", decay="constant", dtype="bf16")
        plan = resolve(problem, GPU).plan if config is None else Plan.from_steps([Step(kernel="o", config=config)])
        text = stamped(render(problem, plan).text)
        module = load(Source.of(text))
        module.STAMPS = torch.zeros(1024, SLOTS, dtype=torch.int32, device=device)
        inputs = timed_case(problem, device, 0).inputs
        sets = inputs.copies(input_sets(inputs.bytes, torch.cuda.get_device_properties(device).L2_cache_size))
        sampler = gpu_sampler([partial(one.launch, module) for one in sets])
        us = 1e3 * median(sampler(20))
        stamps = module.STAMPS.cpu().long()
        programs = stamps[stamps[:, 0] != 0]
        since = (programs - programs[:, :1]).double() / MHZ
        points = {name: since[programs[:, place] != 0, place] for place, name in enumerate(POINTS)}
        points |= {
            f"chunk {place - FIRST_CHUNK}": since[programs[:, place] != 0, place]
            for place in range(FIRST_CHUNK, LAST_CHUNK + 1)
        }
        medians = {name: round(float(times.median()), 2) for name, times in points.items() if times.numel()}
        last_ends_us = 1e-3 * int((programs[:, ENDS] - programs[:, BEGINS].min()).max())
        row = {"problem": str(problem), "plan": str(plan), "us": us, "programs": len(programs)}
        rows.append({**row, "last_ends_us": last_ends_us, "median_us": medians})
        print(problem, f"{us:.2f}", *medians.items(), sep="\n  ", flush=True)
        output.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
