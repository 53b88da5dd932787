"""The kernels that serve a direction, the roles tensors play in them, and plans made of them.

One operator serves every pass (l = exp(-slope)):

    LA(x, y, z)_i  = sum over j <= i of l^(i-j) (x_i . y_j) z_j
    RLA(x, y, z)_i = sum over j >= i of l^(j-i) (x_i . y_j) z_j

    o = LA(q, k, v)    dq = LA(do, v, k)    dk = RLA(v, do, q)    dv = RLA(k, q, do)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from latune.config import Config
from latune.problem import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """One kernel of a plan: which search space it is drawn from and which tensors play which role.

    Attributes:
        name: the gradient or output it computes; also its name in an entry.
        space: the search space that serves it: ``stream``, ``dkdv`` or ``dqdkdv``.
        direction: ``fwd`` or ``bwd``.
        inputs: the tensors it reads, in the order x, y, z of the operator (q, k, v, do where it has several outputs).
        outputs: the tensors it writes.
        key_dim: which of the problem's head dims contracts x with y: ``head_dim_k`` or ``head_dim_v``.
        value_dim: the other one, the width of z and the output.
        reverse: runs from the last token to the first.
    """

    name: str
    space: str
    direction: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    key_dim: str
    value_dim: str
    reverse: bool

    @property
    def streams(self) -> tuple[str, ...]:
        """The kernels, of an output each, that it runs side by side, or is; none where all outputs come of one walk."""
        return self.outputs if self.space == "stream" else ()

    @property
    def num_walks(self) -> int:
        """Walks over each head in one launch, with programs of their own: of its streams, or the one of all outputs."""
        return max(len(self.streams), 1)

    @property
    def reads_checkpoints(self) -> bool:
        """It walks backwards and needs the forward state of each chunk, which it has from those of every second one."""
        return self.reverse and "dq" in self.outputs

    def dims(self, problem: Problem) -> tuple[int, int]:
        """(D, E) as this kernel sees them: the contracted width and the width of its output."""
        return getattr(problem, self.key_dim), getattr(problem, self.value_dim)

    def compulsory_bytes(self, problem: Problem) -> int:
        """Bytes of every input read once and every output written once, without states."""
        width = {name: problem.head_dim_k for name in ("q", "k", "dq", "dk")}
        width |= {name: problem.head_dim_v for name in ("v", "o", "do", "dv")}
        rows = problem.batch_heads * problem.seqlen * problem.dtype_bytes
        return rows * sum(width[name] for name in self.inputs + self.outputs)


def _stream(name: str, direction: str, inputs: tuple[str, str, str], key: str, value: str, reverse: bool) -> Kernel:
    return Kernel(
        name=name,
        space="stream",
        direction=direction,
        inputs=inputs,
        outputs=(name,),
        key_dim=f"head_dim_{key}",
        value_dim=f"head_dim_{value}",
        reverse=reverse,
    )


def _fused(*outputs: str) -> Kernel:
    """Several gradients in one reverse walk."""
    name = "".join(outputs)
    return Kernel(
        name=name,
        space=name,
        direction="bwd",
        inputs=("q", "k", "v", "do"),
        outputs=outputs,
        key_dim="head_dim_k",
        value_dim="head_dim_v",
        reverse=True,
    )


def _side_by_side(first: Kernel, second: Kernel) -> Kernel:
    """Two streams of one config in one launch: of rows that they read at the same time, the L2 has one copy."""
    return replace(
        first, name=f"{first.name}_{second.name}", inputs=("q", "k", "v", "do"), outputs=first.outputs + second.outputs
    )


_DK = _stream("dk", "bwd", ("v", "do", "q"), "v", "k", True)
_DV = _stream("dv", "bwd", ("k", "q", "do"), "k", "v", True)

KERNELS: Mapping[str, Kernel] = {
    kernel.name: kernel
    for kernel in (
        _stream("o", "fwd", ("q", "k", "v"), "k", "v", False),
        _stream("dq", "bwd", ("do", "v", "k"), "v", "k", False),
        _DK,
        _DV,
        _side_by_side(_DK, _DV),
        _fused("dk", "dv"),
        _fused("dq", "dk", "dv"),
    )
}

FORMS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "fwd": (("o",),),
    "bwd": (("dq", "dkdv"), ("dq", "dk", "dv"), ("dq", "dk_dv"), ("dqdkdv",)),
}
"""The complete plans of a direction, as the names of their kernels in launch order."""


_OUTPUTS = ("o", "dq", "dk", "dv")

_WAITING = ("cooperative", "balanced", "relay")

_LAUNCH_PDL = "launch_pdl"
"""Triton's name for programmatic dependent launch, by which a plan in JSON says in each of its steps that it is chained."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Step:
    """One kernel of a plan with the config it runs under."""

    kernel: str
    config: Config

    def __post_init__(self) -> None:
        if self.kernel not in KERNELS:
            raise ValueError(f"plan: expected a kernel of {', '.join(KERNELS)}, got {self.kernel!r}")

    def to_json(self) -> dict[str, object]:
        return {"kernel": self.kernel, "config": self.config.to_json()}


