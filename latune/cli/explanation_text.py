"""An explanation for a reader at a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator

from latune.cache.entry import Entry
from latune.cache.standing import Standing
from latune.cli.differences import changes_text, config_changes, plan_changes_lines
from latune.cli.explanation import LISTED_TRIALS, Explanation, Occupancy
from latune.cli.output import config_text, milliseconds, share_of_roof
from latune.cli.resolutions import resolution_lines, resources_text
from latune.ops.dispatch import tune_command
from latune.tuner.stored import FEWEST_TRIALS, StoredStudy
from latune.tuner.timing import TIE
from latune.tuner.transfer import TRANSFERRED


def explanation_text(explanation: Explanation) -> str:
    problem, resolution = explanation.problem, explanation.resolution
    lines = resolution_lines(problem, resolution)
    if resolution.entry is not None:
        is_its_own = resolution.step == "exact" and resolution.entry.problem == problem
        lines += _entry_lines(resolution.entry, "time" if is_its_own else "time where it was tuned")
        lines += ["  kernels, as compiled for the entry's shape:", *map(_occupancy_line, explanation.occupancies)]
    lines += _searches_lines(explanation)
    lines += _regret_lines(explanation)
    if resolution.step != "exact":
        lines += [f"  tune it: {tune_command(problem, resolution.gpu)}"]
    return "\n".join(lines)


def _entry_lines(entry: Entry, time: str) -> Iterator[str]:
    yield f"  {time}: {_time(entry)}"
    if entry.standing is not None:
        yield f"  race: {_standing(entry.standing)}"
    yield f"  tuned: on {entry.problem}, {entry.evidence}, {entry.tuned_at}"
    yield f"  toolchain: {', '.join(f'{name} {version}' for name, version in entry.toolchain.items() if version)}"
    if entry.alternates:
        yield "  alternates, by what they have otherwise than the winner (their times are not kept):"
    for number, plan in enumerate(entry.alternates, start=1):
        yield f"    {number}. " + "\n       ".join(plan_changes_lines(entry.plan, plan))


def _time(entry: Entry) -> str:
    measured = entry.measurement
    interval = f" [{milliseconds(measured.ci_low_ms)}, {milliseconds(measured.ci_high_ms)}]"
    how = f"{interval}, {measured.samples} samples" if measured.samples else ", predicted"
    roof = f"{share_of_roof(entry.roof_ms, measured.median_ms)} of the roof, {milliseconds(entry.roof_ms)} ms"
    return f"{milliseconds(measured.median_ms)} ms{how}; {roof}"


def _standing(standing: Standing) -> str:
    if not standing.rivals:
        return "no other plan passed"
    others = f"against {standing.rivals} other plan{'s' * (standing.rivals != 1)}"
    # Never surer than it is.
    sure, near = math.floor(100 * standing.certainty), f"within {TIE - 1:.0%} of the best"
    settled = f"at least {sure}% sure to be {near}" if sure >= 50 else f"not settled whether it is {near}"
    return f"{others}; {standing.ties} {'ties' if standing.ties == 1 else 'tie'} with the fastest; {settled}"


def _occupancy_line(occupancy: Occupancy) -> str:
    programs = f"{occupancy.programs} program{'s' * (occupancy.programs != 1)} on an SM"
    return f"    {resources_text(occupancy.kernel)}; {programs}, limited by {' and '.join(occupancy.limits)}"


def _searches_lines(explanation: Explanation) -> Iterator[str]:
    searched, entry = explanation.searched, explanation.resolution.entry
    if searched is None:
        transferred = entry is not None and entry.evidence == TRANSFERRED
        why = "the winner was transferred from other buckets" if transferred else "none are kept on this machine"
        yield f"  searches: {why}; `{tune_command(explanation.problem, explanation.resolution.gpu)}` makes them"
        return
    yield f"  searches of {searched.entry.problem}, {searched.entry.evidence}:"
    more = f"`{tune_command(searched.entry.problem, explanation.resolution.gpu)}` with more --trials goes on with it"
    for study in searched.studies:
        yield from (f"    {line}" for line in _study_lines(study, more))


def _study_lines(study: StoredStudy, more: str) -> Iterator[str]:
    ranked = study.ranked
    correct = f"{len(ranked)} of {len(study.trials)} trials correct"
    yield f"{study.kernel}: {correct}; the fastest, then what runners-up have otherwise:"
    for trial in ranked[:LISTED_TRIALS]:
        differs = changes_text(config_changes(ranked[0].config, trial.config)) or config_text(trial.config)
        yield f"  {milliseconds(trial.measurement.median_ms)} ms: {differs}"
    if study.importance is None:
        yield f"  importance of parameters: {len(ranked)} correct trials are too few, PED-ANOVA takes {FEWEST_TRIALS}; {more}"
    else:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in study.importance.items())
        yield f"  importance of parameters, by PED-ANOVA: {shares}"


def _regret_lines(explanation: Explanation) -> Iterator[str]:
    for known in explanation.regrets:
        regret = known.regret
        times = f"{milliseconds(regret.served_ms)} ms served, {milliseconds(regret.tuned_ms)} ms tuned"
        yield f"  regret: {regret.share:.1%} at {regret.problem}, {known.evidence}: {times}"
    if not explanation.regrets:
        command = explanation.regret_command
        yield f"  regret: not measured{'' if command is None else f'; `{command}` measures it'}"
