"""Decisions: one look-up a bucket, fall-backs in the ladder's order, one warning that names the command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import warnings
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import triton
from entries import valid_entry
from triton.runtime.errors import OutOfResources

from latune import paths
from latune.cache.store import write_entries
from latune.cli.shapes import problems_of
from latune.cli.tune import tune
from latune.codegen import load, render
from latune.codegen.space import load_space
from latune.config import Config
from latune.errors import RenderError
from latune.gpu import find_gpu
from latune.ops import dispatch
from latune.plan import KERNELS, Plan, Step
from latune.problem import Problem

PROBLEM = Problem(
    direction="fwd", decay="constant", dtype="bf16", batch=2, num_heads=4, seqlen=1000, head_dim_k=64, head_dim_v=64
)
H200 = find_gpu("h200")


def _plan(num_warps):
    return Plan((Step(kernel="o", config=Config.of("sequential", num_warps=num_warps)),))


@pytest.fixture
def loaded(monkeypatch):
    """Stands for codegen: modules whose forward does what the test says, by the plan's num_warps."""
    behaviours, loads = {}, []

    def load_plan(problem, plan):
        loads.append(plan)
        return SimpleNamespace(forward=behaviours[plan.steps[0].config.num_warps])

    monkeypatch.setattr(dispatch, "load_plan", load_plan)
    monkeypatch.setattr(dispatch, "device_gpu", lambda index: H200)
    monkeypatch.setattr(dispatch, "_decisions", {})
    return SimpleNamespace(behaviours=behaviours, loads=loads)


def _resolution(*warps, step="exact", tuned_with=None):
    candidates = [(_plan(count), f"plan of {count} warps") for count in warps]
    entry = None if tuned_with is None else SimpleNamespace(toolchain={"triton": tuned_with})
    return SimpleNamespace(step=step, why="because", candidates=iter(candidates), entry=entry)


def _raise(error):
    def forward(*arguments):
        raise error

    return forward


def test_a_bucket_is_decided_once_whatever_the_length(loaded, monkeypatch):
    resolved = []
    monkeypatch.setattr(dispatch, "resolve", lambda problem, gpu: resolved.append(problem) or _resolution(4))
    loaded.behaviours[4] = lambda *arguments: arguments
    first = dispatch.decide(PROBLEM, 0)
    lengths = [Problem(**{**_fields(PROBLEM), "seqlen": seqlen}) for seqlen in (900, 1024, 1100)]
    assert [dispatch.decide(problem, 0) is first for problem in lengths] == [True] * 3
    assert dispatch.decide(PROBLEM, 1) is not first
    assert len(resolved) == 2


def _fields(problem):
    return {name: getattr(problem, name) for name in problem.__dataclass_fields__}


def test_threads_that_meet_a_bucket_at_once_share_one_decision(loaded, monkeypatch):
    monkeypatch.setattr(dispatch, "resolve", lambda problem, gpu: _resolution(4))
    loaded.behaviours[4] = lambda *arguments: arguments
    barrier, decisions = threading.Barrier(8), []

    def meet():
        barrier.wait()
        decisions.append(dispatch.decide(PROBLEM, 0))

    threads = [threading.Thread(target=meet) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len({id(decision) for decision in decisions}) == 1 and len(loaded.loads) == 1


def test_a_plan_that_does_not_launch_gives_way_to_the_next(loaded):
    loaded.behaviours.update({8: _raise(OutOfResources(300_000, 232_448, "shared memory")), 4: lambda x: (x,)})
    decision = dispatch.Decision(PROBLEM, _resolution(8, 4).candidates)
    with pytest.warns(UserWarning, match="falls back to plan of 4 warps"):
        assert decision("q") == ("q",)
    assert decision("again") == ("again",)
    assert [plan.steps[0].config.num_warps for plan in loaded.loads] == [8, 4]


def test_what_did_not_launch_holds_no_memory_while_the_next_plan_runs(loaded):
    """Though its frames are part of a cycle: whoever captures calls looks for memory that is still in use."""
    allocated = []

    def fail(x):
        output = torch.empty(4)
        allocated.append(weakref.ref(output))
        error = OutOfResources(300_000, 232_448, "shared memory")
        raise error

    loaded.behaviours.update({8: fail, 4: lambda x: (allocated[0](),)})
    with pytest.warns(UserWarning, match="falls back to plan of 4 warps"):
        assert dispatch.Decision(PROBLEM, _resolution(8, 4).candidates)("q") == (None,)


def test_threads_that_fail_together_step_down_once(loaded):
    barrier = threading.Barrier(4)

    def fail(x):
        barrier.wait()
        raise OutOfResources(300_000, 232_448, "shared memory")

    loaded.behaviours.update({8: fail, 4: lambda x: (x,)})
    decision, answers = dispatch.Decision(PROBLEM, _resolution(8, 4).candidates), []
    threads = [threading.Thread(target=lambda: answers.append(decision("q"))) for _ in range(4)]
    with pytest.warns(UserWarning, match="falls back to plan of 4 warps") as caught:
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    assert answers == [("q",)] * 4 and len(caught) == 1


def test_where_warnings_are_errors_one_is_raised_and_no_plan_lost(loaded):
    loaded.behaviours.update({8: _raise(OutOfResources(300_000, 232_448, "shared memory")), 4: lambda x: (x,)})
    decision = dispatch.Decision(PROBLEM, _resolution(8, 4, 2).candidates)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="falls back to plan of 4 warps"):
            decision("q")
        assert decision("q") == ("q",)