@dataclass(frozen=True, slots=True, order=True)
class Plan:
    """The launches that serve a problem; a plan that is not complete computes some outputs only.

    Attributes:
        is_chained: each kernel but the first is launched before the one ahead of it has ended.
    """

    steps: tuple[Step, ...]
    is_chained: bool = False

    @classmethod
    def from_steps(cls, steps: Sequence[Step]) -> Plan:
        """The plan of these steps as ``to_json`` gives them."""
        options = [dict(step.config.options) for step in steps]
        own = (replace(step, config=step.config.without_option(_LAUNCH_PDL)) for step in steps)
        return cls(tuple(own), is_chained=bool(steps) and all(_LAUNCH_PDL in option for option in options))

    @classmethod
    def from_json(cls, steps: Sequence[Mapping[str, Any]]) -> Plan:
        """The inverse of ``to_json``.

        Raises:
            KeyError, TypeError, ValueError: a step lacks something, or has something that none has.
        """
        return cls.from_steps([Step(kernel=step["kernel"], config=Config.from_json(step["config"])) for step in steps])

    @property
    def digest(self) -> str:
        text = " ".join(f"{step.kernel}:{step.config.digest}" for step in self._written)
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        return tuple(KERNELS[step.kernel] for step in self.steps)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the tensors it computes, in the order the generated module returns them, whatever that of the launches."""
        computed = {name for kernel in self.kernels for name in kernel.outputs}
        return tuple(name for name in _OUTPUTS if name in computed)

    @property
    def reads_checkpoints(self) -> bool:
        """One of its kernels does; by itself it makes them, unless it is given those that another plan has kept."""
        return any(kernel.reads_checkpoints for kernel in self.kernels)

    @property
    def stateless(self) -> bool:
        """One of its kernels reads all rows that it depends on: it neither takes a state nor leaves one."""
        return any(step.config.algorithm == "parallel" for step in self.steps)

    @property
    def programs_at_once(self) -> int:
        """The most that wait for one another in one launch, and so have to run at the same time; 0 where none do."""
        waiting = (step for step in self.steps if step.config.algorithm in _WAITING)
        return max((dict(step.config.constexprs)["PROGRAMS"] * KERNELS[step.kernel].num_walks for step in waiting), default=0)

    def chained(self) -> Plan:
        return replace(self, is_chained=True)

    def unchained(self) -> Plan:
        return replace(self, is_chained=False)

    def with_steps(self, steps: Iterable[Step]) -> Plan:
        """Other launches, chained as these are."""
        return replace(self, steps=tuple(steps))

    @property
    def _written(self) -> tuple[Step, ...]:
        if not self.is_chained:
            return self.steps
        return tuple(replace(step, config=step.config.with_option(_LAUNCH_PDL, 1)) for step in self.steps)

    def to_json(self) -> list[dict[str, object]]:
        return [step.to_json() for step in self._written]

    def __str__(self) -> str:
        return "; ".join(f"{step.kernel}: {step.config}" for step in self._written)
