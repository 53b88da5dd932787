"""A user's own file of a search space: what it may change, and every mistake it can hold."""

from __future__ import annotations

import copy
import functools
import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from latune import paths
from latune.codegen.space import load_space
from latune.errors import SpaceError
from latune.gpu import find_gpu
from latune.plan import KERNELS
from latune.problem import Problem

H200 = find_gpu("h200")
KERNEL = KERNELS["o"]
PROBLEM = Problem(
    direction="fwd", decay="constant", dtype="bf16", batch=4, num_heads=32, seqlen=8192, head_dim_k=128, head_dim_v=128
)


@functools.cache
def shipped(name: str) -> dict:
    return yaml.safe_load((paths.search_spaces() / f"{name}.yaml").read_text(encoding="utf-8"))


def written(folder: Path, name: str, change: Callable[[dict], object]) -> Path:
    """The shipped file with ``change`` made to it."""
    form = copy.deepcopy(shipped(name))
    change(form)
    path = folder / "mine.yaml"
    # All of JSON is YAML.
    path.write_text(json.dumps(form), encoding="utf-8")
    return path


def test_pruned_enumeration_is_the_product_filtered(tmp_path: Path) -> None:
    kernel, problem = KERNEL, replace(PROBLEM, seqlen=256)

    def pin(form: dict) -> None:
        form["parameters"]["num_stages"]["values"] = [2]
        form["parameters"]["num_warps"]["powers_of_two"] = [4, 8]
        form["parameters"]["PROGRAMS"]["values"] = [128, 132]
        form["parameters"]["BLOCK_N"]["powers_of_two"] = [32, 64]
        form["parameters"]["BLOCK_J"]["powers_of_two"] = [64, 128]
        form["parameters"]["own_rows"]["values"] = ["once"]
        form["parameters"]["loads"]["values"] = ["pointer"]
        form["parameters"]["decay_mode"]["values"] = ["matrix", "factored"]

    space = load_space("stream", written(tmp_path, "stream", pin))
    names = [parameter.name for parameter in space.parameters]
    product = itertools.product(*(parameter.values for parameter in space.parameters))
    made = dict.fromkeys(space.make(dict(zip(names, values, strict=True)), problem, H200, kernel) for values in product)
    feasible = [config for config in made if space.feasible(config, problem, H200, kernel) is None]
    assert 0 < len(feasible) < len(made)
    assert set(feasible) == set(space.configs(problem, H200, kernel))


def test_a_users_file_narrows_and_adds_launch_options(tmp_path: Path) -> None:
    def change(form: dict) -> None:
        form["parameters"]["algorithm"]["values"] = ["sequential"]
        form["parameters"]["maxnreg"] = {"kind": "launch", "values": [128, 255], "about": "registers of a thread"}
        form["default"]["maxnreg"] = 255

    space = load_space("stream", written(tmp_path, "stream", change))
    kernel, problem = KERNEL, PROBLEM
    configs = list(space.configs(problem, H200, kernel))
    assert {config.algorithm for config in configs} == {"sequential"}
    assert {config.options for config in configs} == {(("maxnreg", 128),), (("maxnreg", 255),)}
    assert space.default(problem, H200, kernel).options == (("maxnreg", 255),)


def test_a_users_file_leaves_out_what_none_of_its_values_lets_apply(tmp_path: Path) -> None:
    def change(form: dict) -> None:
        form["parameters"]["algorithm"]["values"] = ["sequential"]
        form["constraints"], form["starts"] = [], []
        for name in ("PROGRAMS", "rows_read", "own_rows"):
            del form["parameters"][name], form["default"][name]

    space = load_space("stream", written(tmp_path, "stream", change))
    shipped = load_space("stream").default(PROBLEM, H200, KERNEL)
    assert shipped.algorithm == "sequential" and space.default(PROBLEM, H200, KERNEL) == shipped
    assert space.feasible(shipped, PROBLEM, H200, KERNEL) is None


@pytest.mark.parametrize(
    ("name", "algorithms"),
    [("PROGRAMS", ["sequential", "scan"]), ("own_rows", ["parallel"]), ("decay_mode", ["sequential"])],
)
def test_a_users_file_leaves_out_nothing_that_may_apply(tmp_path: Path, name: str, algorithms: list[str]) -> None:
    """The mode of the decay does where the problem has one."""

    def change(form: dict) -> None:
        form["parameters"]["algorithm"]["values"] = algorithms
        del form["parameters"][name], form["default"][name]

    with pytest.raises(SpaceError, match=f"parameters.{name}: missing; add it"):
        load_space("stream", written(tmp_path, "stream", change))