def test_a_plan_that_cannot_be_rendered_gives_way_too(loaded, monkeypatch):
    load_plan = dispatch.load_plan

    def load(problem, plan):
        if plan == _plan(8):
            raise RenderError("no BLOCK_N")
        return load_plan(problem, plan)

    monkeypatch.setattr(dispatch, "load_plan", load)
    loaded.behaviours[4] = lambda x: (x,)
    decision = dispatch.Decision(PROBLEM, _resolution(8, 4).candidates, ["no entry is exact"])
    assert decision("q") == ("q",)
    with pytest.warns(UserWarning, match="plan of 4 warps: no BLOCK_N") as said:
        decision.say()
    assert [str(one.message).split(":")[0] for one in said] == ["no entry is exact", "latune"]


def test_the_last_candidates_error_is_the_callers(loaded):
    loaded.behaviours[8] = _raise(OutOfResources(300_000, 232_448, "shared memory"))
    with pytest.raises(OutOfResources):
        dispatch.Decision(PROBLEM, _resolution(8).candidates)("q")


def test_an_error_that_is_no_plans_fault_is_not_swallowed(loaded):
    loaded.behaviours.update({8: _raise(RuntimeError("CUDA error: an illegal memory access")), 4: lambda x: (x,)})
    with pytest.raises(RuntimeError, match="illegal memory access"):
        dispatch.Decision(PROBLEM, _resolution(8, 4).candidates)("q")


def test_a_miss_warns_once_with_the_command_that_tunes_it(loaded, monkeypatch):
    monkeypatch.setattr(dispatch, "resolve", lambda problem, gpu: _resolution(4, step="default"))
    loaded.behaviours[4] = lambda *arguments: arguments
    with pytest.warns(UserWarning) as caught:
        dispatch.decide(PROBLEM, 0)
    command = "latune tune --gpu h200 --shape 2,4,1000,64,64 --dtype bf16 --direction fwd --decay constant"
    assert len(caught) == 1 and command in str(caught[0].message) and caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dispatch.decide(PROBLEM, 0)


def test_a_plan_of_another_triton_is_used_with_one_warning(loaded, monkeypatch):
    monkeypatch.setattr(dispatch, "_warned_of_tritons", set())
    loaded.behaviours[4] = lambda *arguments: arguments
    for tuned_with in (triton.__version__, "1.0"):
        monkeypatch.setattr(dispatch, "resolve", lambda problem, gpu, of=tuned_with: _resolution(4, tuned_with=of))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for head_dim in (32, 48):
                dispatch.decide(replace(PROBLEM, head_dim_k=head_dim, dtype="bf16" if tuned_with == "1.0" else "fp16"), 0)
        said = [str(warning.message) for warning in caught]
        assert len(said) == (tuned_with == "1.0"), said
    assert f"tuned with Triton 1.0 serve under Triton {triton.__version__}" in said[0] and "latune tune" in said[0]


@pytest.mark.parametrize("flags", [{}, {"has_initial_state": True}, {"needs_final_state": True, "has_initial_state": True}])
def test_the_command_of_a_miss_tunes_that_very_bucket(flags):
    problem = replace(PROBLEM, direction="bwd", decay="none", dtype="fp16", head_dim_v=128, **flags)
    words = dispatch.tune_command(problem, H200).split()
    assert words[:2] == ["latune", "tune"]
    given = tune.make_context("tune", words[2:]).params
    shared = {"direction": given["direction"], "dtype": given["dtype"], "decay": given["decay"]}
    assert problems_of(given["shapes"], **shared, **{name: given[name] for name in ("initial_state", "final_state")}) == [
        problem
    ]


def test_resolve_answers_for_what_the_operator_runs():
    narrow = dispatch.resolve(replace(PROBLEM, head_dim_k=100), "h200")
    assert "d112" in narrow.why
    with pytest.raises(ValueError, match="packed sequences"):
        dispatch.resolve(replace(PROBLEM, varlen=True), "h200")


