from __future__ import annotations

import json
import sys
from xml.etree import ElementTree

import pytest

from latune.cli.benchmark.case import LINEAR, SOFTMAX
from latune.cli.benchmark.plots import plotter
from latune.cli.benchmark.records import to_records
from latune.errors import LatuneError

# What the page of a README is in its light and its dark theme.
PAPERS = ("#ffffff", "#0d1117")
PEERS = {"latune": 1.0, "fla chunk_simple_gla": 2.5, "lightning_attn": 0.8, "SDPA flash": 7.0}


def _result(peer, factor, seqlen, verdict="ok"):
    timed, ms = verdict == "ok", factor * seqlen * 1e-4
    return {
        "peer": peer,
        "function": SOFTMAX if peer.startswith("SDPA") else LINEAR,
        "verdict": verdict,
        "median_ms": ms if timed else None,
        "ci_low_ms": 0.9 * ms if timed else None,
        "ci_high_ms": 1.2 * ms if timed else None,
        "times_latune": {"median": factor, "low": 0.9 * factor, "high": 1.2 * factor} if timed else None,
        "extra_bytes": int(100 * factor) if timed else None,
        "output_bytes": 80 if timed else None,
    }


def _case(direction, batch, seqlen, head_dim_k=64, head_dim_v=64, **verdicts):
    results = [_result(peer, factor, seqlen, verdicts.get(peer, "ok")) for peer, factor in PEERS.items()]
    sizes = {"batch": batch, "num_heads": 2, "seqlen": seqlen, "head_dim_k": head_dim_k, "head_dim_v": head_dim_v}
    problem = f"{direction} {batch},2,{seqlen},{head_dim_k},{head_dim_v} bf16 decay=constant"
    return {"problem": problem, "direction": direction, "roof_ms": seqlen * 8e-5, **sizes, "results": results}


CASES = [
    _case("fwd", 4, 1024),
    _case("fwd", 4, 4096, lightning_attn="wrong"),
    _case("fwd", 1, 32768),
    _case("fwd", 4, 1024, 128, 64, lightning_attn="unavailable"),
    _case("fwd", 4, 2048, 128, 64),
    _case("fwd", 4, 2048, 256, 256),
    _case("bwd", 4, 1024),
    _case("bwd", 4, 2048, latune="wrong"),
]
DOCUMENT = {"gpu": {"title": "NVIDIA H200"}, "cases": CASES}


def _drawn(folder, document=DOCUMENT):
    """The plots of a document, by name."""
    pytest.importorskip("matplotlib")
    plotter(folder)(to_records(document))
    return {path.name: path.read_bytes() for path in folder.glob("*.svg")}


def _words(plot):
    return [word.text for word in ElementTree.fromstring(plot).iter("{http://www.w3.org/2000/svg}text")]


@pytest.fixture(scope="module")
def plots(tmp_path_factory):
    return _drawn(tmp_path_factory.mktemp("plots"))


@pytest.fixture
def texts(plots):
    """The words in each plot, by its name."""
    return {name: _words(plot) for name, plot in plots.items()}


def test_there_is_a_plot_for_the_head_dims_of_several_lengths_and_two_of_bars(texts):
    times = {"time-fwd-d64.svg", "time-fwd-d128-e64.svg", "time-bwd-d64.svg"}
    bars = {"speedup-fwd.svg", "speedup-bwd.svg", "memory-fwd.svg", "memory-bwd.svg"}
    assert set(texts) == times | bars


def test_times_have_a_line_a_peer_and_the_roof_in_a_panel_for_each_batch(texts):
    words = texts["time-fwd-d64.svg"]
    assert {"latune", "fla chunk_simple_gla", "lightning_attn", "SDPA flash (softmax)", "memory roof"} <= set(words)
    assert {"B 1, H 2", "B 4, H 2", "1024", "4096", "32768", "NVIDIA H200, bf16 decay=constant, forward, D 64"} <= set(words)
    assert "lightning_attn: wrong at 4,2,4096,64" in words
    assert "NVIDIA H200, bf16 decay=constant, forward, D 128, E 64" in texts["time-fwd-d128-e64.svg"]


def test_speedups_are_over_peers_of_the_same_function_and_name_what_is_missing(texts):
    forward = texts["speedup-fwd.svg"]
    assert "4,2,1024,128,64" in forward and {"2.50", "0.80", "wrong", "unavailable"} <= set(forward)
    assert "SDPA flash" not in forward and "latune" not in forward


def test_without_latunes_time_there_is_no_speedup(tmp_path):
    case = _case("fwd", 4, 1024, latune="wrong")
    for result in case["results"]:
        result["times_latune"] = None
    assert _words(_drawn(tmp_path, {**DOCUMENT, "cases": [case]})["speedup-fwd.svg"]).count("latune not timed") == 2


def test_memory_is_that_of_all_peers(texts):
    words = texts["memory-fwd.svg"]
    assert {"latune", "SDPA flash", "1.25", "3.12", "8.75"} <= set(words)


def test_a_redrawn_plot_is_the_same_to_the_byte(plots, tmp_path):
    assert _drawn(tmp_path) == plots
    assert not any(b"<dc:date" in plot or b"matplotlib.org" in plot for plot in plots.values())


