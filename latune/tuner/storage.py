"""Where studies are kept: a database, or a journal file that kill -9 and a damaged line leave readable."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import optuna
from filelock import FileLock
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from latune import paths
from latune.cache.disk import set_aside
from latune.errors import StudyError

_LOCK_TIMEOUT_S = 60
_JOURNAL = ".journal"
# As Optuna begins each line of a journal.
_BEGINS = b'{"op_code":'
_ATTEMPTS = 5
_PAUSE_S = 0.1


def open_storage(storage: str | None, name: str) -> BaseStorage | str:
    """What Optuna takes for ``storage``, as ``latune tune --storage`` has it.

    Args:
        storage: a database URL, a journal file, or the folder for one; None: under the user's cache root.
        name: the study's; a journal of its own is named after it.
    """
    if _is_url(storage):
        return storage
    folder = _folder(storage)
    path = Path(str(storage)) if folder is None else folder / f"{name}{_JOURNAL}"
    path.parent.mkdir(parents=True, exist_ok=True)
    # The operating system releases this lock when its holder is killed; Optuna's own would be waited for.
    lock = FileLock(f"{path}.lock", timeout=_LOCK_TIMEOUT_S)
    with lock:
        _mend(path)
    return JournalStorage(_Journal(path, lock))


def study_names(storage: str | None, prefix: str) -> list[str]:
    """Names of the studies in a storage that begin with ``prefix``, in alphabetical order; none where there is no such storage.

    Args:
        storage: see ``open_storage``.
    """
    if not _is_url(storage) and (folder := _folder(storage)) is not None:
        names = [path.name.removesuffix(_JOURNAL) for path in folder.glob(f"*{_JOURNAL}")]
    elif _is_there(str(storage)):
        names = optuna.get_all_study_names(open_storage(storage, ""))
    else:
        names = []
    return sorted(name for name in names if name.startswith(prefix))


def _is_there(storage: str) -> bool:
    """Whether there is a storage to open: SQLite makes what is not."""
    if not _is_url(storage):
        return Path(storage).is_file()
    url = make_url(storage)
    if url.get_backend_name() != "sqlite" or not url.database or url.database.startswith("file:"):
        return True
    return Path(url.database).is_file()


def _is_url(storage: str | None) -> bool:
    return storage is not None and "://" in storage


def _folder(storage: str | None) -> Path | None:
    """Where studies have a journal each; None: they share a file."""
    path = paths.studies() if storage is None else Path(storage)
    return None if path.suffix and not path.is_dir() else path


def opened_study(name: str, storage: str | None, *, fresh: bool = False) -> optuna.Study:
    """The study of that name, made if it is not there.

    Args:
        storage: as in ``open_storage``.
        fresh: forget what it holds.

    Raises:
        StudyError: the storage cannot be opened or read.
    """
    with storage_errors(storage):
        for attempt in range(1, _ATTEMPTS):
            # Processes that make a database's tables, or a study, at the same time stand in each other's way.
            with suppress(SQLAlchemyError, optuna.exceptions.DuplicatedStudyError):
                return _opened_once(name, storage, fresh)
            time.sleep(attempt * _PAUSE_S)
        return _opened_once(name, storage, fresh)


def _opened_once(name: str, storage: str | None, fresh: bool) -> optuna.Study:
    opened = open_storage(storage, name)
    if fresh and name in optuna.get_all_study_names(opened):
        optuna.delete_study(study_name=name, storage=opened)
    return optuna.create_study(storage=opened, study_name=name, load_if_exists=True)


@contextmanager
def storage_errors(storage: str | None) -> Iterator[None]:
    """Turns what a storage raises into one line with its remedy.

    Raises:
        StudyError: evaluations cannot be kept in, or read from, the storage.
    """
    try:
        yield
    except (OSError, ImportError, SQLAlchemyError, optuna.exceptions.OptunaError, ValueError) as error:
        remedy = "set LATUNE_CACHE_DIR to a folder you can write to" if storage is None else "name another with --storage"
        raise _study_error("keep", storage, error, remedy) from error
    except (LookupError, TypeError, AttributeError, AssertionError) as error:
        remedy = "begin anew with --fresh, or remove what is there"
        raise _study_error("read", storage, error, remedy) from error


def _study_error(verb: str, storage: str | None, error: Exception, remedy: str) -> StudyError:
    where = f"the folder {paths.studies()}" if storage is None else repr(storage)
    line = next(iter(str(error).strip().splitlines()), "")
    return StudyError(f"cannot {verb} evaluations in {where}: {type(error).__name__}: {line}; {remedy}")


class _Journal(JournalFileBackend):
    """Lines of others that were killed as they wrote are no part of it: what comes next does not go behind half a line."""

    def __init__(self, path: Path, lock: FileLock) -> None:
        super().__init__(str(path), lock_obj=lock)  # type: ignore[arg-type]
        self._path, self._held = path, lock

    def append_logs(self, logs: list[dict[str, object]]) -> None:
        with self._held:
            _cut_half_line(self._path)
            super().append_logs(logs)


def _cut_half_line(path: Path) -> None:
    with path.open("r+b") as stream:
        end = stream.seek(0, os.SEEK_END)
        stream.seek(max(end - 1, 0))
        if stream.read() not in (b"", b"\n"):
            stream.seek(0)
            stream.truncate(stream.read().rfind(b"\n") + 1)


def _mend(path: Path) -> None:
    """Cuts off a last line that a crash left without its end; sets a journal aside that is damaged anywhere else.

    Optuna reads past neither.

    Raises:
        ValueError: the file is no journal at all; it is left as it is.
    """
    text = path.read_bytes() if path.is_file() else b""
    whole = text[: text.rfind(b"\n") + 1]
    records = [_is_record(line) for line in whole.splitlines()]
    # A crash may have cut the very first record.
    if not any(records) and text[: len(_BEGINS)] != _BEGINS[: len(text)]:
        raise ValueError(f"expected a journal at {path}, got another file; for a database give its URL, sqlite:///FILE")
    if whole != text:
        _cut_half_line(path)
    if not all(records):
        aside = set_aside(path)
        warnings.warn(f"latune: the study {path} is damaged and was set aside as {aside.name}", stacklevel=2)


def _is_record(line: bytes) -> bool:
    try:
        record = json.loads(line)
        return isinstance(record, dict) and isinstance(record.get("op_code"), int)
    except (ValueError, RecursionError):
        return False
