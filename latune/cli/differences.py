"""What differs between two plans, and nothing else of them."""

from __future__ import annotations

from collections.abc import Mapping

from latune.cli.output import plan_lines
from latune.config import Config
from latune.plan import Plan

Value = str | int | None
"""Of a parameter; None where it does not apply."""

Changes = Mapping[str, tuple[Value, Value]]
"""By parameter, what it is here and what it is there."""


def config_changes(here: Config, there: Config) -> dict[str, tuple[Value, Value]]:
    """The parameters on which two configs differ."""
    ours, theirs = here.values(), there.values()
    pairs = {name: (ours.get(name), theirs.get(name)) for name in ours | theirs}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def plan_changes(here: Plan, there: Plan) -> dict[str, Changes]:
    """By kernel, of those that both plans have and run under different configs."""
    theirs = {step.kernel: step.config for step in there.steps}
    changes = {step.kernel: config_changes(step.config, theirs[step.kernel]) for step in here.steps if step.kernel in theirs}
    return {kernel: changed for kernel, changed in changes.items() if changed}


def changes_text(changes: Changes) -> str:
    """``BLOCK_E 64 -> 128, num_stages 3 -> 4``; a dash where a parameter does not apply."""
    words = (f"{name} {_shown(ours)} -> {_shown(theirs)}" for name, (ours, theirs) in changes.items())
    return ", ".join(words)


def plan_changes_lines(here: Plan, there: Plan) -> list[str]:
    """A line for each set of changes, then the kernels that only the other plan has; kernels changed alike share a line."""
    alike: dict[str, list[str]] = {}
    for kernel, changes in plan_changes(here, there).items():
        alike.setdefault(changes_text(changes), []).append(kernel)
    lines = [f"{', '.join(kernels)}: {text}" for text, kernels in alike.items()]
    if there.is_chained != here.is_chained:
        lines.append("launches chained" if there.is_chained else "launches not chained")
    return [*lines, *_replaced_lines(here, there)]


def _replaced_lines(here: Plan, there: Plan) -> list[str]:
    ours, theirs = ({step.kernel: step for step in plan.steps} for plan in (here, there))
    new = Plan(tuple(step for kernel, step in theirs.items() if kernel not in ours))
    old = [kernel for kernel in ours if kernel not in theirs]
    if not new.steps:
        return []
    return [f"in place of {', '.join(old)}:", *(f"  {line}" for line in plan_lines(new).splitlines())]


def _shown(value: Value) -> str:
    return "-" if value is None else str(value)
