"""Plans whose calls are made again, what they are called with, and a thread to call them from."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch

from latune.config import Config
from latune.plan import KERNELS, Plan, Step

HEADS, SEQLEN, D, E = 3, 70, 64, 48


def plan(*names: str, loads: str = "pointer", algorithm: str = "sequential") -> Plan:
    def step(name: str) -> Step:
        fused = KERNELS[name].space == "dkdv"
        layout = "transposed" if loads == "specialized" else "plain"
        choices = {"decay_mode": "matrix", "loads": loads}
        choices |= {} if algorithm == "parallel" else {"state_layout": layout, "decayed": "value"}
        # Of six heads in two slices remainder walks four whole, and two in two segments; a share is a head and a half.
        rows, columns = (64, 64) if loads == "specialized" else (32, 32)
        programs = {"remainder": 8, "relay": 4}.get(algorithm, 24)
        constexprs = {"BLOCK_N": rows, "BLOCK_D": 64, "BLOCK_E": columns, "PROGRAMS": programs}
        whole = algorithm in ("sequential", "parallel")
        dropped = ({"BLOCK_D", "BLOCK_E"} if fused else set()) | ({"PROGRAMS"} if whole or fused else set())
        config = Config.of(
            "sequential" if fused else algorithm,
            choices=choices,
            constexprs={name: value for name, value in constexprs.items() if name not in dropped},
            num_warps=4,
            num_stages=2,
        )
        return Step(kernel=name, config=config)

    return Plan(tuple(map(step, names)))


SEVERAL = (plan("o", algorithm="split"), plan("dq", "dk", "dv", algorithm="split", loads="tma"))
PLANS = {
    "pointer": (plan("o"), plan("dq", "dkdv")),
    "tma": (plan("o", loads="tma"), plan("dq", "dk", "dv", loads="tma")),
    "specialized": (
        plan("o", loads="specialized", algorithm="split"),
        plan("dq", "dk", "dv", loads="specialized", algorithm="split"),
    ),
    "split": (plan("o", algorithm="split"), plan("dq", "dk", "dv", algorithm="split")),
    "chained": tuple(one.chained() for one in SEVERAL),
    "scan": (plan("o", algorithm="scan"), plan("dq", "dk", "dv", algorithm="scan")),
    "parallel": (plan("o", algorithm="parallel"), plan("dq", "dk", "dv", algorithm="parallel", loads="tma")),
    "remainder": (plan("o", algorithm="remainder"), plan("dq", "dk", "dv", algorithm="remainder")),
    "cooperative": (
        plan("o", loads="specialized", algorithm="cooperative"),
        plan("dq", "dk", "dv", loads="specialized", algorithm="cooperative"),
    ),
    "balanced": (
        plan("o", loads="specialized", algorithm="balanced"),
        plan("dq", "dk", "dv", loads="specialized", algorithm="balanced"),
    ),
    "relay": (
        plan("o", loads="specialized", algorithm="relay"),
        plan("dq", "dk", "dv", loads="specialized", algorithm="relay"),
    ),
}

STATEFUL = tuple(name for name in PLANS if name != "parallel")
"""Those that can take and leave a state."""


def tensors(seqlen: int = SEQLEN, *, states: bool = False) -> list[torch.Tensor | None]:
    """q, k, v, slopes and a state, in a layout that every plan reads in place."""
    rows = [torch.randn(2, seqlen, HEADS, width, dtype=torch.bfloat16).transpose(1, 2) for width in (D, D, E)]
    return [*rows, torch.rand(HEADS, 1, 1), torch.randn(2, HEADS, D, E) if states else None]


def in_another_thread(call):
    """What ``call`` returns or raises in a thread of its own."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(call).result()
