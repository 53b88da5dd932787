"""Passes of 4,32,8192,128, and a step of both, replayed for 1.6 seconds: their time as that goes on, the GPU's clock and power.

Run as ``python docs/results/at_the_power_limit.py OUTPUT.json``; tidied since it ran. A window is 60 replays of a CUDA graph of
one call; between passes the GPU rests for 0.7 seconds.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch

from latune.cli.benchmark.case import make_case
from latune.cli.benchmark.contest import _backward, _forward, _step
from latune.cli.benchmark.peers import PEERS
from latune.cli.benchmark.stopwatch import Stopwatch
from latune.cli.shapes import parse_shape

SHAPE = "4,32,8192,128"
REPLAYS, SECONDS, REST_SECONDS = 60, 1.6, 0.7
QUERY = "clocks.sm,power.draw,clocks_event_reasons.active"
NAMES = ("sm_mhz", "power_w", "reasons")


def watch(seen: list[tuple[float, list[str]]]) -> None:
    """Notes every 100 ms, as long as the process lives, what nvidia-smi says. Reason 0x4: the power limit."""
    command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader,nounits", "-lms", "100"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            seen.append((time.perf_counter(), [word.strip() for word in line.split(",")]))


def main(output: Path) -> None:
    problem = parse_shape(SHAPE).problem(direction="bwd", decay="constant", dtype="bf16")
    case, stopwatch, (latune, *_) = make_case(problem, torch.device("cuda", 0)), Stopwatch(), PEERS
    seen: list[tuple[float, list[str]]] = []
    threading.Thread(target=watch, args=(seen,), daemon=True).start()
    found = {}
    with stopwatch.stream():
        for name, one_pass in (("forward", _forward), ("backward", _backward), ("step", _step)):
            call = one_pass(latune, latune.load(case), case)
            for _ in range(4):
                call()
            torch.cuda.synchronize()
            gc.collect()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stopwatch._stream, capture_error_mode="thread_local"):
                held = call()
            torch.cuda.synchronize()
            time.sleep(REST_SECONDS)
            began, windows = time.perf_counter(), []
            while time.perf_counter() - began < SECONDS:
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                for _ in range(REPLAYS):
                    graph.replay()
                end.record()
                torch.cuda.synchronize()
                windows.append({"at_s": time.perf_counter() - began, "us": 1e3 * start.elapsed_time(end) / REPLAYS})
            samples = [{"at_s": at - began, **dict(zip(NAMES, said, strict=True))} for at, said in seen if at >= began]
            found[name] = {"windows": windows, "samples": samples}
            del graph, held
    output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
