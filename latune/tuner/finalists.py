"""What searches have found -> the complete plans that are worth a race."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from latune.config import Config
from latune.measurement import Measurement
from latune.plan import Plan
from latune.tuner.compose import Composer
from latune.tuner.evaluators import Evaluator
from latune.tuner.podium import ranked
from latune.tuner.ties import Raced

# Of the plans judged alone, the fastest, which are rearranged, and those that are raced: in turns, times have differed by 9%
# from those alone.
_LEADING = 3
_RACED = 12


def finalists(
    composer: Composer, evaluate: Evaluator, best: Mapping[str, Sequence[Config]], pinned: Sequence[Plan] = ()
) -> list[Plan]:
    """Of plans of the best kernels, and of what comes of rearranging the fastest until nothing is new, the fastest alone.

    The default and ``pinned`` are among them, however slow.

    Args:
        best: configs of the searched kernels, best first.
        pinned: complete plans.
    """
    alone = ranked(_judged(composer, evaluate, composer.compose(best, pinned)))
    return list(dict.fromkeys([*(plan for plan, _ in alone[:_RACED]), *composer.compose({}, pinned)]))


def _judged(composer: Composer, evaluate: Evaluator, composed: Sequence[Plan]) -> Raced:
    judged: list[tuple[Plan, Measurement]] = []
    new = list(composed)
    while new:
        evaluate.prepare(new)
        judged += [(plan, evaluate(plan)) for plan in new]
        known = {plan for plan, _ in judged}
        others = dict.fromkeys(other for plan in _leading(judged) for other in composer.rearranged(plan))
        new = [plan for plan in others if plan not in known]
    return judged


def _leading(judged: Raced) -> list[Plan]:
    """The fastest, and that of each form."""
    fastest = [plan for plan, _ in ranked(judged)]
    of_forms = {tuple(step.kernel for step in plan.steps): plan for plan in reversed(fastest)}
    return list(dict.fromkeys([*fastest[:_LEADING], *of_forms.values()]))
