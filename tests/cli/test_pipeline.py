"""tune, show, generate and verify one after another, without a GPU: really compiled, on a shape that takes seconds."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner

from latune import paths
from latune.cache.store import read_file
from latune.cli import closing, searching, session
from latune.cli.main import cli
from latune.errors import LatuneError
from latune.gpu import find_gpu
from latune.problem import Problem
from latune.tuner.builders import ParallelBuilder
from latune.tuner.evaluators import StaticEvaluator
from latune.tuner.tune import Settings, Tuned

SHAPE = ("--gpu", "a100", "--shape", "1,2,256,32")
A100 = find_gpu("a100")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """The cache root after `latune tune`, and the command's result."""
    root = tmp_path_factory.mktemp("pipeline")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATUNE_CACHE_DIR", str(root))
        patch.setattr(paths, "shipped_cache", lambda: root / "nothing-shipped")
        patch.setattr(torch.cuda, "is_available", lambda: False)
        return root, CliRunner().invoke(cli, ["tune", *SHAPE, "--trials", "2"])


@pytest.fixture
def cache(tuned, tmp_path, monkeypatch):
    """A copy of the tuned cache file, in a root of its own."""
    root, _ = tuned
    copy = tmp_path / "cache" / "nvidia-a100.json"
    copy.parent.mkdir()
    copy.write_bytes((root / "cache" / "nvidia-a100.json").read_bytes())
    monkeypatch.setenv("LATUNE_CACHE_DIR", str(tmp_path))
    return copy


@pytest.fixture
def replayed(cache, monkeypatch):
    """Problems are tuned at once: with the result in the cache."""
    found = {entry.problem: entry for entry in _entries(cache)}

    def tune_problem(problem, *_, **__):
        return Tuned(entry=found[problem], searches={}, finalists=())

    monkeypatch.setattr(searching, "tune_problem", tune_problem)
    return tune_problem


def _entries(path):
    return read_file(path, A100).entries.values()


def _edit(path, change):
    document = json.loads(path.read_text(encoding="utf-8"))
    for entry in document["entries"]:
        change(entry)
    path.write_text(json.dumps(document), encoding="utf-8")


def test_tune_writes_both_directions_and_ends_with_a_verified_call(tuned):
    root, result = tuned
    assert result.exit_code == 0, result.stderr
    path = root / "cache" / "nvidia-a100.json"
    assert {entry.bucket.direction for entry in _entries(path)} == {"fwd", "bwd"}
    assert all(entry.evidence == "static" and entry.measurement.samples == 0 for entry in _entries(path))
    assert f"wrote {path}" in result.stdout
    assert "latune.lightning_attn on CPU agrees with float64" in result.stdout
    assert result.stdout.count("exact bucket") == 2


def test_tune_reports_progress_in_plain_lines_on_stderr(tuned):
    _, result = tuned
    lines = result.stderr.splitlines()
    assert lines[0].startswith("tuning 2 problems for NVIDIA A100, not in this machine")
    assert any(line.startswith("[1/2] fwd 1,2,256,32 o 2/2 trials, best ") for line in lines)
    assert any(line.startswith("[2/2] bwd 1,2,256,32 dkdv 2/2 trials, best ") for line in lines)
    assert "\x1b" not in result.stderr + result.stdout


