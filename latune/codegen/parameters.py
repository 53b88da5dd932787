"""Parameters and constraints of a search space, made from its file.

An expression that reads a parameter absent from a config does not apply to that config: a constraint over
``PROGRAMS`` says nothing about sequential kernels, and needs no guard.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from latune.codegen.expression import RESERVED_NAMES, Expression
from latune.codegen.space_file import ParameterEntry, SpaceFile
from latune.errors import SpaceError

_ALWAYS_PRESENT = {"algorithm": "algorithm", "num_warps": "launch", "num_stages": "launch"}
_LAUNCH_OPTIONS = ("num_warps", "num_stages", "num_ctas", "maxnreg")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One axis of a space.

    Attributes:
        kind: ``algorithm``, ``choice``, ``constexpr`` or ``launch``: where in a ``Config`` its value goes.
        values: all it may take; numbers ascend.
        about: one line for readers.
        when: it is part of a config only where this holds; None: always.
    """

    name: str
    kind: str
    values: tuple[str | int, ...]
    about: str
    when: Expression | None = None

    @property
    def ordinal(self) -> bool:
        """Its values are ordered, so that neighbours in ``values`` are likely to perform alike."""
        return self.kind in ("constexpr", "launch")

    @property
    def reads(self) -> frozenset[str]:
        """What decides whether it applies."""
        return self.when.names if self.when else frozenset()

    def applies(self, names: Mapping[str, object]) -> bool:
        """Whether it is part of a config, given the case's names and the values chosen before it."""
        return self.when is None or (self.when.names <= names.keys() and self.when.truth(names))


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """What must hold of a config wherever ``when`` does, and the reason users are given."""

    require: Expression
    why: str
    when: Expression | None = None

    @property
    def names(self) -> frozenset[str]:
        return self.require.names | (self.when.names if self.when else frozenset())

    def allows(self, names: Mapping[str, object]) -> bool:
        if not self.names <= names.keys():
            return True
        return not (self.when is None or self.when.truth(names)) or self.require.truth(names)


def read_parameters(file: SpaceFile, path: Path) -> Iterator[Parameter]:
    """The parameters in the file's order, which is the order in which values are chosen."""
    earlier: list[str] = []
    for name, entry in file.parameters.items():
        key = f"{path}: parameters.{name}"
        _check_name(name, entry, key)
        when = Expression.parse(entry.when, origin=f"{key}.when", parameters=earlier) if entry.when else None
        yield Parameter(name=name, kind=entry.kind, values=entry.listed(), about=entry.about, when=when)
        earlier.append(name)
    for name in _ALWAYS_PRESENT:
        if name not in file.parameters:
            raise SpaceError(f"{path}: parameters.{name}: missing; add it (every config has one)")


def _check_name(name: str, entry: ParameterEntry, key: str) -> None:
    if not name.isidentifier() or name in RESERVED_NAMES:
        raise SpaceError(f"{key}: expected an identifier other than {', '.join(sorted(RESERVED_NAMES))}; rename the parameter")
    if entry.kind == "launch" and name not in _LAUNCH_OPTIONS:
        raise SpaceError(f"{key}: unknown launch option; expected one of {', '.join(_LAUNCH_OPTIONS)}")
    if entry.kind == "launch" and entry.listed()[0] < 1:
        raise SpaceError(f"{key}.values: expected integers >= 1, got {entry.listed()[0]}; mend them")
    kind = _ALWAYS_PRESENT.get(name)
    if kind and (entry.kind != kind or entry.when):
        raise SpaceError(f"{key}: expected kind {kind} and no when, since every config has one, got kind {entry.kind}; mend it")
    if entry.kind == "algorithm" and name != "algorithm":
        raise SpaceError(f"{key}: kind algorithm belongs to the parameter 'algorithm' alone; make this one a choice")


