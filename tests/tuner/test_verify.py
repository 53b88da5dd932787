"""The verifier against modules that are right, and wrong in the ways that generated ones have been; on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from latune.codegen.dtypes import TORCH_DTYPES
from latune.config import Config
from latune.gpu import find_gpu
from latune.ops import reference
from latune.plan import FORMS, Plan, Step
from latune.problem import Problem
from latune.tuner import verify as verify_module
from latune.tuner.cases import Inputs, timed_case
from latune.tuner.verify import Fixture, Launch, Verification, _fingerprint, poisoned_allocations, prepare, verify

CPU = torch.device("cpu")
FWD = Problem(direction="fwd", decay="constant", dtype="bf16", batch=2, num_heads=3, seqlen=200, head_dim_k=16, head_dim_v=24)
STATES = {"has_initial_state": True, "needs_final_state": True}
PROBLEMS = {
    "fwd": FWD,
    "fwd states": replace(FWD, **STATES),
    "fwd no decay": replace(FWD, decay="none"),
    "fwd fp16": replace(FWD, dtype="fp16"),
    "fwd fp32": replace(FWD, dtype="fp32"),
    "bwd": replace(FWD, direction="bwd"),
    "bwd states": replace(FWD, direction="bwd", **STATES),
    "bwd initial state, no decay": replace(FWD, direction="bwd", decay="none", has_initial_state=True),
    "bwd fp16": replace(FWD, direction="bwd", dtype="fp16"),
    "bwd fp32": replace(FWD, direction="bwd", dtype="fp32"),
}
Spoil = Callable[[str, Tensor], None]


def plan(*kernels: str) -> Plan:
    return Plan(tuple(Step(kernel=kernel, config=Config.of("sequential")) for kernel in kernels))


@cache
def fixture(name: str) -> Fixture:
    return prepare(PROBLEMS[name], CPU, seed=0)


class Module(SimpleNamespace):
    """A generated module made from the reference; ``spoil`` alters each output before it is returned.

    Its arithmetic is that of the inputs' dtype with fp32 accumulation, so it carries real rounding errors.
    """

    def __init__(self, problem: Problem, plan: Plan, spoil: Spoil = lambda name, output: None) -> None:
        names = ("q", "k", "v", *["slopes"] * (problem.decay != "none"), "scale")
        states = ("initial_state",) * problem.has_initial_state
        final = ("dfinal_state",) * problem.needs_final_state
        self.names = (*names, *states) if problem.direction == "fwd" else (*names, "do", *states, *final)
        self.problem, self.plan, self.spoil = problem, plan, spoil
        self.forward = self.backward = self.run

    def run(self, *arguments: object) -> tuple[Tensor, ...]:
        call = Inputs(**{"slopes": None} | dict(zip(self.names, arguments, strict=True)))
        outputs = self.rounded(call)
        for name, output in outputs.items():
            self.spoil(name, output)
        return tuple(outputs.values())

    def rounded(self, call: Inputs) -> dict[str, Tensor]:
        values = replace(call, **{name: tensor.float() for name, tensor in call.tensors().items()}).reference()
        wanted = [*self.plan.outputs]
        wanted += ["final_state"] * (self.problem.direction == "fwd" and self.problem.needs_final_state)
        wanted += ["dinitial_state"] * (
            "dinitial_state" in values and bool({"dkdv", "dv"} & {s.kernel for s in self.plan.steps})
        )
        outputs = {name: torch.empty_like(values[name], dtype=self.dtype(name)) for name in wanted}
        for name, output in outputs.items():
            output.copy_(values[name])
        return outputs

    def dtype(self, name: str) -> torch.dtype:
        return torch.float32 if name.endswith("state") else TORCH_DTYPES[self.problem.dtype]


def verdict(name: str, spoil: Spoil, *, kernels: tuple[str, ...] | None = None) -> Verification:
    problem = PROBLEMS[name]
    chosen = plan(*(kernels or FORMS[problem.direction][0]))
    return verify(launch_of(Module(problem, chosen, spoil)), chosen, fixture(name))


def launch_of(module: object) -> Launch:
    return partial(Inputs.launch, module=module)


def leave(name: str, output: Tensor) -> None:
    pass


@pytest.mark.parametrize("name", PROBLEMS)
def test_right_module_passes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    verification = verdict(name, leave)
    assert verification.ok, verification.detail
    monkeypatch.setattr(verify_module, "_PART_ELEMENTS", 1)
    assert dict(verdict(name, leave).errors) == pytest.approx(dict(verification.errors)), "batch by batch"
    assert verification.errors
    assert all(error < 5e-3 for _, error in verification.errors)


@pytest.mark.parametrize(
    ("kernels", "outputs"),
    [
        (("dq",), ["dq"]),
        (("dk",), ["dk"]),
        (("dv",), ["dv", "dinitial_state"]),
        (("dkdv",), ["dk", "dv", "dinitial_state"]),
        (("dq", "dk", "dv"), ["dq", "dk", "dv", "dinitial_state"]),
    ],
)
def test_incomplete_plan_is_judged_on_what_it_returns(kernels: tuple[str, ...], outputs: list[str]) -> None:
    verification = verdict("bwd states", leave, kernels=kernels)
    assert verification.ok, verification.detail
    assert [name for name, _ in verification.errors] == outputs


@pytest.mark.parametrize("part_elements", [1, 2**25])
@pytest.mark.parametrize("name", ["fwd states", "bwd states", "fwd fp16", "fwd fp32", "bwd fp32"])
def test_one_wrong_element_of_any_output_is_found_and_named(
    name: str, part_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify_module, "_PART_ELEMENTS", part_elements)
    for output, _ in verdict(name, leave).errors:
        seen: list[Tensor] = []

        def spoil(spoiled: str, tensor: Tensor, wanted: str = output, seen: list[Tensor] = seen) -> None:
            if spoiled == wanted and tensor.shape[:2] == (2, 3):  # the timed shape only
                tensor[1, 2, -1, 3] += 0.3 * tensor[1, 2].float().square().mean().sqrt() + 1e-6
                seen.append(tensor)

        verification = verdict(name, spoil)
        assert seen
        assert not verification.ok
        last = seen[0].shape[2] - 1
        assert f"{output}[1, 2, {last}, 3]: expected " in verification.detail
        assert "[B=2 H=3 N=200 as timed]" in verification.detail


def test_wrong_first_row_of_a_head_without_decay_is_found_beside_large_later_rows() -> None:
    def spoil(name: str, output: Tensor) -> None:
        output[0, 0, 0] = 0

    problem = PROBLEMS["fwd no decay"]
    case = timed_case(replace(problem, seqlen=4096), CPU, seed=1)
    assert case.expected["o"].values[0, 0].abs().max() > 20 * case.expected["o"].values[0, 0, 0].abs().max()
    long = Fixture(problem=problem, cases=(case,), fingerprint=0)
    chosen = plan("o")
    assert verify(launch_of(Module(problem, chosen)), chosen, long).ok
    verification = verify(launch_of(Module(problem, chosen, spoil)), chosen, long)
    assert verification.detail.startswith("o[0, 0, 0, ")


def test_rows_never_written_stay_poisoned() -> None:
    class Ragged(Module):
        """Writes whole chunks of 64 only."""

        def rounded(self, call: Inputs) -> dict[str, Tensor]:
            outputs = super().rounded(call)
            whole = call.q.shape[2] // 64 * 64
            unwritten = torch.empty_like(outputs["o"])
            unwritten[:, :, :whole] = outputs["o"][:, :, :whole]
            return {"o": unwritten}

    verification = verify(launch_of(Ragged(FWD, plan("o"))), plan("o"), fixture("fwd"))
    assert not verification.ok
    assert "got nan" in verification.detail
    assert "N=401" in verification.detail
    assert "o[0, 0, 384, 0]" in verification.detail


def test_runs_that_differ_in_one_bit_are_refused() -> None:
    flips = iter(range(1000))

    def spoil(name: str, output: Tensor) -> None:
        output.view(torch.int16)[0, 0, 0, 0] ^= next(flips) % 2

    verification = verdict("fwd", spoil)
    assert not verification.ok
    assert verification.detail.startswith("o: two runs on the same inputs differ")


def test_a_forgotten_scale_is_wrong() -> None:
    class Unscaled(Module):
        def rounded(self, call: Inputs) -> dict[str, Tensor]:
            return super().rounded(replace(call, scale=1.0))

    assert not verify(launch_of(Unscaled(FWD, plan("o"))), plan("o"), fixture("fwd")).ok


@pytest.mark.parametrize("slope", range(1, 5))
def test_a_head_of_any_decay_counts(slope: int) -> None:
    """The last token's own contribution, dropped in one head, which a figure over all heads would hide."""

    def spoil(name: str, output: Tensor) -> None:
        if output.shape[1] == 5:
            output[:, slope] *= 1.1

    assert not verdict("fwd", spoil).ok


