"""What `latune doctor` has come to: a table, JSON, and the exit code."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import click

from latune.cache.entry import Entry
from latune.cli.entries import fail_for, mend_command
from latune.cli.output import INTERRUPTED, milliseconds, print_table, say
from latune.errors import LatuneError
from latune.gpu import Gpu
from latune.tuner.doctor import Finding, Rival, Unchecked

_COLUMNS = ("bucket", "ms now", "best other", "winner / other", "verdict", "toolchain", "detail")
_NAMED = 8


@dataclass(slots=True, kw_only=True)
class CheckUp:
    """Entries, in the order in which they are examined, and what has come of the first of them."""

    gpu: Gpu
    entries: list[Entry]
    results: list[Finding | Unchecked] = field(default_factory=list)
    interrupted: bool = False

    def follow(self, results: Iterable[Finding | Unchecked]) -> None:
        """Takes the results as they come, until Ctrl-C."""
        try:
            for result in results:
                self.results.append(result)
                said = result.verdict if isinstance(result, Finding) else f"not checked: {result.why}"
                say(f"[{len(self.results)}/{len(self.entries)}] {result.entry.bucket}: {said}")
        except KeyboardInterrupt:
            self.interrupted = True

    @property
    def findings(self) -> list[Finding]:
        return [result for result in self.results if isinstance(result, Finding)]

    @property
    def unchecked(self) -> list[Unchecked]:
        why = "interrupted" if self.interrupted else "the time was up: --time-budget gives more"
        left = [Unchecked(entry=entry, why=why) for entry in self.entries[len(self.results) :]]
        return [result for result in self.results if isinstance(result, Unchecked)] + left

    def print_table(self) -> None:
        if self.findings:
            print_table(_COLUMNS, [_row(finding) for finding in self.findings], right=_COLUMNS[1:2])

    def to_json(self) -> dict[str, object]:
        return {
            "gpu": self.gpu.name,
            "interrupted": self.interrupted,
            "findings": [_finding_json(finding, self.gpu) for finding in self.findings],
            "unchecked": [{"bucket": one.entry.bucket.to_json(), "why": one.why} for one in self.unchecked],
        }

    def exit(self) -> None:
        """Says what is not checked, and what mends what does not hold; ends the command after Ctrl-C or a failure.

        Raises:
            LatuneError: an entry does not hold, or none was checked.
        """
        self._say_unchecked()
        if self.interrupted:
            raise click.exceptions.Exit(INTERRUPTED)
        if not self.findings:
            raise LatuneError(f"none of {len(self.entries)} entries was checked: {self.unchecked[0].why}")
        fail_for([finding.entry for finding in self.findings if not finding.holds], len(self.findings), self.gpu)

    def _say_unchecked(self) -> None:
        by_why: dict[str, list[str]] = {}
        for one in self.unchecked:
            by_why.setdefault(one.why, []).append(str(one.entry.bucket))
        for why, buckets in by_why.items():
            more = f"; and {len(buckets) - _NAMED} more" if len(buckets) > _NAMED else ""
            named = "; ".join(buckets[:_NAMED])
            say(f"{len(buckets)} of {len(self.entries)} entries are not checked ({why}): {named}{more}")


def _row(finding: Finding) -> list[str]:
    rival = finding.rival
    compared = ["-", "-"] if rival is None else [rival.name, _ratio(rival)]
    return [
        str(finding.entry.bucket),
        milliseconds(finding.winner_ms),
        *compared,
        finding.verdict,
        "\n".join(f"{name} {then} -> {now}" for name, (then, now) in finding.toolchain.items()) or "the same",
        finding.detail,
    ]


def _ratio(rival: Rival) -> str:
    return f"{rival.ratio:.3f} [{rival.ratio_low:.3f}, {rival.ratio_high:.3f}]"


def _finding_json(finding: Finding, gpu: Gpu) -> dict[str, object]:
    return {
        "bucket": finding.entry.bucket.to_json(),
        "verdict": finding.verdict,
        "detail": finding.detail,
        "winner_ms": finding.winner_ms,
        "rival": None if finding.rival is None else _rival_json(finding.rival),
        "toolchain": {name: {"then": then, "now": now} for name, (then, now) in finding.toolchain.items()},
        "mend": None if finding.holds else mend_command(finding.entry, gpu),
    }


def _rival_json(rival: Rival) -> dict[str, object]:
    return {
        "name": rival.name,
        "plan": rival.plan.to_json(),
        "winner_takes_times": {"median": rival.ratio, "ci_low": rival.ratio_low, "ci_high": rival.ratio_high},
    }