def test_the_same_command_again_evaluates_nothing(tuned, run, monkeypatch):
    root, _ = tuned
    monkeypatch.setenv("LATUNE_CACHE_DIR", str(root))
    searched = []
    tune_problem = searching.tune_problem
    monkeypatch.setattr(searching, "tune_problem", lambda *a, **k: searched.append(tune_problem(*a, **k)) or searched[-1])
    result = run("tune", *SHAPE, "--trials", "2", "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 0 and report["evidence"] == "static" and report["gpu"] == "a100"
    assert [tuned["problem"].split()[0] for tuned in report["tuned"]] == ["fwd", "bwd"]
    assert [sum(tuned["outcomes"].values()) for tuned in report["tuned"]] == [2, 6]
    assert [result.resumed for tuned in searched for result in tuned.searches.values()] == [2] * 4
    assert set(report["call"]["errors"]) == {"o", "dq", "dk", "dv"}


def test_output_is_where_the_file_goes(replayed, run, tmp_path):
    result = run("tune", *SHAPE, "--direction", "fwd", "--output", str(tmp_path / "shipped"))
    assert result.exit_code == 0, result.stderr
    assert len(_entries(tmp_path / "shipped" / "nvidia-a100.json")) == 1


def test_what_goes_to_a_folder_is_looked_up_there_by_the_closing_call(replayed, run, tmp_path, monkeypatch):
    """The dispatcher does not read the folder: on the GPU it would serve something else."""
    monkeypatch.setattr(closing, "local_gpu", lambda: A100)
    monkeypatch.setattr(closing, "_gpu_errors", lambda _: pytest.fail("asked the dispatcher"))
    result = run("tune", *SHAPE, "--direction", "fwd", "--output", str(tmp_path / "shipped"), "--json")
    call = json.loads(result.stdout)["call"]
    assert call["device"] == "CPU" and call["served"]["fwd"].startswith("exact bucket fwd")


def test_shapes_of_one_bucket_are_tuned_once(replayed, run):
    result = run("tune", *SHAPE, "--shape", "2,1,250,32", "--direction", "fwd", "--json")
    assert [tuned["problem"] for tuned in json.loads(result.stdout)["tuned"]] == ["fwd 1,2,256,32,32 bf16 decay=constant"]
    assert "leaving out fwd 2,1,250,32,32 bf16 decay=constant: fwd 1,2,256,32,32" in result.stderr


def test_transfer_races_what_neighbours_have_and_passes_over_what_is_known(cache, run):
    shapes = (*SHAPE, "--shape", "8,32,512,32", "--direction", "fwd", "--transfer")
    result = run("tune", *shapes, "--json")
    tuned = json.loads(result.stdout)["tuned"]
    assert "1 of 2 buckets have an entry already" in result.stderr
    assert [entry["problem"] for entry in tuned] == ["fwd 8,32,512,32,32 bf16 decay=constant"]
    known = next(entry for entry in _entries(cache) if entry.bucket.direction == "fwd" and entry.bucket.seqlen == 256)
    with ParallelBuilder(workers=1) as builder:
        problem = replace(known.problem, batch=8, num_heads=32, seqlen=512)
        known_ms = StaticEvaluator(problem, A100, builder)(known.plan).median_ms
    assert tuned[0]["entry"]["measurement"]["median_ms"] <= known_ms * 1.01, "what ties it may serve in its place"
    assert tuned[0]["outcomes"] == {}
    again = run("tune", *shapes)
    assert again.exit_code == 0 and "2 of 2 buckets have an entry already" in again.stderr


@pytest.mark.parametrize("direction", ["fwd", "bwd"])
def test_the_closing_call_passes_states_and_compares_what_comes_of_them(direction):
    shape = {"batch": 1, "num_heads": 2, "seqlen": 50, "head_dim_k": 16, "head_dim_v": 32}
    flags = {"has_initial_state": True, "needs_final_state": True}
    problem = Problem(direction=direction, decay="constant", dtype="fp32", **shape, **flags)
    errors = closing._cpu_errors(problem)
    assert list(errors) == {"fwd": ["o", "final_state"], "bwd": ["dq", "dk", "dv", "dinitial_state"]}[direction]
    assert max(errors.values()) < 1e-5


def test_plans_are_judged_beside_what_the_output_folder_holds(cache, tmp_path, monkeypatch):
    asked = []

    def evaluator(problem, folders):
        asked.append((problem, folders))
        raise LatuneError("enough")

    one = session.Session(target=SimpleNamespace(gpu=A100, evaluator=evaluator), output=tmp_path)
    monkeypatch.setattr(session, "starts_of", lambda *_: [])
    problem, *_ = (entry.problem for entry in _entries(cache))
    one.add(problem, lambda: searching._search(one, problem, {}, Settings(), lambda _: None))
    assert asked == [(problem, [tmp_path])] and one.failed == {problem: "enough"}


def test_transfer_takes_no_options_of_a_search(run):
    result = run("tune", *SHAPE, "--transfer", "--trials", "3")
    assert result.exit_code == 2 and "--transfer searches nothing" in result.stderr


def test_an_output_that_cannot_be_written_is_known_before_the_search(cache, run, monkeypatch):
    monkeypatch.setattr(searching, "tune_problem", lambda *_, **__: pytest.fail("searched"))
    result = run("tune", *SHAPE, "--output", "/dev/null/folder")
    assert result.exit_code == 1 and "a folder you can write to" in result.stderr


def test_what_no_gpu_holds_is_not_tuned(cache, run):
    result = run("tune", "--gpu", "a100", "--shape", "1,1000,99999999,64", "--direction", "fwd")
    assert result.exit_code == 1 and "none of 1 problems fits NVIDIA A100" in result.stderr


def test_a_shipped_measured_entry_goes_on_serving_and_tune_says_so(replayed, run, tmp_path, cache, monkeypatch):
    shipped = tmp_path / "shipped" / "nvidia-a100.json"
    shipped.parent.mkdir()
    shipped.write_bytes(cache.read_bytes())
    _edit(shipped, _of_evidence("measured"))
    monkeypatch.setattr(paths, "shipped_cache", lambda: shipped.parent)
    result = run("tune", *SHAPE, "--direction", "fwd")
    assert result.exit_code == 0, result.stderr
    assert "the shipped measured entry of" in result.stderr and ": measured for NVIDIA A100" in result.stdout


def test_auto_without_a_gpu_says_what_it_takes(cache, run):
    assert "no GPU in this machine that kernels are generated for: NVIDIA A100 is meant" in run("show").stderr


def test_show_lists_the_entries(cache, run):
    result = run("show", "--gpu", "a100")
    assert result.exit_code == 0 and result.stderr == ""
    for entry in _entries(cache):
        assert str(entry.bucket) in result.stdout and entry.tuned_at in result.stdout
    listed = json.loads(run("show", "--gpu", "a100", "--json").stdout)["entries"]
    assert [entry["current"] for entry in listed] == [True, True]


def test_show_explains_a_shape(cache, run):
    result = run("show", *SHAPE, "--direction", "fwd")
    assert "step: exact" in result.stdout and "registers" in result.stdout and "tune it" not in result.stdout
    longer = run("show", "--gpu", "a100", "--shape", "1,2,512,32", "--direction", "bwd")
    assert "step: nearest" in longer.stdout
    assert "tune it: latune tune --gpu a100 --shape 1,2,512,32,32 --dtype bf16 --direction bwd" in longer.stdout


def test_show_explains_a_shape_in_json(cache, run):
    found = json.loads(run("show", *SHAPE, "--json").stdout)["resolutions"]
    assert [resolution["step"] for resolution in found] == ["exact", "exact"]
    assert [len(resolution["plan"]) for resolution in found] == [1, len(found[1]["entry"]["plan"])]
    assert all(resolution["candidates"][0]["plan"] == resolution["plan"] for resolution in found)


def _of_evidence(evidence):
    def change(entry):
        entry["evidence"], entry["measurement"]["samples"] = evidence, 20

    return change


def _of_other_code(entry):
    entry["template_sha256"] = "0" * 64


def _lacking_loads(entry):
    for step in entry["plan"]:
        del step["config"]["choices"]["loads"]


@pytest.mark.parametrize("change", [_of_other_code, _lacking_loads])
def test_entries_of_other_code_are_marked(cache, run, change):
    _edit(cache, change)
    assert run("show", "--gpu", "a100").stdout.count("static, of other code: ignored") == 2
    assert [entry["current"] for entry in json.loads(run("show", "--gpu", "a100", "--json").stdout)["entries"]] == [False] * 2


def test_show_of_an_empty_cache_names_the_command(own_cache, run):
    result = run("show", "--gpu", "l4")
    assert result.exit_code == 0 and result.stdout == "" and "`latune tune --gpu l4`" in result.stderr


@pytest.mark.parametrize(("direction", "function"), [("fwd", "forward"), ("bwd", "backward")])
def test_generate_prints_a_module(cache, run, direction, function):
    result = run("generate", *SHAPE, "--direction", direction)
    assert result.exit_code == 0 and "exact bucket" in result.stderr
    tree = ast.parse(result.stdout)
    assert function in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert {name.split(".")[0] for name in imported} == {"torch", "triton"}


def test_generate_writes_a_file_with_the_states_asked_for(cache, run, tmp_path):
    path = tmp_path / "kernel.py"
    result = run("generate", *SHAPE, "--initial-state", "--final-state", "-o", str(path))
    assert result.exit_code == 0 and result.stdout == "" and f"wrote {path}" in result.stderr
    functions = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)]
    forward = next(node for node in functions if node.name == "forward")
    assert "initial_state" in [argument.arg for argument in forward.args.args]


