"""``latune tune --transfer`` whose second race has the first one's best plan chained, or not, and cut otherwise, and no more.

Run as ``python docs/results/transfer_without_starts.py tune --transfer ...``; tidied since it ran. A bucket takes a third of
the time: enough where its neighbours have just been raced in full.
"""

from __future__ import annotations

from latune.cli.main import main
from latune.plan import Plan
from latune.tuner.compose import Composer


def variants(self: Composer, plan: Plan) -> list[Plan]:
    others = dict.fromkeys((self._chained(plan) or plan, plan.unchained(), *self._behind(plan)))
    return [other for other in others if other != plan and self._allows(other)]


if __name__ == "__main__":
    Composer.variants = variants  # type: ignore[method-assign]
    main()