def test_wrong_form_is_said_plainly() -> None:
    chosen = plan("o")
    wide = SimpleNamespace(forward=lambda *arguments: tuple(o.float() for o in Module(FWD, chosen).run(*arguments)))
    assert "o: expected shape and dtype" in verify(launch_of(wide), chosen, fixture("fwd")).detail
    none = SimpleNamespace(forward=lambda *arguments: ())
    assert "expected 1 outputs (o), got 0" in verify(launch_of(none), chosen, fixture("fwd")).detail


def test_cases_cover_slopes_layouts_and_tails() -> None:
    small = fixture("fwd").cases[:-1]
    seqlens = {case.inputs.q.shape[2] for case in small}
    assert {1, 63, 401} <= seqlens
    assert {case.inputs.q.is_contiguous() for case in small} == {True, False}
    assert max(case.inputs.q.shape[0] * case.inputs.q.shape[1] for case in small) > find_gpu("h200").sms
    for case in small:
        assert case.inputs.slopes is not None
        slopes = case.inputs.slopes.tolist()
        assert min(slopes) == 0
        assert torch.exp(torch.tensor(-64 * max(slopes))) == 0
        assert any(0 < slope < 1 for slope in slopes)


@pytest.mark.parametrize("batches", [0, 2])
def test_reference_in_slices_is_the_reference(monkeypatch: pytest.MonkeyPatch, batches: int) -> None:
    problem = replace(PROBLEMS["bwd states"], batch=3)
    whole = timed_case(problem, CPU, seed=3)
    of_a_batch = problem.num_heads * problem.seqlen * max(problem.head_dim_k, problem.head_dim_v)
    monkeypatch.setattr("latune.tuner.cases._SLICE_ELEMENTS", max(batches * of_a_batch, 1))
    sliced = timed_case(problem, CPU, seed=3)
    doubled = replace(whole.inputs, **{name: tensor.double() for name, tensor in whole.inputs.tensors().items()})
    exact = reference.gradients(
        doubled.q, doubled.k, doubled.v, doubled.slopes, 0.75, doubled.do, doubled.initial_state, doubled.dfinal_state
    )
    for name, value in zip(("dq", "dk", "dv", "dinitial_state"), exact, strict=True):
        for case in (whole, sliced):
            torch.testing.assert_close(case.expected[name].values, value.float())
            assert case.expected[name].scale.shape == value.shape[1:3]


def test_poison_is_poison_and_leaves_torch_as_it_was() -> None:
    with poisoned_allocations():
        assert torch.empty(1000).isnan().all()
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()


def test_fixture_notices_a_write_into_its_tensors() -> None:
    made = prepare(replace(FWD, seqlen=8), CPU, seed=0)
    assert not made.damaged()
    values = made.cases[0].expected["o"].values
    values[0, 0, 0, 0] += 1
    assert made.damaged()
    values[0, 0, 0, 0] -= 1
    made = replace(made, fingerprint=_fingerprint(made.cases))
    q = made.cases[0].inputs.q
    q.copy_(q.flip(0))
    assert made.damaged(), "the same numbers, elsewhere"


def test_copies_of_inputs_are_equal_and_lie_elsewhere() -> None:
    inputs = timed_case(PROBLEMS["bwd states"], CPU, seed=1).inputs
    first, second, third = (one.tensors() for one in inputs.copies(3))
    assert first.keys() == second.keys() == third.keys()
    for name, tensor in inputs.tensors().items():
        assert tensor is first[name] and torch.equal(tensor, second[name]) and torch.equal(tensor, third[name])
        assert len({one[name].data_ptr() for one in (first, second, third)}) == 3