def put(*keys: object, to: object) -> Callable[[dict], None]:
    def change(form: dict) -> None:
        for key in keys[:-1]:
            form = form[key]
        form[keys[-1]] = to

    return change


def drop(*keys: object) -> Callable[[dict], None]:
    def change(form: dict) -> None:
        for key in keys[:-1]:
            form = form[key]
        del form[keys[-1]]

    return change


def first_require(text: str) -> Callable[[dict], None]:
    return put("constraints", 0, to={"require": text, "why": "because"})


CHOICE = {"kind": "choice", "values": ["a"], "about": "new"}
MISTAKES = [
    (put("extra", to=1), "extra: unknown key; expected one of kernel, parameters, constraints, default"),
    (put("parameters", "BLOCK_N", "step", to=2), "parameters.BLOCK_N.step: unknown key; expected one of kind, about"),
    (put("constraints", 0, "unless", to="x"), "constraints.0.unless: unknown key; expected one of require, why, when"),
    (drop("constraints", 0, "why"), "constraints.0.why: missing; add it"),
    (put("constraints", 0, "why", to=" "), "constraints.0.why: string should have at least 1 character"),
    (drop("default"), "default: missing; add it"),
    (drop("parameters", "BLOCK_N", "about"), "parameters.BLOCK_N.about: missing; add it"),
    (put("parameters", to=[]), "parameters: input should be a valid dictionary, got []"),
    (put("parameters", "BLOCK_N", "kind", to="number"), "parameters.BLOCK_N.kind: input should be 'algorithm', 'choice'"),
    (put("parameters", "loads", "values", to=[]), "parameters.loads.values: list should have at least 1 item"),
    (
        put("parameters", "loads", "values", to=[True]),
        "parameters.loads.values.0: expected text or an integer, got True; quote",
    ),
    (put("parameters", "loads", "values", to=["tma", "tma"]), "parameters.loads: expected each value once"),
    (put("parameters", "loads", "values", to=["tma", 1]), "parameters.loads: expected text for kind choice, got 1"),
    (put("parameters", "num_stages", "values", to=["two"]), "parameters.num_stages: expected integers for kind launch"),
    (put("parameters", "num_stages", "values", to=[2, 1]), "parameters.num_stages: expected numbers in ascending order"),
    (put("parameters", "num_stages", "powers_of_two", to=[1, 4]), "parameters.num_stages: expected either values or powers"),
    (drop("parameters", "num_stages", "values"), "parameters.num_stages: expected either values or powers_of_two"),
    (put("parameters", "BLOCK_N", "powers_of_two", to=[16, 48]), "parameters.BLOCK_N: expected powers_of_two: [first, last]"),
    (put("parameters", "BLOCK_N", "powers_of_two", to=[64, 16]), "parameters.BLOCK_N: expected powers_of_two: [first, last]"),
    (put("parameters", "BLOCK_N", "powers_of_two", to=[0, 16]), "parameters.BLOCK_N: expected powers_of_two: [first, last]"),
    (put("parameters", "loads", "values", to=["pointer", "TMA"]), "parameters.loads.values: no template knows 'TMA'; expected"),
    (put("parameters", "order", to=CHOICE), "parameters.order: no template knows it; expected algorithm"),
    (put("parameters", "D", to=CHOICE), "parameters.D: no template knows it"),
    (drop("parameters", "state_layout"), "parameters.state_layout: missing; add it (a single value pins it)"),
    (put("parameters", "loads", "kind", to="algorithm"), "parameters.loads.kind: expected choice, got algorithm"),
    (put("parameters", "num_warps", "when", to="D > 16"), "parameters.num_warps: expected kind launch and no when"),
    (
        put("parameters", "dot_order", to={"kind": "launch", "values": [1], "about": "x"}),
        "parameters.dot_order: unknown launch option; expected one of num_warps, num_stages",
    ),
    (put("parameters", "loads", "when", to="BLOCK_N >"), "parameters.loads.when: expected a Jinja expression, got 'BLOCK_N >'"),
    (put("parameters", "loads", "when", to="BLOCK_N > 16"), "parameters.loads.when: unknown name 'BLOCK_N'"),
    (first_require("BLOCK_N }} {{ 1"), "constraints.0.require: expected a Jinja expression"),
    (first_require("BLOCKN > 16"), "constraints.0.require: unknown name 'BLOCKN' in 'BLOCKN > 16'; expected one of BLOCK_D"),
    (first_require("problem.seqlenn > 16"), "constraints.0.require: unknown name 'problem.seqlenn'"),
    (first_require("BLOCK_N | log2 > 4"), "constraints.0.require: expected a Jinja expression"),
    (first_require("range(3) == 3"), "constraints.0.require: unknown name 'range'"),
    (put("constraints", 1, "when", to="load == 'tma'"), "constraints.1.when: unknown name 'load'"),
    (put("kernel", to="dkdv"), "kernel: expected 'stream', got 'dkdv'"),
    (put("default", "BLOCK_M", to=16), "default.BLOCK_M: unknown key; expected one of algorithm"),
    (drop("default", "BLOCK_N"), "default.BLOCK_N: missing; add it"),
    (put("default", "BLOCK_N", to=48), "default.BLOCK_N: expected one of 16, 32, 64, 128, got 48"),
    (put("default", "loads", to="dma"), "default.loads: expected one of pointer, tma, specialized, producer, got 'dma'"),
    (put("default", "BLOCK_N", to="BLOCK"), "default.BLOCK_N: unknown name 'BLOCK' in 'BLOCK'"),
    (put("default", "BLOCK_N", to=1.5), "default.BLOCK_N: expected text or an integer, got 1.5"),
    (put("parameters", "num_stages", "values", to=[0, 1]), "parameters.num_stages.values: expected integers >= 1, got 0"),
    (
        put("parameters", "BLOCK_N", "powers_of_two", to=[16, 2**40]),
        "parameters.BLOCK_N: expected powers_of_two: [first, last]",
    ),
    (first_require("([1, 2] | random) == 1"), "constraints.0.require: expected a Jinja expression"),
    (first_require("(" * 3000 + "1" + ")" * 3000 + " == 1"), "constraints.0.require: expected a Jinja expression"),
]


