"""Every rendering: it parses, it is formatted, and it holds what its problem needs and nothing else."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from renderings import body, check_formatted, check_line_length, check_names, only_function, signature, top_level, write

from latune.codegen.checkpoints import given_checkpoints, keeping_own_checkpoints
from latune.codegen.render import plan_sha256, render
from latune.plan import FORMS, KERNELS, Plan, Step
from latune.problem import Problem

LENGTHS = {"num_heads", "seqlen", "segment_rows", "num_segments", "whole_heads"}

ALGORITHMS = ("sequential", "split", "scan", "remainder")
# state_layout and branched; the plain layout has no such choice.
LAYOUTS = (("plain", None), *itertools.product(("transposed",), ("none", "scores", "all")))
LOADS = ("pointer", "tma")
# decay_mode and decayed; neither for decay none.
DECAYS = (("matrix", "key"), ("matrix", "value"), ("factored", None), (None, None))
# Of which one has neither scans, nor factored decays, nor blocks of its own. What goes side by side is in Gluon alone: see
# test_specialized.py.
PLANS = tuple((direction, form) for direction, forms in FORMS.items() for form in forms if "dk_dv" not in form)
# D, E, BLOCK_D, BLOCK_E: padded or not, in one or several tiles of the key dim and slices of the value dim.
WIDTHS = ((128, 128, 128, 128), (128, 128, 128, 32), (48, 80, 32, 128), (80, 48, 128, 16))
# has_initial_state, needs_final_state, dtype; of dtypes only fp32 changes the structure, by its longer products.
DATA = (*itertools.product((False, True), (False, True), ("bf16",)), (True, True, "fp32"))

# Variants (each of three algorithms by itself, kept and given, and one chained), layouts, loads, widths. A factored decay has
# no walks.
OF_A_WALK = (3 * 3 + 1) * 4 * 2 * 3
OF_A_DECAY = 4 * 2 * 4 * (3 * (4 + 4) + 1) + OF_A_WALK
# Without a state: forms, one of them also chained; loads, widths, when own rows are loaded, how many are read at once. With a
# decay twice as many, by the rows that are read.
STATELESS = 3 * 2 * 4 * 2 * 2

PlanOf = Callable[..., Plan]
ProblemOf = Callable[..., Problem]


def cases(problem_of: ProblemOf, plan_of: PlanOf) -> Iterator[tuple[Problem, Plan]]:
    """The product of all that shapes a source, but for data: each in turn, so that it meets every two of the other values."""
    axes = (ALGORITHMS, LAYOUTS, LOADS, DECAYS, PLANS, WIDTHS)
    turns = itertools.cycle(DATA)
    for algorithm, layout, loads, (mode, decayed), (direction, form), (d, e, *blocks) in itertools.product(*axes):
        what = dict(zip(("has_initial_state", "needs_final_state", "dtype"), next(turns), strict=True))
        choices = {"algorithm": algorithm, "loads": loads, "decay_mode": mode, "decayed": decayed}
        choices |= dict(zip(("state_layout", "branched"), layout, strict=True))
        if "dqdkdv" in form and (algorithm == "scan" or mode == "factored" or blocks[1] == 32):
            continue
        problem = problem_of(direction, decay="constant" if mode else "none", head_dim_k=d, head_dim_v=e, **what)
        plan = plan_of(*form, **choices, BLOCK_D=blocks[0], BLOCK_E=blocks[1])
        yield problem, plan
        if form == ("dqdkdv",):
            kept = keeping_own_checkpoints(plan)
            yield problem, kept
            yield problem, given_checkpoints(plan, kept, problem) or plan
            if algorithm == "split":
                yield problem, plan.chained()
        elif algorithm in ("split", "scan"):
            yield problem, Plan(tuple(map(sharing, plan.steps)))
            yield problem, plan.chained()
        elif algorithm == "sequential" and form == ("o",):
            yield problem, Plan(tuple(map(keeping, plan.steps)))


def stateless_cases(problem_of: ProblemOf, plan_of: PlanOf) -> Iterator[tuple[Problem, Plan]]:
    """In the parallel form, where each chunk is by itself and no state is given, wanted or kept."""
    forms = (("fwd", ("o",)), ("bwd", ("dq", "dk", "dv")))
    decays = (("matrix", "live"), ("matrix", "all"), (None, None))
    axes = (LOADS, decays, ("once", "each"), (32, 128), forms, WIDTHS)
    for loads, (mode, rows_read), own_rows, at_once, (direction, form), (d, e, *blocks) in itertools.product(*axes):
        problem = problem_of(direction, decay="constant" if mode else "none", head_dim_k=d, head_dim_v=e)
        choices = {"algorithm": "parallel", "loads": loads, "decay_mode": mode, "rows_read": rows_read, "own_rows": own_rows}
        plan = plan_of(*form, **choices, BLOCK_D=blocks[0], BLOCK_E=blocks[1], BLOCK_J=at_once)
        yield problem, plan
        if len(form) > 1:
            yield problem, plan.chained()


def keeping(step: Step) -> Step:
    """As part of a forward pass that keeps checkpoints."""
    return replace(step, config=step.config.with_choices(checkpoints="kept").with_constexprs(CHECKPOINT_ROWS=64))


def sharing(step: Step) -> Step:
    """As part of a forward pass that keeps its segments' states, or of a backward pass that is given them."""
    if step.kernel == "o":
        return replace(step, config=step.config.with_choices(segment_states="kept"))
    if step.kernel == "dq":
        return replace(step, config=step.config.with_choices(segment_states="given", given_layout="transposed"))
    return step


