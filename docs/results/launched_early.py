"""Forward passes as they serve on an H200, beside the same launched before the kernel ahead of them has ended.

Run as ``python docs/results/launched_early.py OUTPUT.json``; tidied since it ran. The variants are the text that serves,
changed:

``early``        launched with programmatic dependent launch; it waits where it begins, before it touches memory
``prepared``     the same, but it waits behind what it prepares in shared memory
``overlapping``  the same, and lets what follows be launched as soon as it has waited: calls one behind the other overlap
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import torch

from latune.cli.shapes import parse_shape
from latune.codegen.load import load
from latune.codegen.render import Source, render
from latune.gpu import find_gpu
from latune.ops.dispatch import resolve
from latune.problem import Problem
from latune.tuner import timing
from latune.tuner.cases import Inputs, timed_case
from latune.tuner.sampling import gpu_sampler, input_sets
from latune.tuner.worker import Worker

GPU = find_gpu("h200")
ROUNDS = 20
SHAPES = (
    "1,4,256,64", "1,8,512,128", "1,8,8192,128", "1,16,8192,96", "1,16,8192,64,128", "1,16,16384,64", "4,32,512,128",
    "4,32,1024,128", "1,64,4096,128", "1,8,32768,128", "16,32,2048,64", "2,32,4096,192", "4,16,4096,256", "4,32,4096,64,128",
)  # fmt: skip
BEHIND_ANOTHER = ("1,4,256,64", "1,8,8192,128", "4,32,512,128", "1,16,16384,64")
WAIT, GO_ON = "    tl.extra.cuda.gdc_wait()\n", "    tl.extra.cuda.gdc_launch_dependents()\n"


def early(text: str) -> str:
    kernel = re.search(r"def o_kernel\((?:\n    .*)*\n\):\n", text)
    assert kernel is not None
    text = text.replace(kernel[0], kernel[0] + WAIT)
    return re.sub(r"^( +)num_warps=\d", r"\1launch_pdl=True,\n\g<0>", text, flags=re.MULTILINE)


def prepared(text: str) -> str:
    """Where loads have warps of their own; else as ``early``."""
    slope = re.search(r"    slope = gl\.load\(slopes(?:.*\n)*?(?=    ring_)", text)
    if slope is None:
        return early(text)
    text = early(text).replace(WAIT, "").replace(slope[0], "")
    return text.replace("    gl.warp_specialize(", WAIT + slope[0] + "    gl.warp_specialize(")


def overlapping(text: str) -> str:
    return prepared(text).replace(WAIT, WAIT + GO_ON)


def variants(text: str) -> Iterator[tuple[str, Source]]:
    for name, changed in (
        ("served", text),
        ("early", early(text)),
        ("prepared", prepared(text)),
        ("overlapping", overlapping(text)),
    ):
        yield name, Source.of(changed)


def problem_of(shape: str) -> Problem:
    return parse_shape(shape).problem(direction="fwd", decay="constant", dtype="bf16")


def behind_another(shape: str) -> list[dict[str, object]]:
    """Each call behind PyTorch's product of q and a number; timed, not verified."""
    problem, device = problem_of(shape), torch.device("cuda")
    inputs = timed_case(problem, device, 0).inputs
    sets = inputs.copies(input_sets(inputs.bytes, torch.cuda.get_device_properties(device).L2_cache_size))

    def both(one: Inputs, module: ModuleType) -> object:
        torch.mul(one.q, 1.5)
        return one.launch(module)

    names, samplers = ["another alone"], [gpu_sampler([partial(torch.mul, one.q, 1.5) for one in sets])]
    pool = torch.cuda.graph_pool_handle()
    for name, source in variants(render(problem, resolve(problem, GPU).plan).text):
        calls = [partial(both, one, load(source)) for one in sets]
        calls[0]()
        torch.cuda.synchronize()
        names.append(f"{name}, behind another")
        samplers.append(gpu_sampler(calls, pool))
    drawn = timing.interleave(samplers, rounds=ROUNDS, seed=0)
    return [
        row(problem, name, "ok", timing.median([timing.median(times) for times in one]))
        for name, one in zip(names, drawn, strict=True)
    ]


def row(problem: Problem, name: str, outcome: str, ms: float | None, detail: str = "") -> dict[str, object]:
    print(problem, f"{1e3 * (ms or 0):8.2f}", outcome, name, detail[:150], flush=True)
    return {"problem": str(problem), "variant": name, "outcome": outcome, "ms": ms}


def main(output: Path) -> None:
    rows: list[dict[str, object]] = []
    with Worker() as worker:
        for shape in SHAPES:
            problem = problem_of(shape)
            plan = resolve(problem, GPU).plan
            names, sources = zip(*variants(render(problem, plan).text), strict=True)
            raced = worker.race(problem, [(plan, source) for source in sources], rounds=ROUNDS)
            for name, measured in zip(names, raced, strict=True):
                rows.append(row(problem, name, measured.outcome, measured.median_ms, measured.detail))
            output.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    for shape in BEHIND_ANOTHER:
        rows += behind_another(shape)
        output.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
