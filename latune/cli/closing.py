"""What a tuning run ends with: a call of ``lightning_attn`` that what was tuned serves, compared with the definition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from latune.cache.resolve import resolve
from latune.cache.store import read_file
from latune.cli.accuracy import relative_rms, worst
from latune.codegen.render import plan_sha256
from latune.errors import LatuneError
from latune.gpu import Gpu
from latune.ops import reference
from latune.ops.attention import lightning_attn
from latune.ops.dispatch import decide, forget_decisions
from latune.problem import Problem
from latune.tuner.cases import Inputs, timed_case
from latune.tuner.target import local_gpu
from latune.tuner.verify import TOLERANCES

_CPU_TOKENS = 100
_CPU_HEADS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A verified call.

    Attributes:
        device: where it ran: the GPU's title, or ``CPU``.
        served: for each direction, what the dispatcher says of the plan that serves it on the tuned GPU.
        errors: relative RMS error of each output against float64.
    """

    device: str
    served: tuple[tuple[str, str], ...]
    errors: tuple[tuple[str, float], ...]

    def to_json(self) -> dict[str, object]:
        return {"device": self.device, "served": dict(self.served), "errors": dict(self.errors)}

    def __str__(self) -> str:
        errors = ", ".join(f"{name} {error:.2g}" for name, error in self.errors)
        lines = [f"latune.lightning_attn on {self.device} agrees with float64 (relative RMS errors: {errors})"]
        return "\n".join([*lines, *(f"  {direction}: {why}" for direction, why in self.served)])


def closing_call(problems: Sequence[Problem], gpu: Gpu, path: Path | None) -> Call:
    """Calls ``lightning_attn``: on the tuned GPU where the dispatcher serves it, else on the CPU, with the entries looked up.

    Args:
        problems: of one shape, one for each direction that was tuned.
        path: the cache file that was written to, if that is one which the dispatcher does not read.

    Raises:
        LatuneError: an output is wrong.
    """
    here = path is None and local_gpu() == gpu
    errors = {name: error for problem in problems for name, error in (_gpu_errors if here else _cpu_errors)(problem).items()}
    error = worst(errors.values())
    if not error <= TOLERANCES[problems[0].dtype].rms:
        raise LatuneError(f"lightning_attn is off by {error:.2g}: `latune verify --gpu {gpu.name}` finds the entry at fault")
    served = _dispatched(problems) if here else _looked_up(problems, gpu, path)
    return Call(device=gpu.title if here else "CPU", served=tuple(served.items()), errors=tuple(errors.items()))


def _gpu_errors(problem: Problem) -> dict[str, float]:
    """At the tuned shape, of the direction's own outputs."""
    forget_decisions()
    case = timed_case(problem, torch.device("cuda", torch.cuda.current_device()), seed=0)
    outputs = _call(problem, case.inputs)
    return {name: relative_rms(output, case.expected[name].values) for name, output in outputs.items()}


def _cpu_errors(problem: Problem) -> dict[str, float]:
    """At a small shape: the definition walks one token at a time."""
    heads, seqlen = min(problem.num_heads, _CPU_HEADS), min(problem.seqlen, _CPU_TOKENS)
    small = replace(problem, batch=1, num_heads=heads, seqlen=seqlen)
    inputs = timed_case(small, torch.device("cpu"), seed=0).inputs
    exact = _definition(small, inputs.part(slice(None), slice(None)))
    return {name: relative_rms(output, exact[name]) for name, output in _call(small, inputs).items()}


def _call(problem: Problem, inputs: Inputs) -> dict[str, Tensor]:
    final = problem.needs_final_state
    leaves = _leaves(inputs)
    returned = lightning_attn(
        *leaves[:3], inputs.slopes, scale=inputs.scale, initial_state=_state(leaves), return_final_state=final
    )
    return _outputs(returned if isinstance(returned, tuple) else (returned,), leaves, inputs)


def _definition(problem: Problem, inputs: Inputs) -> dict[str, Tensor]:
    leaves = _leaves(inputs)
    o, final_state = reference.recurrence(*leaves[:3], inputs.slopes, scale=inputs.scale, initial_state=_state(leaves))
    return _outputs((o, final_state) if problem.needs_final_state else (o,), leaves, inputs)


def _leaves(inputs: Inputs) -> list[Tensor]:
    """q, k, v and, where there is one, the initial state."""
    given = (inputs.q, inputs.k, inputs.v, inputs.initial_state)
    return [tensor.requires_grad_() for tensor in given if tensor is not None]


def _state(leaves: Sequence[Tensor]) -> Tensor | None:
    return leaves[3] if len(leaves) > 3 else None


def _outputs(returned: tuple[Tensor, ...], leaves: Sequence[Tensor], inputs: Inputs) -> dict[str, Tensor]:
    """By name: what a forward pass returned, or the gradients of its inputs."""
    if inputs.do is None:
        return dict(zip(("o", "final_state"), (tensor.detach() for tensor in returned), strict=False))
    incoming = [inputs.do, inputs.dfinal_state][: len(returned)]
    return dict(zip(("dq", "dk", "dv", "dinitial_state"), torch.autograd.grad(returned, leaves, incoming), strict=False))


def _dispatched(problems: Sequence[Problem]) -> dict[str, str]:
    return {problem.direction: decide(problem, torch.cuda.current_device()).why for problem in problems}


def _looked_up(problems: Sequence[Problem], gpu: Gpu, path: Path | None) -> dict[str, str]:
    caches = None if path is None else [read_file(path, gpu)]
    found = (resolve(problem, gpu, plan_sha256=plan_sha256, caches=caches) for problem in problems)
    return {problem.direction: resolution.why for problem, resolution in zip(problems, found, strict=True)}