def test_colours_are_legible_on_light_and_on_dark_paper():
    pytest.importorskip("matplotlib")
    from latune.cli.benchmark.chart_style import INK, looks

    for colour in (INK, *(look.colour for look in looks([str(number) for number in range(10)]).values())):
        for paper in PAPERS:
            light, dark = sorted((_luminance(colour), _luminance(paper)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) > (4 if colour == INK else 3), (colour, paper)


def _luminance(colour):
    """Of WCAG 2, from 0 to 1."""
    shares = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return sum(weight * share for weight, share in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(DOCUMENT), encoding="utf-8")
    return path


def test_an_earlier_run_is_summed_up_and_redrawn_without_a_gpu(run, file, tmp_path):
    pytest.importorskip("matplotlib")
    result = run("bench", "--from", str(file), "--plots", str(tmp_path / "a" / "b"))
    assert result.exit_code == 0 and "geometric mean" in result.stdout
    assert (tmp_path / "a" / "b" / "speedup-fwd.svg").exists() and result.stderr.count("wrote ") == 7
    assert "geometric mean" in run("bench", "--from", str(file)).stdout


def test_runs_on_several_gpus_are_summed_up_as_one(run, tmp_path):
    files = []
    for index, case in enumerate(DOCUMENT["cases"]):
        files.append(tmp_path / f"{index}.json")
        files[-1].write_text(json.dumps({**DOCUMENT, "cases": [case]}), encoding="utf-8")
    (tmp_path / "whole.json").write_text(json.dumps(DOCUMENT), encoding="utf-8")
    together = run("bench", *(option for file in files for option in ("--from", str(file))))
    assert together.exit_code == 0
    assert together.stdout == run("bench", "--from", str(tmp_path / "whole.json")).stdout


def test_runs_of_one_shape_or_of_two_kinds_of_gpu_do_not_belong_together(run, file, tmp_path):
    other = tmp_path / "other.json"
    other.write_text(json.dumps({**DOCUMENT, "gpu": {"title": "Another GPU"}}), encoding="utf-8")
    result = run("bench", "--from", str(file), "--from", str(file))
    assert result.exit_code == 1 and "expected each shape in one run" in result.stderr
    result = run("bench", "--from", str(file), "--from", str(other))
    assert result.exit_code == 1 and "Another GPU" in result.stderr
    cases = [{**case, "problem": case["problem"].replace("bf16", "fp16")} for case in CASES]
    other.write_text(json.dumps({**DOCUMENT, "cases": cases}), encoding="utf-8")
    result = run("bench", "--from", str(file), "--from", str(other))
    assert result.exit_code == 1 and "got bf16 decay=constant in" in result.stderr and "fp16" in result.stderr


def test_a_folder_that_cannot_be_made_is_known_before_anything_is_timed(run, file):
    pytest.importorskip("matplotlib")
    result = run("bench", "--plots", str(file / "plots"))
    assert result.exit_code == 1 and "give a path you can write to" in result.stderr


@pytest.mark.parametrize("option", [("--shape", "1,2,64,64"), ("--preset", "default"), ("--dtype", "bf16"), ("--json", "-")])
def test_what_says_how_to_time_is_refused_beside_an_earlier_run(run, file, option):
    result = run("bench", "--from", str(file), *option)
    assert result.exit_code == 2 and f"got {option[0]}" in result.stderr


def test_without_matplotlib_the_error_names_the_command_that_installs_it(run, file, tmp_path, monkeypatch):
    for module in [name for name in sys.modules if name.startswith(("matplotlib", "latune.cli.benchmark.chart"))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run("bench", "--from", str(file), "--plots", str(tmp_path / "plots"))
    assert result.exit_code == 1 and result.stdout == "" and "pip install 'matplotlib>=3.8'" in result.stderr
    assert not (tmp_path / "plots").exists()
    assert run("bench", "--from", str(file)).exit_code == 0


def test_another_missing_module_is_not_blamed_on_matplotlib(monkeypatch, tmp_path):
    for module in [name for name in sys.modules if name.startswith("latune.cli.benchmark.chart")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "latune.cli.benchmark.charts", None)
    with pytest.raises(ModuleNotFoundError) as caught:
        plotter(tmp_path)
    assert not isinstance(caught.value, LatuneError)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda case: case.update(direction="../up"), "cases.0.direction"),
        (lambda case: case.update(seqlen=-5), "cases.0.seqlen"),
        (lambda case: case.update(roof_ms=0), "cases.0.roof_ms"),
        (lambda case: case["results"][0].update(median_ms=0), "cases.0.results.0.median_ms"),
        (lambda case: case["results"][0].update(ci_low_ms=None), "with its interval"),
        (lambda case: case["results"][1]["times_latune"].update(median=-1), "times_latune.median"),
    ],
)
def test_what_no_run_has_timed_is_told_by_its_place(run, tmp_path, change, where):
    document = json.loads(json.dumps(DOCUMENT))
    change(document["cases"][0])
    (tmp_path / "bench.json").write_text(json.dumps(document), encoding="utf-8")
    result = run("bench", "--from", str(tmp_path / "bench.json"))
    assert result.exit_code == 1 and where in result.stderr and len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(("cases", "words"), [([], "at least one shape"), ([CASES[0], CASES[0]], "each shape in one run")])
def test_a_file_of_no_shape_or_of_one_twice_is_refused(run, tmp_path, cases, words):
    (tmp_path / "bench.json").write_text(json.dumps({**DOCUMENT, "cases": cases}), encoding="utf-8")
    result = run("bench", "--from", str(tmp_path / "bench.json"))
    assert result.exit_code == 1 and words in result.stderr
