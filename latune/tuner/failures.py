"""Builds that took down, or stalled, the process that ran them: remembered, so that no later run steps on them again."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import cached_property

import optuna

from latune.measurement import Measurement
from latune.problem import Problem
from latune.tuner.storage import opened_study, storage_errors

_REMEMBERED = ("illegal_access", "timeout")


class Failures:
    """What has befallen builds on one kind of GPU with one toolchain, whatever search or template they were of.

    It is opened when it is first asked.

    Args:
        gpu: the GPU's name.
        toolchain: versions by name, as ``evaluators.measured_toolchain`` has them.
        storage: where searches are kept; see ``storage.open_storage``.
        fresh: recall nothing that earlier runs remembered.

    Raises:
        StudyError: the storage cannot be opened, read or written; so do both methods.
    """

    def __init__(
        self, gpu: str, toolchain: Mapping[str, str | None], storage: str | None = None, *, fresh: bool = False
    ) -> None:
        versions = (f"{name}{toolchain[name]}" for name in ("protocol", "triton", "torch", "cuda", "driver"))
        self._name = re.sub(r"[^\w.-]", "-", "-".join(("failures", gpu, *versions)))
        self._storage = storage
        self._fresh = fresh

    def recall(self, problem: Problem, build: str) -> Measurement | None:
        """How the build failed on the problem; None where it did not, or nobody has tried.

        Args:
            build: what tells its machine code and grids from all others.
        """
        key = _key(problem, build)
        if key in self._forgotten or (kept := self._attributes.get(key)) is None:
            return None
        failed = Measurement.from_json(kept)
        return Measurement(outcome=failed.outcome, detail=f"{failed.detail} (known, not tried again)")

    def keep(self, problem: Problem, build: str, measurement: Measurement) -> None:
        """Remembers what took a process with it; anything else is cheap to find out again."""
        if measurement.outcome in _REMEMBERED:
            with storage_errors(self._storage):
                self._study.set_user_attr(_key(problem, build), measurement.to_json())

    @cached_property
    def _study(self) -> optuna.Study:
        return opened_study(self._name, self._storage)

    @cached_property
    def _forgotten(self) -> frozenset[str]:
        return frozenset(self._attributes) if self._fresh else frozenset()

    @property
    def _attributes(self) -> Mapping[str, dict[str, object]]:
        study = self._study
        with storage_errors(self._storage):
            return study.user_attrs


def _key(problem: Problem, build: str) -> str:
    return hashlib.sha256(f"{problem!r} {build}".encode()).hexdigest()