@pytest.mark.parametrize(("change", "message"), MISTAKES, ids=[message.split(":")[0] for _, message in MISTAKES])
def test_a_mistake_is_named_by_file_key_and_remedy(tmp_path: Path, change: Callable[[dict], None], message: str) -> None:
    path = written(tmp_path, "stream", change)
    with pytest.raises(SpaceError) as caught:
        load_space("stream", path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


LATE_MISTAKES = [
    (put("default", "BLOCK_N", to="D / 4"), "default.BLOCK_N: expected 'D / 4' to be an integer, got 32.0"),
    (put("default", "BLOCK_N", to="D // (D - D)"), "default.BLOCK_N: cannot evaluate 'D // (D - D)'"),
    (put("default", "BLOCK_N", to="min(D, 48)"), "default: not feasible for kernel 'o'", "must be one of 16, 32, 64, 128"),
    (put("default", "BLOCK_N", to=128), "default: not feasible for kernel 'o'", "chunks of 128 rows"),
    (first_require("BLOCK_N"), "constraints.0.require: expected 'BLOCK_N' to be true or false, got 32"),
    (first_require("gpu.architecture.cores > 1"), "constraints.0.require: cannot evaluate", "'cores'"),
    (first_require("problem.__class__ == 1"), "constraints.0.require: cannot evaluate", "__class__"),
    (first_require("state_layout > 1"), "constraints.0.require: cannot evaluate"),
    (first_require("BLOCK_E <= next_power_of_two(E / 1)"), "constraints.0.require: cannot evaluate", "bit_length"),
    (first_require("{'a': 1}.pop('b') == 1"), "constraints.0.require: cannot evaluate"),
    (first_require("kernel.dims(1) == 1"), "constraints.0.require: cannot evaluate"),
    (first_require("D < 16"), "no config serves kernel 'o'", "because; choose a plan without 'o'"),
]


@pytest.mark.parametrize(("change", "start", "inside"), [(*mistake, "")[:3] for mistake in LATE_MISTAKES])
def test_a_mistake_that_shows_on_use(tmp_path: Path, change: Callable[[dict], None], start: str, inside: str) -> None:
    space = load_space("stream", written(tmp_path, "stream", change))
    with pytest.raises(SpaceError) as caught:
        space.default(PROBLEM, H200, KERNEL)
    assert str(caught.value).startswith(f"{space.path}: {start}")
    assert inside in str(caught.value)


BROKEN_FILES = {
    "kernel: [stream": "expected YAML in UTF-8",
    "kernel: stream\nkernel: dkdv\n": "key 'kernel' given twice",
    "- stream\n": "expected a mapping with the keys kernel, parameters, constraints, default, starts, got list",
    "": "got NoneType",
    "kernel: 2024-13-45": "month must be in 1..12",
    "[" * 5000: "maximum nesting depth" if yaml.__with_libyaml__ else "recursion",
}


@pytest.mark.parametrize("text", BROKEN_FILES)
def test_a_file_that_is_no_space(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SpaceError) as caught:
        load_space("stream", path)
    assert str(caught.value).startswith(f"{path}: ") and BROKEN_FILES[text] in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"none\.yaml: cannot read the search space: No such file"):
        load_space("stream", tmp_path / "none.yaml")
