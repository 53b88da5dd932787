"""Search spaces: what the shipped ones allow, and their defaults."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from spaces import A100, H200, L4, SPACES, changed, problem_for

from latune.codegen.build import build
from latune.codegen.space import Space, load_space
from latune.config import Config
from latune.errors import SpaceError
from latune.gpu import CATALOGUE, Gpu
from latune.plan import KERNELS, Kernel, Plan, Step
from latune.problem import DECAYS, DTYPE_BYTES, Problem

HEAD_DIMS = range(16, 257, 16)


@pytest.mark.parametrize("name", SPACES)
def test_every_parameter_says_what_it_is(name: str) -> None:
    parameters = {parameter.name: parameter for parameter in SPACES[name].parameters}
    assert next(iter(parameters)) == "algorithm"
    assert all(parameter.about and parameter.values for parameter in parameters.values())
    ordinal = {parameter for parameter in parameters.values() if parameter.ordinal}
    assert parameters["BLOCK_N"] in ordinal and parameters["num_stages"] in ordinal
    assert parameters["state_layout"] not in ordinal and parameters["algorithm"] not in ordinal
    assert parameters["BLOCK_N"].values == ((32, 64, 128) if name == "dqdkdv" else (16, 32, 64, 128))
    whole = "algorithm not in ('sequential', 'parallel')" if name == "stream" else "algorithm != 'sequential'"
    assert str(parameters["PROGRAMS"].when) == whole


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
    ("dq", A100, {"batch": 1, "num_heads": 16, "seqlen": 32768}, 500, 5000),
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


def test_an_unknown_space() -> None:
    with pytest.raises(SpaceError, match="unknown search space 'steam': expected one of dkdv, dqdkdv, stream"):
        load_space("steam")


def test_a_kernel_of_another_space_is_our_own_mistake() -> None:
    space: Space = SPACES["stream"]
    with pytest.raises(AssertionError, match="kernel dkdv is drawn from space dkdv"):
        space.default(problem_for(KERNELS["dkdv"]), H200, KERNELS["dkdv"])
