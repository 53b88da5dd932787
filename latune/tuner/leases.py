"""Who evaluates which candidate, where several processes work on one study.

A lease is a trial of the study that never completes. Of several on one candidate the one that the storage numbered first holds:
storages number trials one after another, whoever adds them, and so no lock is needed that a dead process could keep.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

_KEY = "lease"
# Of a holder on another host, whose death nobody here sees: longer than an evaluation may take, its references included.
_LONGEST_S = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A process, told from all others and from those that later have its number.

    Attributes:
        born: when the system says that the process began, in clock ticks since the host's start; empty where it does not.
    """

    host: str
    pid: int
    born: str

    @classmethod
    def here(cls) -> Holder:
        return cls(host=socket.gethostname(), pid=os.getpid(), born=_born(os.getpid()))

    def is_gone(self, since_s: float) -> bool:
        """Whether it has died, or is of another host and has held its lease for longer than anything takes.

        Args:
            since_s: seconds that it has held it for.
        """
        if self.host != socket.gethostname():
            return since_s > _LONGEST_S
        return not _exists(self.pid) or _born(self.pid) != self.born


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """What this process has to itself until it releases it.

    Attributes:
        number: of the trial that says so.
    """

    study: optuna.Study
    number: int

    @classmethod
    def take(cls, study: optuna.Study, candidate: str) -> Lease | None:
        """None where another process has the candidate.

        Args:
            candidate: its name in the study.

        Raises:
            StorageInternalError: the storage has lost the lease.
        """
        if _holding(study, candidate):
            return None
        token = uuid.uuid4().hex
        terms = {"candidate": candidate, "token": token, "holder": asdict(Holder.here()), "since": time.time()}
        study.add_trial(create_trial(state=TrialState.RUNNING, user_attrs={_KEY: terms}))
        holding = _holding(study, candidate)
        numbers = [trial.number for trial in holding if trial.user_attrs[_KEY]["token"] == token]
        if not numbers:
            raise optuna.exceptions.StorageInternalError("what has just been stored is not there")
        own = cls(study=study, number=numbers[0])
        if holding[0].number == own.number:
            return own
        own.release()
        return None

    def release(self) -> None:
        self.study.tell(self.number, state=TrialState.FAIL)


def _holding(study: optuna.Study, candidate: str) -> list[FrozenTrial]:
    """The leases on it whose holders live, the one that holds first."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [trial for trial in running if _is_live(trial, candidate)]


def _is_live(trial: FrozenTrial, candidate: str) -> bool:
    lease = trial.user_attrs.get(_KEY)
    if lease is None or lease["candidate"] != candidate:
        return False
    return not Holder(**lease["holder"]).is_gone(time.time() - lease["since"])


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _born(pid: int) -> str:
    """The 22nd field of Linux's ``/proc/PID/stat``, whose second may hold blanks; empty of a process that has died, too."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    state, *others = text.rpartition(")")[2].split()
    return "" if state == "Z" else others[18]