@pytest.fixture(scope="module")
def texts(problem_of: ProblemOf, plan_of: PlanOf) -> list[str]:
    every = itertools.chain(cases(problem_of, plan_of), stateless_cases(problem_of, plan_of))
    return [render(problem, plan).text for problem, plan in every]


@pytest.fixture(scope="module")
def functions(texts: list[str]) -> list[ast.FunctionDef]:
    """Every distinct kernel and host function of all renderings, without its body."""
    chunks = dict.fromkeys(chunk for text in texts for chunk in top_level(text) if "\ndef " in f"\n{chunk}")
    return [signature(chunk) for chunk in chunks]


@pytest.fixture(scope="module")
def folder(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(texts, tmp_path_factory.mktemp("rendered"))


def host(text: str) -> ast.FunctionDef:
    function = only_function(top_level(text)[-1])
    assert function.name in ("forward", "backward")
    return function


def arguments(function: ast.FunctionDef) -> list[str]:
    return [argument.arg for argument in function.args.args]


def returned(function: ast.FunctionDef) -> tuple[str, ...]:
    last = function.body[-1]
    assert isinstance(last, ast.Return) and isinstance(last.value, ast.Tuple)
    return tuple(ast.unparse(value) for value in last.value.elts)


def unspecialised(kernel: ast.FunctionDef) -> set[str]:
    (decorator,) = kernel.decorator_list
    assert isinstance(decorator, ast.Call)
    assert ast.unparse(decorator.func) == "triton.jit"
    (keyword,) = decorator.keywords
    assert keyword.arg == "do_not_specialize"
    return set(ast.literal_eval(keyword.value))


def test_every_case_is_a_text_of_its_own(texts: list[str]) -> None:
    assert len(set(texts)) == len(texts) == OF_A_DECAY * 4 - OF_A_WALK + 3 * STATELESS


def test_every_rendering_is_formatted(folder: Path) -> None:
    check_formatted(folder)


def test_every_rendering_is_free_of_unused_and_undefined_names(folder: Path) -> None:
    check_names(folder)


def test_every_kind_of_function_is_rendered_and_no_line_is_too_long(texts: list[str], functions: list[ast.FunctionDef]) -> None:
    assert {"o_kernel", "dq_scan_kernel", "dkdv_states_kernel", "backward"} <= {function.name for function in functions}
    check_line_length(texts)


def test_lengths_are_never_specialised(functions: list[ast.FunctionDef]) -> None:
    for kernel in (function for function in functions if function.decorator_list):
        names = set(arguments(kernel))
        assert {"num_heads", "seqlen"} <= names
        assert unspecialised(kernel) == names & LENGTHS


def test_no_constexpr_is_a_length(functions: list[ast.FunctionDef]) -> None:
    for kernel in (function for function in functions if function.decorator_list):
        fixed = {argument.arg for argument in kernel.args.args if argument.annotation}
        assert fixed <= {"D", "E", "BLOCK_N", "BLOCK_D", "BLOCK_E", "BLOCK", "BLOCK_J", "CHECKPOINT_ROWS"}


@pytest.mark.parametrize(
    ("algorithm", "direction", "form"),
    [*((algorithm, *plan) for algorithm in ALGORITHMS for plan in PLANS), ("parallel", "bwd", ("dq", "dk", "dv"))],
)
def test_another_length_batch_or_number_of_heads_is_the_same_code(
    problem_of: ProblemOf, plan_of: PlanOf, algorithm: str, direction: str, form: tuple[str, ...]
) -> None:
    plan, problem = plan_of(*form, algorithm=algorithm), problem_of(direction)
    other = replace(problem, batch=1, num_heads=3, seqlen=1000)
    assert body(render(problem, plan).text) == body(render(other, plan).text)
    assert plan_sha256(problem.bucket(), plan) == render(problem, plan).code_sha256 == render(other, plan).code_sha256


def test_decay_none_renders_no_decay(texts: list[str]) -> None:
    bare = [text for text in texts if "decay=none" in text]
    assert len(bare) == OF_A_DECAY + STATELESS
    weights = r"across|lift|to_state|from_state|to_next|from_kept|from_chunk|to_chunk"
    for text in bare:
        assert not re.search(rf"slope|exp2|\bexp\b|decay|LOG2|FACTORED|{weights}", body(text))


def test_a_decay_is_a_power_of_two(texts: list[str]) -> None:
    """log2(e) goes into the slope once; every weight is exp2 of an exponent."""
    decayed = [text for text in texts if "decay=constant" in text]
    assert len(decayed) == OF_A_DECAY * 3 - OF_A_WALK + 2 * STATELESS
    for text in decayed:
        code = body(text)
        assert code.count("tl.load(slopes") == code.count("tl.load(slopes + i_h) * LOG2_E") + code.count(
            "tl.load(slopes + i_bh % num_heads) * LOG2_E"
        )
        assert "tl.exp2(" in code
        assert not re.search(r"\b(tl|torch|math)\.exp\(", code)


@pytest.mark.parametrize(("initial", "final"), list(itertools.product((False, True), repeat=2)))
def test_states_come_and_go_where_the_problem_has_them(
    problem_of: ProblemOf, plan_of: PlanOf, initial: bool, final: bool
) -> None:
    flags = {"has_initial_state": initial, "needs_final_state": final}
    forward = host(render(problem_of("fwd", **flags), plan_of("o")).text)
    assert arguments(forward) == ["q", "k", "v", "slopes", "scale", *["initial_state"] * initial]
    assert returned(forward) == ("o", *["final_state"] * final)
    backward = host(render(problem_of("bwd", **flags), plan_of("dq", "dkdv")).text)
    given = [*["initial_state"] * initial, *["dfinal_state"] * final]
    assert arguments(backward) == ["q", "k", "v", "slopes", "scale", "do", *given]
    assert returned(backward) == ("dq", "dk", "dv", *["dinitial_state"] * initial)


@pytest.mark.parametrize("algorithm", ["split", "scan"])
def test_segment_states_are_returned_by_one_pass_and_taken_by_the_other(
    problem_of: ProblemOf, plan_of: PlanOf, algorithm: str
) -> None:
    flags = {"has_initial_state": True, "needs_final_state": True}

    def shared(direction: str, *form: str) -> ast.FunctionDef:
        plan = Plan(tuple(map(sharing, plan_of(*form, algorithm=algorithm).steps)))
        return host(render(problem_of(direction, **flags), plan).text)

    assert returned(shared("fwd", "o")) == ("o", "final_state", "states")
    assert arguments(shared("bwd", "dq", "dkdv"))[-3:] == ["initial_state", "dfinal_state", "segment_states"]


def test_decay_none_takes_no_slopes(problem_of: ProblemOf, plan_of: PlanOf) -> None:
    text = render(problem_of(decay="none"), plan_of("o", decay_mode=None, decayed=None)).text
    assert arguments(host(text)) == ["q", "k", "v", "scale"]


@pytest.mark.parametrize("kernel", KERNELS)
def test_an_incomplete_plan_returns_its_outputs_only(problem_of: ProblemOf, plan_of: PlanOf, kernel: str) -> None:
    problem = problem_of(KERNELS[kernel].direction, has_initial_state=True)
    states = ("dinitial_state",) if "dv" in KERNELS[kernel].outputs else ()
    assert returned(host(render(problem, plan_of(kernel)).text)) == (*KERNELS[kernel].outputs, *states)


def test_launch_options_reach_the_launch(problem_of: ProblemOf, plan_of: PlanOf) -> None:
    text = render(problem_of(), plan_of("o", num_warps=8, num_stages=3, maxnreg=168)).text
    for option in ("num_warps=8", "num_stages=3", "maxnreg=168", "enable_fp_fusion=True"):
        assert f"        {option},\n" in text
