"""Files of regrets: what `latune regret` writes and goes on from, and what it keeps for `latune explain`."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path

from latune import paths
from latune.cache import disk
from latune.cache.store import brief
from latune.cli.output import json_text, make_folder, say, write_text
from latune.codegen.templates import generator_sha256
from latune.errors import LatuneError
from latune.gpu import Gpu
from latune.tuner.regret import Regret


@dataclass(frozen=True, slots=True, kw_only=True)
class RegretFile:
    """The regrets of one GPU, of one kind of evidence and of what generates today.

    Attributes:
        evidence: ``measured`` or ``static``.
        by_problem: by the problem's text.
    """

    path: Path
    gpu: Gpu
    evidence: str
    by_problem: dict[str, Regret]

    @classmethod
    def open(cls, path: Path, gpu: Gpu, evidence: str) -> RegretFile:
        """A file that a user has named; it need not be there yet.

        Raises:
            LatuneError: it is no such file, or another GPU's or other templates', or its folder is not there.
        """
        if not path.exists() and not path.parent.is_dir():
            raise LatuneError(f"cannot write {path}: there is no folder {path.parent}; give a path you can write to")
        made, by_problem = _read(path)
        if made not in (None, _made(gpu, evidence)):
            raise LatuneError(f"{path} is of {made[0]}, {made[1]}, or of other templates: name another file, or remove it")
        return cls(path=path, gpu=gpu, evidence=evidence, by_problem=by_problem)

    @classmethod
    def kept(cls, gpu: Gpu, evidence: str) -> RegretFile:
        """The file under the user's cache root; what it has of other templates is forgotten, and a damaged one set aside."""
        path = paths.regrets() / f"{gpu.file_stem}-{evidence}.json"
        try:
            made, by_problem = _read(path)
        except LatuneError as error:
            _set_aside(path, error)
            made, by_problem = None, {}
        is_current = made == _made(gpu, evidence)
        return cls(path=path, gpu=gpu, evidence=evidence, by_problem=by_problem if is_current else {})

    def add(self, regret: Regret) -> None:
        """Keeps one more, in place of what the file has of its problem, beside what others have kept there since it was read.

        Raises:
            LatuneError: it cannot be written.
        """
        make_folder(self.path.parent)
        try:
            with disk.locked(self.path):
                made, kept = _read(self.path)
                self.by_problem.update(kept if made == _made(self.gpu, self.evidence) else {})
                self.by_problem[regret.problem] = regret
                write_text(self.path, json_text(self._to_json()) + "\n")
        except OSError as error:
            raise LatuneError(f"cannot write {self.path}: {error}; give a path you can write to") from error

    def _to_json(self) -> dict[str, object]:
        regrets = list(self.by_problem.values())
        worst = max(regrets, key=lambda regret: regret.share)
        return {
            "gpu": self.gpu.name,
            "evidence": self.evidence,
            "templates_sha256": generator_sha256(),
            "median": statistics.median(regret.share for regret in regrets),
            "worst": {"problem": worst.problem, "regret": worst.share},
            "regrets": [regret.to_json() for regret in regrets],
        }


def _made(gpu: Gpu, evidence: str) -> tuple[str, str, str]:
    """What the regrets of one file have in common."""
    return gpu.name, evidence, generator_sha256()


def _set_aside(path: Path, error: LatuneError) -> None:
    """A file that is in the way of none but those who would read it; where that cannot be done, it is left."""
    try:
        aside = disk.set_aside(path)
    except OSError:
        say(f"{error}: no regret is known")
    else:
        say(f"{path} is damaged and was set aside as {aside.name}: no regret is known")


def _read(path: Path) -> tuple[tuple[str, str, str] | None, dict[str, Regret]]:
    """(GPU, evidence, templates) and the regrets that a file has of them; None and none where there is no file.

    Raises:
        LatuneError: it is another kind of file.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        regrets = [Regret.from_json(fields) for fields in document["regrets"]]
        made = document["gpu"], document["evidence"], document["templates_sha256"]
    except FileNotFoundError:
        return None, {}
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        what = f"expected what `latune regret` wrote, got {type(error).__name__}: {brief(error)}"
        raise LatuneError(f"{path}: {what}; name another file, or remove it") from error
    return made, {regret.problem: regret for regret in regrets}
