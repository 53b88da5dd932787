from __future__ import annotations

from collections.abc import Callable

import pytest

from latune.config import Config
from latune.plan import KERNELS, Plan, Step
from latune.problem import Problem

_LAUNCH = ("num_warps", "num_stages", "maxnreg")


def make_problem(direction: str = "fwd", **changes: object) -> Problem:
    fields = {"decay": "constant", "dtype": "bf16", "batch": 2, "num_heads": 16, "seqlen": 4096}
    return Problem(direction=direction, **{**fields, "head_dim_k": 128, "head_dim_v": 128, **changes})  # type: ignore[arg-type]


def make_config(kernel: str, **changes: str | int | None) -> Config:
    """A config of ``kernel``; ``changes`` replace its values by name, and None leaves one out.

    BLOCK_D and BLOCK_E, or PROGRAMS, go to those kernels and algorithms that have one.
    """
    values: dict[str, str | int | None] = {"algorithm": "sequential", "state_layout": "plain", "loads": "pointer"}
    values |= {"decay_mode": "matrix", "decayed": "value", "BLOCK_D": 128, "BLOCK_E": 64, "BLOCK_N": 32, "PROGRAMS": 512}
    values |= changes
    if KERNELS[kernel].space != "stream":
        del values["BLOCK_D"], values["BLOCK_E"]
    if values["algorithm"] in ("sequential", "parallel"):
        del values["PROGRAMS"]
    if values["algorithm"] == "parallel":
        del values["state_layout"], values["decayed"]
    present = {name: value for name, value in values.items() if value is not None}
    return Config.of(
        present.pop("algorithm"),  # type: ignore[arg-type]
        choices={name: value for name, value in present.items() if isinstance(value, str)},
        constexprs={name: value for name, value in present.items() if isinstance(value, int) and name not in _LAUNCH},
        num_warps=present.get("num_warps", 4),  # type: ignore[arg-type]
        num_stages=present.get("num_stages", 2),  # type: ignore[arg-type]
        options={name: present[name] for name in ("maxnreg",) if name in present},  # type: ignore[misc]
    )


def make_plan(*kernels: str, **changes: str | int | None) -> Plan:
    """A plan of these kernels, each under ``make_config(kernel, **changes)``."""
    return Plan(tuple(Step(kernel=kernel, config=make_config(kernel, **changes)) for kernel in kernels))


@pytest.fixture(scope="session")
def problem_of() -> Callable[..., Problem]:
    return make_problem


@pytest.fixture(scope="session")
def plan_of() -> Callable[..., Plan]:
    return make_plan