def test_generate_into_a_folder_that_is_not_there(cache, run, tmp_path):
    result = run("generate", *SHAPE, "-o", str(tmp_path / "missing" / "kernel.py"))
    assert result.exit_code == 1 and "give a path you can write to" in result.stderr


def test_verify_compiles_the_entries_again(cache, run):
    result = run("verify", "--gpu", "a100", "--json")
    assert result.exit_code == 0, result.stderr
    assert [entry["verdict"] for entry in json.loads(result.stdout)["entries"]] == ["ok", "ok"]


@pytest.mark.parametrize(
    ("change", "why"), [(_of_other_code, "of code 00000000, its plan is generated as "), (_lacking_loads, "cannot render o: ")]
)
def test_verify_refuses_what_would_be_other_code_now(cache, run, change, why):
    _edit(cache, change)
    details = [entry["detail"] for entry in json.loads(run("verify", *SHAPE, "--json").stdout)["entries"]]
    assert any(why in detail for detail in details) and all("dispatcher ignores it" in detail for detail in details)
    result = run("verify", *SHAPE)
    assert result.exit_code == 1 and result.stdout.count("stale") == 2
    assert "latune tune --gpu a100 --shape 1,2,256,32,32 --dtype bf16 --direction fwd --decay constant --fresh" in result.stderr
    assert "Error: 2 of 2 entries failed" in result.stderr