def test_resolve_takes_a_name_and_explains_itself():
    resolution = dispatch.resolve(PROBLEM, "h200")
    assert resolution.gpu == H200 and resolution.plan.outputs == ("o",) and resolution.why


def _entry(code=None, **changes):
    """A measured entry, of the code that its plan gives unless told otherwise."""
    problem = replace(PROBLEM, **changes)
    plan = Plan((Step(kernel="o", config=load_space("stream").default(problem, H200, KERNELS["o"])),))
    return valid_entry(problem, plan, **({"template_sha256": code} if code else {}))


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LATUNE_CACHE_DIR", str(tmp_path))
    return tmp_path


_MEET = """
import json, os, pathlib, sys, warnings
from latune import paths
from latune.gpu import find_gpu
from latune.ops import dispatch
from latune.problem import Problem

warnings.simplefilter("ignore")
paths.shipped_cache = lambda: pathlib.Path("/dev/null/nothing-shipped")
dispatch.device_gpu = lambda index: find_gpu("h200")
problem = Problem(**json.loads(sys.argv[1]))
steps = []
for os.environ["LATUNE_CACHE_DIR"] in sys.argv[2:]:
    dispatch.forget_decisions()
    dispatch.decide(problem, 0)
    steps.append(dispatch.resolve(problem, "h200").step)
print(json.dumps([steps, sorted({"jinja2", "yaml"} & set(sys.modules))]))
"""


def _meet_in_a_fresh_process(roots):
    """The steps of the ladder that serve the problem from caches of their own, and which parsers that took."""
    command = [sys.executable, "-c", _MEET, json.dumps(_fields(PROBLEM)), *map(str, roots)]
    root = Path(dispatch.__file__).parents[2]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root, env=dict(os.environ))
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


def test_a_problem_met_before_needs_no_template_engine(tmp_path, monkeypatch):
    entries = {
        "exact": [{}],
        "nearest": [{"seqlen": 4096, "needs_final_state": True}],
        "nearest, behind a stale one": [{"code": "0" * 64}, {"seqlen": 4096}],
    }
    for name, changes in entries.items():
        monkeypatch.setenv("LATUNE_CACHE_DIR", str(tmp_path / name))
        write_entries(H200, [_entry(**change) for change in changes])
    roots = [tmp_path / name for name in entries]
    steps = ["exact", "nearest", "nearest"]
    assert _meet_in_a_fresh_process(roots) == [steps, ["jinja2"]]
    assert all(any((root / "generated").iterdir()) for root in roots)
    assert _meet_in_a_fresh_process(roots) == [steps, []]


@pytest.fixture
def rendered(monkeypatch):
    """The buckets that modules are rendered for."""
    buckets, original = [], render.render
    monkeypatch.setattr(render, "render", lambda problem, plan: buckets.append(problem.bucket()) or original(problem, plan))
    return buckets


def test_of_many_entries_those_that_could_serve_are_rendered_and_a_stale_one_is_passed_over(own_cache, rendered, monkeypatch):
    write_entries(H200, [_entry(seqlen=2**power, code="0" * 64 if power == 11 else None) for power in range(4, 20)])
    rendered.clear()
    found = dispatch.resolve(PROBLEM, H200)
    assert found.step == "exact" and len(rendered) == 1
    found = dispatch.resolve(replace(PROBLEM, seqlen=2048, batch=64), H200)
    assert found.step == "nearest" and found.entry.seqlen == 1024
    assert [bucket.seqlen for bucket in rendered] == [1024, 2048]


def test_a_stale_entry_of_the_users_gives_way_to_the_shipped_one(own_cache, monkeypatch):
    shipped = own_cache / "shipped"
    monkeypatch.setattr(paths, "shipped_cache", lambda: shipped)
    write_entries(H200, [_entry(code="0" * 64)])
    write_entries(H200, [_entry()], shipped)
    assert dispatch.resolve(PROBLEM, H200).entry == _entry()


def test_an_entry_stands_until_the_templates_change_its_code(own_cache, tmp_path, monkeypatch):
    write_entries(H200, [_entry()])
    original = paths.templates()

    def step_with(name, addition):
        copy = tmp_path / f"templates-{name}-{len(addition)}"
        shutil.copytree(original, copy)
        with (copy / name).open("a", encoding="utf-8") as file:
            file.write(addition)
        monkeypatch.setattr(paths, "templates", lambda: copy)
        monkeypatch.setattr(load, "generator_sha256", lambda: copy.name)
        return dispatch.resolve(PROBLEM, H200).step

    assert step_with("spiral.py.jinja", "another algorithm") == "exact"
    assert step_with("module.py.jinja", '{% if module.function == "sideways" %}# a choice not taken{% endif %}') == "exact"
    assert step_with("module.py.jinja", "# for all") == "default"
