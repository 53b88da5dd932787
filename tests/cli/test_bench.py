"""The whole command, with a GPU that is made up and a stopwatch that invents times."""

from __future__ import annotations

import contextlib
import itertools
import json

import pytest
import torch

from latune.cli import bench as command
from latune.cli import chosen_gpu, options
from latune.cli.benchmark.hosttime import HostTime
from latune.cli.benchmark.peers import PEERS
from latune.cli.benchmark.stopwatch import Timer
from latune.cli.presets import Preset
from latune.cli.shapes import parse_shape
from latune.gpu import find_gpu


def test_bench_without_a_gpu_is_an_error_in_one_line(run):
    result = run("bench", "--shape", "1,2,64,64")
    assert result.exit_code == 1 and result.stdout == "" and len(result.stderr.splitlines()) == 1
    assert "needs a CUDA GPU" in result.stderr


class Watch:
    """The first peer that is timed takes 1 ms, the next one 2 ms, and so on; each call really runs."""

    copy_gbps = 1000.0
    device = torch.device("cpu")

    def __init__(self) -> None:
        self._ms = itertools.count(1)

    def stream(self):
        return contextlib.nullcontext()

    def input_sets(self, input_bytes) -> int:
        return 1

    def timer(self, calls) -> Timer:
        ms = float(next(self._ms))
        return Timer(sample=lambda count: [ms] * count, calls=len(calls), replayed=True)

    def unit_us(self) -> float:
        return 10.0

    def host(self, call, unit_us) -> HostTime:
        return HostTime(unit_us=unit_us, wall_us=250.0, gpu_us=240.0, gpu_bound=True)

    def extra_bytes(self, call):
        outputs = call()
        return outputs, 3 * sum(output.nbytes for output in outputs)

    def release(self) -> None:
        pass


@pytest.fixture
def bench_on_the_cpu(run, monkeypatch):
    monkeypatch.setattr(chosen_gpu, "local_gpu", lambda: find_gpu("h200"))
    monkeypatch.setattr(command, "Stopwatch", Watch)
    return run


def test_a_preset_is_timed_after_the_shapes_named(bench_on_the_cpu, own_cache, monkeypatch):
    preset = Preset(about="Short ones.", shapes=(parse_shape("1,1,48,16"), parse_shape("1,2,32,16")))
    monkeypatch.setattr(options, "read_presets", lambda: {"short": preset})
    arguments = ("--shape", "1,2,32,16", "--preset", "short", "--dtype", "fp32", "--direction", "fwd", "--json", "-")
    document = json.loads(bench_on_the_cpu("bench", *arguments).stdout)
    assert [(case["num_heads"], case["seqlen"]) for case in document["cases"]] == [(2, 32), (1, 48)]


def test_peers_choose_their_configs_anew_for_each_shape(bench_on_the_cpu, own_cache, monkeypatch):
    seen = []
    contest = command.contest
    monkeypatch.setattr(command, "forget_choices", lambda: seen.append("forgotten"))
    monkeypatch.setattr(command, "contest", lambda problem, *args: seen.append(problem.seqlen) or contest(problem, *args))
    assert bench_on_the_cpu("bench", "--shape", "1,2,32,16", "--shape", "1,2,16,16").exit_code == 0
    assert seen == ["forgotten", 32, 32, "forgotten", 16, 16]


def test_json_goes_to_stdout_or_to_a_file_beside_the_tables(bench_on_the_cpu, own_cache, tmp_path):
    shapes = ("--shape", "1,2,64,16", "--shape", "1,2,32,16", "--dtype", "fp32")
    alone = bench_on_the_cpu("bench", *shapes, "--json", "-")
    document = json.loads(alone.stdout)
    assert alone.exit_code == 0 and document["copy_gbps"] == 1000.0 and document["gpu"]["name"] == "h200"
    assert [(case["seqlen"], case["direction"]) for case in document["cases"]] == [
        (64, "fwd"),
        (64, "bwd"),
        (32, "fwd"),
        (32, "bwd"),
    ]
    path = tmp_path / "bench.json"
    both = bench_on_the_cpu("bench", *shapes, "--json", str(path))
    assert "times latune" in both.stdout and "GPU-bound" in both.stdout and "geometric mean" in both.stdout
    assert len(json.loads(path.read_text())["cases"]) == 4 and json.loads(path.read_text())["summary"] == document["summary"]
    for case in document["cases"]:
        assert [result["peer"] for result in case["results"]] == [peer.name for peer in PEERS]
        assert case["results"][0]["verdict"] == "ok" and case["results"][0]["median_ms"] > 0


def test_the_summary_is_of_all_shapes_and_of_peers_that_compute_the_same(bench_on_the_cpu, own_cache):
    shapes = ("--shape", "1,2,64,16", "--shape", "1,2,32,16", "--dtype", "fp32", "--direction", "fwd")
    document = json.loads(bench_on_the_cpu("bench", *shapes, "--json", "-").stdout)
    (summary,) = document["summary"]
    assert summary["direction"] == "fwd" and summary["cases"] == 2 and summary["left_out"] == []
    timed = [[result for result in case["results"] if result["median_ms"]] for case in document["cases"]]
    best = [
        min(result["times_latune"]["median"] for result in case[1:] if "softmax" not in result["function"]) for case in timed
    ]
    assert summary["geometric_mean"] == pytest.approx((best[0] * best[1]) ** 0.5) and summary["worst"]["ratio"] == min(best)
    assert summary["worst"]["peer"] == "PyTorch chunked" and summary["worst"]["shape"] == "1,2,32,16"