def test_verify_compares_resources(cache, run):
    _edit(cache, lambda entry: entry["resources"][0].update(shared_bytes=1))
    result = run("verify", *SHAPE, "--json")
    verdicts = json.loads(result.stdout)["entries"]
    assert result.exit_code == 1 and [verdict["verdict"] for verdict in verdicts] == ["other_resources"] * 2
    assert all("shared_bytes 1 stated" in verdict["detail"] and verdict["mend"] for verdict in verdicts)


def test_another_triton_may_take_other_resources(cache, run):
    def change(entry):
        entry["resources"][0]["shared_bytes"] = 1
        entry["toolchain"]["triton"] = "1.0"

    _edit(cache, change)
    result = run("verify", *SHAPE, "--json")
    assert result.exit_code == 0
    assert all("than with 1.0" in verdict["detail"] for verdict in json.loads(result.stdout)["entries"])


@pytest.mark.parametrize("arguments", [["--gpu", "l4"], ["--gpu", "a100", "--shape", "1,2,256,128"]])
def test_verifying_nothing_is_an_error(cache, run, arguments):
    result = run("verify", *arguments)
    assert result.exit_code == 1 and "no entries for" in result.stderr and "latune tune --gpu" in result.stderr


def test_ctrl_c_ends_with_130(own_cache, run, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(searching, "tune_problem", interrupted)
    result = run("tune", *SHAPE, "--json")
    assert result.exit_code == 130 and "goes on from here" in result.stderr
    report = json.loads(result.stdout)
    assert report["interrupted"] and report["tuned"] == [] and report["call"] is None


def test_a_problem_that_fails_does_not_stop_the_others(replayed, run, monkeypatch):
    def failing(problem, *arguments, **options):
        if problem.direction == "fwd":
            raise LatuneError("no plan passed")
        return replayed(problem, *arguments, **options)

    monkeypatch.setattr(searching, "tune_problem", failing)
    result = run("tune", *SHAPE, "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 1 and "1 of 2 problems not tuned; fwd" in result.stderr
    assert [tuned["problem"].split()[0] for tuned in report["tuned"]] == ["bwd"] and len(report["failed"]) == 1


def test_a_measured_entry_is_kept_and_that_is_said(replayed, cache, run):
    _edit(cache, _of_evidence("measured"))
    result = run("tune", *SHAPE, "--direction", "fwd")
    assert result.exit_code == 0 and "the file keeps its measured entry" in result.stderr
    assert {entry.evidence for entry in _entries(cache)} == {"measured"}


@pytest.mark.parametrize(
    ("directions", "handing", "said"),
    [
        pytest.param("fwd", (True, False), True, id="lost"),
        pytest.param("fwd", (True, True), False, id="kept"),
        pytest.param("fwd", (False,), False, id="never there"),
        pytest.param("both", (True, False), False, id="tuned as well"),
        pytest.param("bwd", (), False, id="backward alone"),
    ],
)
def test_a_backward_pass_that_loses_its_start_is_named(replayed, run, monkeypatch, directions, handing, said):
    answers = iter(handing)
    monkeypatch.setattr(session, "hands_over", lambda *_: next(answers))
    result = run("tune", *SHAPE, "--direction", directions)
    assert result.exit_code == 0, result.stderr
    command = "latune tune --gpu a100 --shape 1,2,256,32,32 --dtype bf16 --direction bwd --decay constant"
    assert (command in result.stderr) is said
    assert next(answers, None) is None, "asked before and, if need be, after"


def test_a_wrong_call_ends_with_an_error(replayed, run, monkeypatch):
    monkeypatch.setattr(closing, "lightning_attn", lambda q, k, v, *_, **__: 2 * (q @ k.mT).tril() @ v)
    result = run("tune", *SHAPE)
    assert result.exit_code == 1 and "lightning_attn is off by" in result.stderr


def test_a_users_space_is_searched(own_cache, run, tmp_path):
    shipped = (paths.search_spaces() / "stream.yaml").read_text(encoding="utf-8")
    narrow = tmp_path / "narrow.yaml"
    narrow.write_text(shipped.replace("values: [plain, transposed]", "values: [transposed]"), encoding="utf-8")
    narrow.write_text(narrow.read_text().replace("state_layout: plain", "state_layout: transposed"), encoding="utf-8")
    result = run("tune", *SHAPE, "--direction", "fwd", "--trials", "2", "--space", str(narrow))
    assert result.exit_code == 0, result.stderr
    (entry,) = _entries(own_cache / "cache" / "nvidia-a100.json")
    layouts = [dict(plan.steps[0].config.choices).get("state_layout") for plan in (entry.plan, *entry.alternates)]
    assert "transposed" in layouts and "plain" not in layouts


def test_a_space_file_with_a_mistake_is_named(own_cache, run, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("kernel: stream", encoding="utf-8")
    result = run("tune", *SHAPE, "--space", str(path))
    assert result.exit_code == 1 and str(path) in result.stderr
    twice = str(paths.search_spaces() / "stream.yaml")
    assert run("tune", *SHAPE, "--space", twice, "--space", twice).exit_code == 2
