"""Kernels, the roles of tensors in them, and plans."""

from __future__ import annotations

import pytest

from latune.config import Config
from latune.plan import FORMS, KERNELS, Plan, Step
from latune.problem import Problem

STREAMS = ("o", "dq", "dk", "dv")


def problem(direction: str, head_dim_v: int = 64) -> Problem:
    shape = {"batch": 2, "num_heads": 3, "seqlen": 100, "head_dim_k": 128, "head_dim_v": head_dim_v}
    return Problem(direction=direction, decay="constant", dtype="bf16", **shape)


def plan(*kernels: str, num_warps: int = 4) -> Plan:
    return Plan(tuple(Step(kernel=name, config=Config.of("sequential", num_warps=num_warps)) for name in kernels))


def width(name: str) -> str:
    return "head_dim_v" if name in ("v", "o", "do", "dv") else "head_dim_k"


@pytest.mark.parametrize("name", STREAMS)
def test_a_streams_widths_agree_with_its_roles(name: str) -> None:
    """x and y share the contracted width; z and the output share the other."""
    kernel = KERNELS[name]
    x, y, z = kernel.inputs
    assert width(x) == width(y) == kernel.key_dim
    assert width(z) == width(kernel.outputs[0]) == kernel.value_dim
    assert kernel.key_dim != kernel.value_dim


@pytest.mark.parametrize(
    ("name", "inputs", "reverse"),
    [
        ("o", ("q", "k", "v"), False),
        ("dq", ("do", "v", "k"), False),
        ("dk", ("v", "do", "q"), True),
        ("dv", ("k", "q", "do"), True),
    ],
)
def test_roles_are_those_of_the_operator(name: str, inputs: tuple[str, ...], reverse: bool) -> None:
    kernel = KERNELS[name]
    assert (kernel.inputs, kernel.reverse, kernel.space, kernel.outputs) == (inputs, reverse, "stream", (name,))


def test_dims_are_swapped_where_the_roles_are() -> None:
    assert [KERNELS[name].dims(problem("bwd")) for name in STREAMS] == [(128, 64), (64, 128), (64, 128), (128, 64)]
    assert KERNELS["dkdv"].dims(problem("bwd")) == (128, 64)


def test_kernels_move_what_their_tensors_hold() -> None:
    rows_bytes = 2 * 3 * 100 * 2
    assert KERNELS["o"].compulsory_bytes(problem("fwd")) == rows_bytes * (128 + 128 + 64 + 64)
    assert KERNELS["o"].compulsory_bytes(problem("fwd")) == problem("fwd").compulsory_bytes
    assert KERNELS["dq"].compulsory_bytes(problem("bwd")) == rows_bytes * (64 + 64 + 128 + 128)
    for name in ("dkdv", "dk_dv"):
        assert KERNELS[name].compulsory_bytes(problem("bwd")) == rows_bytes * (3 * 128 + 3 * 64)


def test_streams_go_side_by_side_or_share_a_walk() -> None:
    assert [KERNELS[name].streams for name in ("dv", "dk_dv", "dkdv")] == [("dv",), ("dk", "dv"), ()]
    assert KERNELS["dk_dv"].outputs == KERNELS["dkdv"].outputs == ("dk", "dv")


@pytest.mark.parametrize(("direction", "outputs"), [("fwd", {"o"}), ("bwd", {"dq", "dk", "dv"})])
def test_every_form_computes_every_output_once(direction: str, outputs: set[str]) -> None:
    assert FORMS[direction]
    for form in FORMS[direction]:
        complete = plan(*form)
        assert sorted(complete.outputs) == sorted(outputs)
        assert {kernel.direction for kernel in complete.kernels} == {direction}


def test_every_kernel_is_in_a_form() -> None:
    assert {name for forms in FORMS.values() for form in forms for name in form} == set(KERNELS)


def test_outputs_are_in_one_order_whatever_that_of_the_launches() -> None:
    assert plan("dq", "dkdv").outputs == plan("dkdv", "dq").outputs == ("dq", "dk", "dv")
    assert plan("dv", "dq").outputs == ("dq", "dv")


def test_programs_that_wait_for_one_another_run_at_once() -> None:
    """Of streams side by side, those of both."""
    cut = {name: Config.of(name, constexprs={"PROGRAMS": 64}) for name in ("split", "cooperative", "relay")}
    steps = {"dq": cut["cooperative"], "dk_dv": cut["relay"], "dk": cut["split"], "dv": Config.of("sequential")}
    programs = {name: Plan((Step(kernel=name, config=config),)).programs_at_once for name, config in steps.items()}
    assert programs == {"dq": 64, "dk_dv": 128, "dk": 0, "dv": 0}
    assert Plan(tuple(Step(kernel=name, config=config) for name, config in steps.items())).programs_at_once == 128


def test_an_unknown_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="o, dq, dk, dv, dk_dv, dkdv, dqdkdv, got 'do'"):
        plan("do")


def test_digest_depends_on_kernels_configs_and_order() -> None:
    plans = [plan("dq", "dkdv"), plan("dkdv", "dq"), plan("dq"), plan("dq", "dkdv", num_warps=8)]
    assert len({each.digest for each in plans}) == len(plans)
    assert plan("dq", "dkdv").digest == plan("dq", "dkdv").digest
    assert all(len(each.digest) == 10 for each in plans)


def test_plans_are_hashable_and_ordered() -> None:
    assert sorted({plan("o", num_warps=8), plan("o"), plan("o")}) == [plan("o"), plan("o", num_warps=8)]


def test_a_chained_plan_says_so_in_every_step_of_its_json_and_nowhere_else() -> None:
    known = plan("dq", "dkdv")
    chained = known.chained()
    assert chained.steps == known.steps and chained != known and chained.digest != known.digest
    assert all(step["config"]["options"] == {"launch_pdl": 1} for step in chained.to_json())
    assert str(chained).count("launch_pdl=1") == 2
    for one in (known, chained):
        steps = [Step(kernel=step["kernel"], config=Config.from_json(step["config"])) for step in one.to_json()]
        assert Plan.from_steps(steps) == one
    assert chained.unchained() == known and chained.with_steps(known.steps[:1]).is_chained
