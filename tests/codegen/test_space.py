"""Search spaces: what the shipped ones allow, their defaults, and every mistake a user's own file can hold."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from latune import paths
from latune.codegen.build import build
from latune.codegen.space import Space, load_space
from latune.config import Config
from latune.errors import SpaceError
from latune.gpu import CATALOGUE, Gpu, find_gpu
from latune.plan import KERNELS, Kernel, Plan, Step
from latune.problem import DECAYS, DTYPE_BYTES, Problem

H200, A100, L4 = find_gpu("h200"), find_gpu("a100"), find_gpu("l4")
HEAD_DIMS = range(16, 257, 16)

SPACES = {name: load_space(name) for name in ("stream", "dkdv")}


def problem_for(kernel: Kernel, **fields: object) -> Problem:
    shape = {"decay": "constant", "dtype": "bf16", "batch": 4, "num_heads": 32, "seqlen": 8192}
    head_dims = {"head_dim_k": 128, "head_dim_v": 128}
    return Problem(direction=kernel.direction, **{**shape, **head_dims, **fields})  # type: ignore[arg-type]


def changed(config: Config, **values: object) -> dict[str, object]:
    return {**config.values(), **values}


# The shipped spaces


@pytest.mark.parametrize("name", SPACES)
def test_every_parameter_says_what_it_is(name: str) -> None:
    parameters = {parameter.name: parameter for parameter in SPACES[name].parameters}
    assert next(iter(parameters)) == "algorithm"
    assert all(parameter.about and parameter.values for parameter in parameters.values())
    ordinal = {parameter for parameter in parameters.values() if parameter.ordinal}
    assert parameters["BLOCK_N"] in ordinal and parameters["num_stages"] in ordinal
    assert parameters["state_layout"] not in ordinal and parameters["algorithm"] not in ordinal
    assert parameters["BLOCK_N"].values == (16, 32, 64, 128)
    assert str(parameters["PROGRAMS"].when) == "algorithm != 'sequential'"


def stream_cases() -> Iterator[tuple[Problem, Gpu, Kernel]]:
    """Every pair of head dims (of these) a few times, each time with another draw of everything else."""
    draw = random.Random(0).choice
    for d, e in itertools.product(HEAD_DIMS, repeat=2):
        for _ in range(6):
            kernel = KERNELS[draw(("o", "dq", "dk", "dv"))]
            shape = {
                "num_heads": draw((1, 12, 128, 4096)),
                "seqlen": draw((1, 17, 1024, 131072)),
                "head_dim_k": d,
                "head_dim_v": e,
            }
            problem = problem_for(kernel, dtype=draw(list(DTYPE_BYTES)), decay=draw(DECAYS), batch=1, **shape)
            yield problem, draw(CATALOGUE), kernel


def test_stream_default_is_feasible_everywhere() -> None:
    cases = list(stream_cases())
    assert len({(kernel.name, problem.dtype, gpu.name) for problem, gpu, kernel in cases}) == 4 * len(DTYPE_BYTES) * len(
        CATALOGUE
    )
    for problem, gpu, kernel in cases:
        config = SPACES["stream"].default(problem, gpu, kernel)
        assert SPACES["stream"].feasible(config, problem, gpu, kernel) is None, f"{kernel.name} {problem} on {gpu.name}"


@pytest.mark.parametrize(("dtype", "head_dim", "gpu"), [("bf16", 128, H200), ("fp32", 256, A100)])
def test_stream_default_compiles_into_48_kib(
    dtype: str, head_dim: int, gpu: Gpu, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LATUNE_CACHE_DIR", str(tmp_path))
    kernel = KERNELS["o"]
    problem = problem_for(kernel, dtype=dtype, head_dim_k=head_dim, head_dim_v=head_dim)
    plan = Plan((Step(kernel="o", config=SPACES["stream"].default(problem, gpu, kernel)),))
    assert 0 < build(problem, plan, gpu).shared_bytes <= 48 * 1024


def test_dkdv_default_is_feasible_wherever_the_space_serves() -> None:
    kernel, space = KERNELS["dkdv"], SPACES["dkdv"]
    served = 0
    for d, e, dtype, gpu in itertools.product(HEAD_DIMS[::3], HEAD_DIMS[::3], DTYPE_BYTES, (H200, A100, L4)):
        problem = problem_for(kernel, head_dim_k=d, head_dim_v=e, dtype=dtype)
        if space.serves(problem, gpu, kernel):
            served += 1
            assert space.feasible(space.default(problem, gpu, kernel), problem, gpu, kernel) is None
        else:
            assert max(d, e) > 64, f"{problem} on {gpu.name} is expected to be served"
    assert served > 200


@pytest.mark.parametrize("gpu", [H200, A100, L4], ids=lambda gpu: gpu.name)
def test_no_fused_kernel_holds_a_state_of_256_by_256(gpu: Gpu) -> None:
    kernel, space = KERNELS["dkdv"], SPACES["dkdv"]
    problem = problem_for(kernel, head_dim_k=256, head_dim_v=256)
    assert not space.serves(problem, gpu, kernel)
    assert list(space.configs(problem, gpu, kernel)) == []
    with pytest.raises(SpaceError, match=r"dkdv\.yaml: no config serves .* registers; .*; choose a plan without 'dkdv'"):
        space.default(problem, gpu, kernel)


CASES = [
    ("o", H200, {}, 500, 5000),
    ("o", H200, {"decay": "none", "seqlen": 1024}, 300, 2000),
    ("o", L4, {"dtype": "fp32", "head_dim_k": 64, "head_dim_v": 80}, 200, 5000),
    ("dq", A100, {"batch": 1, "num_heads": 16, "seqlen": 32768}, 500, 7000),
    ("o", L4, {"batch": 1, "num_heads": 1, "seqlen": 1, "head_dim_k": 16, "head_dim_v": 16}, 50, 1000),
    ("dkdv", H200, {}, 200, 2000),
    ("dkdv", A100, {"dtype": "fp16", "head_dim_k": 64, "head_dim_v": 128}, 100, 2000),
]


@pytest.mark.parametrize(("kernel_name", "gpu", "fields", "fewest", "most"), CASES)
def test_enumeration(kernel_name: str, gpu: Gpu, fields: dict[str, object], fewest: int, most: int) -> None:
    kernel = KERNELS[kernel_name]
    space, problem = SPACES[kernel.space], problem_for(kernel, **fields)
    configs = list(space.configs(problem, gpu, kernel))
    assert fewest <= len(configs) <= most
    assert len(set(configs)) == len(configs)
    assert configs == list(load_space(kernel.space).configs(problem, gpu, kernel))
    assert space.default(problem, gpu, kernel) in configs
    for config in configs:
        assert space.make(config.values(), problem, gpu, kernel) == config
    for config in configs[::7]:
        assert space.feasible(config, problem, gpu, kernel) is None


def test_pruned_enumeration_is_the_product_filtered(tmp_path: Path) -> None:
    kernel, problem = KERNELS["o"], problem_for(KERNELS["o"], seqlen=256)

    def pin(form: dict) -> None:
        form["parameters"]["num_stages"]["values"] = [2]
        form["parameters"]["loads"]["values"] = ["pointer"]
        form["parameters"]["decay_mode"]["values"] = ["matrix", "factored"]

    space = load_space("stream", written(tmp_path, "stream", pin))
    names = [parameter.name for parameter in space.parameters]
    product = itertools.product(*(parameter.values for parameter in space.parameters))
    made = dict.fromkeys(space.make(dict(zip(names, values, strict=True)), problem, H200, kernel) for values in product)
    feasible = [config for config in made if space.feasible(config, problem, H200, kernel) is None]
    assert 0 < len(feasible) < len(made)
    assert set(feasible) == set(space.configs(problem, H200, kernel))


def test_absent_parameters_are_absent() -> None:
    kernel, space = KERNELS["o"], SPACES["stream"]
    by_decay = {decay: list(space.configs(problem_for(kernel, decay=decay), H200, kernel)) for decay in DECAYS}
    assert not any({"decay_mode", "decayed"} & config.values().keys() for config in by_decay["none"])
    for config in by_decay["constant"]:
        values = config.values()
        assert ("PROGRAMS" in values) == (config.algorithm != "sequential")
        assert ("decayed" in values) == (values["decay_mode"] != "factored")


def test_make_drops_what_does_not_apply_and_asks_for_what_does() -> None:
    kernel, problem, space = KERNELS["o"], problem_for(KERNELS["o"]), SPACES["stream"]
    default = space.default(problem, H200, kernel)
    assert space.make(changed(default, PROGRAMS=256), problem, H200, kernel) == default
    split = space.make(changed(default, algorithm="split", PROGRAMS=256), problem, H200, kernel)
    assert dict(split.constexprs)["PROGRAMS"] == 256
    with pytest.raises(ValueError, match="expected a value for PROGRAMS"):
        space.make(changed(default, algorithm="split"), problem, H200, kernel)


def test_feasible_starts_take_what_they_leave_out_from_the_default() -> None:
    kernel, problem = KERNELS["o"], problem_for(KERNELS["o"])
    starts = ({"BLOCK_N": 64}, {"BLOCK_N": 128}, {"algorithm": "split", "BLOCK_N": 32}, {"BLOCK_N": 16})
    space = replace(SPACES["stream"], starts=starts)
    default = space.default(problem, H200, kernel)
    assert space.feasible_starts(problem, H200, kernel) == [space.make(changed(default, BLOCK_N=64), problem, H200, kernel)]
    few = problem_for(kernel, batch=1)
    split = changed(default, algorithm="split", BLOCK_N=32, PROGRAMS=128)
    assert space.make(split, few, H200, kernel) in space.feasible_starts(few, H200, kernel)
    assert SPACES["stream"].feasible_starts(problem, H200, kernel)


_WIDE = {"state_layout": "transposed", "BLOCK_N": 64, "num_warps": 8, "num_stages": 3}
FASTEST = [
    ("o", {**_WIDE, "branched": "scores", "BLOCK_E": 128}, {}),
    ("o", {"BLOCK_E": 64, "BLOCK_N": 64, "num_warps": 4, "num_stages": 4}, {}),
    ("o", {**_WIDE, "branched": "all", "BLOCK_D": 128, "BLOCK_E": 128}, {"head_dim_k": 256, "head_dim_v": 256}),
    ("o", {**_WIDE, "branched": "scores", "BLOCK_D": 64, "BLOCK_E": 128}, {"head_dim_k": 192, "head_dim_v": 192}),
    ("dkdv", {**_WIDE, "branched": "scores"}, {}),
]


@pytest.mark.parametrize(("kernel_name", "values", "fields"), FASTEST)
def test_the_fastest_known_configs_are_in_the_space(kernel_name: str, values: dict, fields: dict) -> None:
    kernel = KERNELS[kernel_name]
    space, problem = SPACES[kernel.space], problem_for(kernel, **fields)
    values = changed(space.default(problem, H200, kernel), loads="tma", **values)
    assert space.feasible(space.make(values, problem, H200, kernel), problem, H200, kernel) is None


INFEASIBLE = [
    ({"loads": "tma"}, {}, A100, "compute capability 9.0"),
    ({"loads": "tma"}, {"head_dim_k": 100}, H200, "multiple of 16 bytes"),
    ({"BLOCK_E": 256, "num_warps": 8}, {}, H200, "wider than the output"),
    ({"BLOCK_E": 16}, {}, H200, "slices of 16 columns"),
    ({"BLOCK_E": 128, "num_warps": 2}, {}, H200, "spill"),
    ({"BLOCK_E": 256}, {"head_dim_k": 256, "head_dim_v": 256}, H200, "beyond 128 KiB"),
    ({"BLOCK_N": 64, "num_stages": 4}, {}, L4, "shared memory"),
    ({"BLOCK_N": 128, "num_warps": 8}, {}, H200, "1.5 times slower"),
    ({"BLOCK_N": 32}, {"seqlen": 3}, H200, "longer than the sequence"),
    ({"decay_mode": "factored"}, {"dtype": "fp16"}, H200, "range of fp16"),
    ({"BLOCK_N": 64, "BLOCK_E": 32, "num_stages": 1}, {}, H200, "illegal memory access"),
    ({"algorithm": "split", "PROGRAMS": 1024}, {"num_heads": 1, "seqlen": 2048}, H200, "fewer than two chunks"),
    ({"algorithm": "split", "PROGRAMS": 64}, {}, H200, "fewer than two segments"),
    ({"algorithm": "split", "PROGRAMS": 512}, {"num_heads": 1, "seqlen": 131072}, L4, "eight programs an SM"),
    ({"algorithm": "split"}, {"batch": 64}, H200, "four programs"),
    ({"algorithm": "remainder", "PROGRAMS": 128, "BLOCK_E": 128, "num_warps": 8}, {}, H200, "split with another name"),
    ({"algorithm": "remainder", "PROGRAMS": 128, "BLOCK_E": 128, "num_warps": 8}, {"batch": 8}, H200, "no head left over"),
    ({"algorithm": "remainder", "PROGRAMS": 128, "BLOCK_E": 128, "num_warps": 8}, {"batch": 7}, H200, "no head left over"),
    ({"algorithm": "remainder", "PROGRAMS": 96, "BLOCK_E": 128, "num_warps": 8}, {"batch": 5}, H200, "on every SM"),
    (
        {"algorithm": "remainder", "PROGRAMS": 128, "BLOCK_E": 128, "num_warps": 8},
        {"num_heads": 33, "seqlen": 512},
        H200,
        "little to walk",
    ),
    ({"algorithm": "scan", "PROGRAMS": 512}, {}, H200, "fewer than ten segments"),
    ({"BLOCK_N": 48}, {}, H200, "BLOCK_N must be one of 16, 32, 64, 128, got 48"),
]


@pytest.mark.parametrize(("values", "fields", "gpu", "why"), INFEASIBLE)
def test_infeasible_configs_say_why(values: dict, fields: dict, gpu: Gpu, why: str) -> None:
    kernel, space = KERNELS["o"], SPACES["stream"]
    problem = problem_for(kernel, **fields)
    config = space.make(
        {"PROGRAMS": 256, **changed(space.default(problem, gpu, kernel), **values)},  # type: ignore[arg-type]
        problem,
        gpu,
        kernel,
    )
    assert why in str(space.feasible(config, problem, gpu, kernel))


def test_configs_of_another_space_are_no_points_of_this_one() -> None:
    kernel, space, problem = KERNELS["o"], SPACES["stream"], problem_for(KERNELS["o"])
    values = space.default(problem, H200, kernel)
    options = Config.of(
        "sequential", choices=dict(values.choices), constexprs=dict(values.constexprs), options={"maxnreg": 128}
    )
    assert "maxnreg is no parameter" in str(space.feasible(options, problem, H200, kernel))
    assert "must be one of" in str(space.feasible(Config.of("sequential"), problem, H200, kernel))
    segmented = Config.of("sequential", choices=dict(values.choices), constexprs={**dict(values.constexprs), "PROGRAMS": 256})
    assert "PROGRAMS applies only when" in str(space.feasible(segmented, problem, H200, kernel))


# A user's own file


def written(folder: Path, name: str, change: Callable[[dict], object]) -> Path:
    """The shipped file with ``change`` made to it."""
    form = yaml.safe_load((paths.search_spaces() / f"{name}.yaml").read_text(encoding="utf-8"))
    change(form)
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(form, sort_keys=False), encoding="utf-8")
    return path


def test_a_users_file_narrows_and_adds_launch_options(tmp_path: Path) -> None:
    def change(form: dict) -> None:
        form["parameters"]["algorithm"]["values"] = ["sequential"]
        form["parameters"]["maxnreg"] = {"kind": "launch", "values": [128, 255], "about": "registers of a thread"}
        form["default"]["maxnreg"] = 255

    space = load_space("stream", written(tmp_path, "stream", change))
    kernel, problem = KERNELS["o"], problem_for(KERNELS["o"])
    configs = list(space.configs(problem, H200, kernel))
    assert {config.algorithm for config in configs} == {"sequential"}
    assert {config.options for config in configs} == {(("maxnreg", 128),), (("maxnreg", 255),)}
    assert space.default(problem, H200, kernel).options == (("maxnreg", 255),)


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
    (put("default", "loads", to="dma"), "default.loads: expected one of pointer, tma, got 'dma'"),
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
        space.default(problem_for(KERNELS["o"]), H200, KERNELS["o"])
    assert str(caught.value).startswith(f"{space.path}: {start}")
    assert inside in str(caught.value)


BROKEN_FILES = {
    "kernel: [stream": "expected YAML in UTF-8",
    "kernel: stream\nkernel: dkdv\n": "key 'kernel' given twice",
    "- stream\n": "expected a mapping with the keys kernel, parameters, constraints, default, starts, got list",
    "": "got NoneType",
    "kernel: 2024-13-45": "month must be in 1..12",
    "[" * 5000: "recursion",
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


def test_an_unknown_space() -> None:
    with pytest.raises(SpaceError, match="unknown search space 'steam': expected one of dkdv, stream"):
        load_space("steam")


def test_a_kernel_of_another_space_is_our_own_mistake() -> None:
    space: Space = SPACES["stream"]
    with pytest.raises(AssertionError, match="kernel dkdv is drawn from space dkdv"):
        space.default(problem_for(KERNELS["dkdv"]), H200, KERNELS["dkdv"])