def check_served_by_templates(file: SpaceFile, path: Path, shipped: SpaceFile) -> None:
    """A user's file may narrow choices, move ranges and add launch options; templates know what the shipped file lists.

    What none of the file's values lets apply may be left out.

    Raises:
        SpaceError: the file leaves another parameter out, or has one, or a choice, that no template knows.
    """
    for name, known in shipped.parameters.items():
        if name not in file.parameters:
            if not _may_apply(known, file, shipped):
                continue
            raise SpaceError(f"{path}: parameters.{name}: missing; add it (a single value pins it)")
        entry = file.parameters[name]
        if entry.kind != known.kind:
            raise SpaceError(f"{path}: parameters.{name}.kind: expected {known.kind}, got {entry.kind}; mend it")
        foreign = [] if entry.numeric else [value for value in entry.listed() if value not in known.listed()]
        if foreign:
            expected = ", ".join(map(str, known.listed()))
            raise SpaceError(f"{path}: parameters.{name}.values: no template knows {foreign[0]!r}; expected some of {expected}")
    for name, entry in file.parameters.items():
        if name not in shipped.parameters and entry.kind != "launch":
            raise SpaceError(f"{path}: parameters.{name}: no template knows it; expected {', '.join(shipped.parameters)}")


def _may_apply(known: ParameterEntry, file: SpaceFile, shipped: SpaceFile) -> bool:
    """Whether a parameter that the file leaves out would be part of some config of it; what depends on the problem may be."""
    if known.when is None:
        return True
    when = Expression.parse(known.when, origin="when", parameters=shipped.parameters)
    if not when.names <= file.parameters.keys():
        return when.names.isdisjoint(shipped.parameters.keys() - file.parameters.keys())
    listed = {name: file.parameters[name].listed() for name in when.names}
    return any(when.truth(dict(zip(listed, values, strict=True))) for values in itertools.product(*listed.values()))


def read_constraints(file: SpaceFile, path: Path) -> Iterator[Constraint]:
    """The constraints in the file's order."""
    names = list(file.parameters)
    for index, entry in enumerate(file.constraints):
        key = f"{path}: constraints.{index}"
        when = Expression.parse(entry.when, origin=f"{key}.when", parameters=names) if entry.when else None
        require = Expression.parse(entry.require, origin=f"{key}.require", parameters=names)
        yield Constraint(require=require, why=entry.why, when=when)


def read_defaults(file: SpaceFile, path: Path) -> dict[str, str | int | Expression]:
    """For each parameter its default, or the expression that gives it."""
    unknown = [name for name in file.default if name not in file.parameters]
    if unknown:
        raise SpaceError(f"{path}: default.{unknown[0]}: unknown key; expected one of {', '.join(file.parameters)}")
    defaults: dict[str, str | int | Expression] = {}
    for name, entry in file.parameters.items():
        if name not in file.default:
            raise SpaceError(f"{path}: default.{name}: missing; add it")
        defaults[name] = _default(file.default[name], entry, f"{path}: default.{name}", list(defaults))
    return defaults


def read_starts(file: SpaceFile, path: Path) -> Iterator[dict[str, str | int]]:
    """Values that a search tries early. One that its parameter does not list is no mistake: a user's file may be narrower."""
    for index, start in enumerate(file.starts):
        unknown = [name for name in start if name not in file.parameters]
        if unknown:
            expected = ", ".join(file.parameters)
            raise SpaceError(f"{path}: starts.{index}.{unknown[0]}: unknown key; expected one of {expected}")
        yield dict(start)


def _default(value: str | int, entry: ParameterEntry, key: str, earlier: list[str]) -> str | int | Expression:
    """A literal, or for a numeric parameter an expression over the case and the parameters before it."""
    if isinstance(value, str) and entry.numeric:
        return Expression.parse(value, origin=key, parameters=earlier)
    if value not in entry.listed():
        raise SpaceError(f"{key}: expected one of {', '.join(map(str, entry.listed()))}, got {value!r}; choose one of them")
    return value
