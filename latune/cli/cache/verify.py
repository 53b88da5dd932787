"""``latune cache verify``: could every entry of a cache file serve, as far as that can be told without its GPU?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from latune import paths
from latune.cache.entry import Entry
from latune.cache.files import CacheFile, dispatched_files, find_file
from latune.cli.cache.arguments import FILE
from latune.cli.cache.rebuilding import rebuild
from latune.cli.entries import mend_command
from latune.cli.options import jobs_option, json_option
from latune.cli.output import plan_lines, print_json, print_table
from latune.cli.verdict import Verdict
from latune.codegen.render import plan_sha256
from latune.errors import LatuneError
from latune.gpu import Gpu
from latune.tuner.evidence import contradictions

_FILE_COLUMNS = ("file", "GPU", "entries", "failed", "state")
_ENTRY_COLUMNS = ("file", "bucket", "evidence", "plan", "verdict", "detail")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A file, and the verdicts on its entries; none where it cannot be read."""

    file: CacheFile
    verdicts: list[Verdict]

    @property
    def failed(self) -> list[Verdict]:
        return [verdict for verdict in self.verdicts if not verdict.ok]

    @property
    def gpu(self) -> Gpu:
        assert self.file.gpu is not None, "what has entries can be read"
        return self.file.gpu

    @property
    def output(self) -> Path | None:
        """Where what mends an entry has to write: None is the user's cache."""
        folder = self.file.path.parent
        return None if folder == paths.user_cache() else folder


@click.command("verify", short_help="Checks cache files, compiling their plans.")
@click.argument("given", metavar="[FILE]...", type=FILE, nargs=-1)
@click.option("--no-build", is_flag=True, help="Compile nothing: seconds in place of minutes.")
@jobs_option
@json_option
def verify_command(given: Sequence[Path], no_build: bool, jobs: int | None, as_json: bool) -> None:
    """Checks cache FILEs, by default all that the dispatcher reads, without their GPUs.

    Each follows the schema. Each entry is of the code that its plan is generated as now, and its measurement could be the
    tuner's: not faster than physics, within tolerance, no prediction that poses as measured. Winner and alternates compile for
    the file's GPU, the winner to the resources stated and also as it hands over to, or takes from, the other direction's, and
    fit it. Exit code 1 when anything fails, with the command that mends the first. What runs on the GPU is compared with
    references by `latune verify`.
    """
    files = [find_file(path) for path in given] or dispatched_files()
    if not files:
        raise LatuneError(f"no cache files in {paths.user_cache()} and {paths.shipped_cache()}: `latune tune` writes them")
    checked = [Checked(file=file, verdicts=_unbuilt(file)) for file in files]
    if not no_build:
        checked = _built(checked, jobs)
    if as_json:
        print_json({"files": [_file_json(one) for one in checked]})
    else:
        _print_tables(checked)
    _fail_for(checked)


def _unbuilt(file: CacheFile) -> list[Verdict]:
    """By what can be told without a compiler."""
    if file.cache is None:
        return []
    gpu, entries = file.cache.gpu, file.cache.entries.values()
    return [_claimed(entry, gpu, entry.why_stale(plan_sha256)) for entry in entries]


def _claimed(entry: Entry, gpu: Gpu, why_stale: str | None) -> Verdict:
    if why_stale is not None:
        return Verdict(entry=entry, verdict="stale", detail=why_stale)
    wrong = "; ".join(contradictions(entry, gpu))
    return Verdict(entry=entry, verdict="contradiction" if wrong else "ok", detail=wrong)


def _built(checked: Sequence[Checked], jobs: int | None) -> list[Checked]:
    """With what compiling has shown of those that are ok so far."""
    sound = [(one.gpu, verdict.entry) for one in checked for verdict in one.verdicts if verdict.ok]
    found = rebuild(sound, jobs)
    return [
        replace(one, verdicts=[found.get((one.gpu, verdict.entry), verdict) for verdict in one.verdicts]) for one in checked
    ]


def _print_tables(checked: Sequence[Checked]) -> None:
    print_table(_FILE_COLUMNS, [_file_row(one) for one in checked], right=_FILE_COLUMNS[2:4])
    if rows := [_entry_row(one, verdict) for one in checked for verdict in one.failed]:
        print_table(_ENTRY_COLUMNS, rows)


def _file_row(one: Checked) -> list[str]:
    counts = [str(len(one.verdicts)), str(len(one.failed))] if one.file.cache else ["-", "-"]
    state = one.file.fault or ("failed" if one.failed else "ok")
    return [str(one.file.path), one.file.gpu.title if one.file.gpu else "-", *counts, state]


def _entry_row(one: Checked, verdict: Verdict) -> list[str]:
    entry = verdict.entry
    plan = plan_lines(entry.plan)
    return [str(one.file.path), str(entry.bucket), entry.evidence, plan, verdict.verdict, verdict.detail]


def _file_json(one: Checked) -> dict[str, object]:
    entries = [verdict.to_json(one.gpu, one.output) for verdict in one.verdicts]
    gpu = one.file.gpu.name if one.file.gpu else None
    return {"path": str(one.file.path), "gpu": gpu, "fault": one.file.fault, "entries": entries}


def _fail_for(checked: Sequence[Checked]) -> None:
    """Names the first failure.

    Raises:
        LatuneError: there is one.
    """
    files = [one for one in checked if one.file.fault]
    entries = [(one, verdict) for one in checked for verdict in one.failed]
    if not files and not entries:
        return
    total = sum(len(one.verdicts) for one in checked)
    count = f"{len(entries)} of {total} entries and {len(files)} of {len(checked)} files failed"
    raise LatuneError(f"{count}; first {_file_fault(files[0]) if files else _entry_fault(*entries[0])}")


def _file_fault(one: Checked) -> str:
    return f"{one.file.path}: {one.file.fault}; restore it, or move it away and tune anew"


def _entry_fault(one: Checked, verdict: Verdict) -> str:
    command = mend_command(verdict.entry, one.gpu, one.output)
    return f"{verdict.entry.bucket} in {one.file.path}: {verdict.verdict}, {verdict.detail}; tune it anew: {command}"
