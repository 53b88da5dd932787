"""Search spaces: what may be generated for a kernel, under which constraints, read from YAML."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from latune import paths
from latune.codegen.expression import Expression, case_names
from latune.codegen.parameters import (
    Constraint,
    Parameter,
    check_served_by_templates,
    read_constraints,
    read_defaults,
    read_parameters,
    read_starts,
)
from latune.codegen.space_file import SpaceFile, read_space_file
from latune.config import Config
from latune.errors import SpaceError
from latune.gpu import Gpu
from latune.plan import KERNELS, Kernel
from latune.problem import Problem

Question = Callable[[Mapping[str, object]], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What is asked of the names of one case: whether each parameter applies, and whether each constraint allows them."""

    applied: list[Question]
    allowed: list[Question]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Space:
    """The configs that may be generated for the kernels of one kind.

    Every method takes the case: a problem, the GPU it runs on, and the kernel whose config is drawn.

    Attributes:
        name: the kernels it serves, ``Kernel.space``.
        path: the file it came from.
        defaults: for each parameter its default, or the expression that gives it.
        starts: values that have won somewhere, or should, to be tried early; a config near them may be feasible, or none.
    """

    name: str
    path: Path
    parameters: tuple[Parameter, ...]
    constraints: tuple[Constraint, ...]
    defaults: Mapping[str, str | int | Expression]
    starts: tuple[Mapping[str, str | int], ...] = ()

    @classmethod
    def of(cls, name: str, file: SpaceFile, path: Path) -> Space:
        """The space that a file's content, read from ``path``, describes.

        Raises:
            SpaceError: an expression, a default or a start in it has a mistake.
        """
        return cls(
            name=name,
            path=path,
            parameters=tuple(read_parameters(file, path)),
            constraints=tuple(read_constraints(file, path)),
            defaults=read_defaults(file, path),
            starts=tuple(read_starts(file, path)),
        )

    @property
    def digest(self) -> str:
        """SHA-256 of what it allows, of its defaults and of its starts."""
        parameters = [(each.name, each.kind, each.values, _text(each.when)) for each in self.parameters]
        constraints = [(_text(each.require), _text(each.when)) for each in self.constraints]
        defaults = {name: _text(value) for name, value in self.defaults.items()}
        said = json.dumps([parameters, constraints, defaults, [dict(start) for start in self.starts]], sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()

    def feasible(self, config: Config, problem: Problem, gpu: Gpu, kernel: Kernel) -> str | None:
        """None for a config of this space, else the reason why it is not one."""
        names = self._case(problem, gpu, kernel)
        asked = self._asked(problem, gpu, kernel)
        values = config.values()
        misfit = self._misfit(values, names, asked)
        if misfit:
            return misfit
        allowed = zip(self.constraints, asked.allowed, strict=True)
        return next((constraint.why for constraint, allows in allowed if not allows(names | values)), None)

    def configs(self, problem: Problem, gpu: Gpu, kernel: Kernel) -> Iterator[Config]:
        """Every feasible config once, in an order that depends on the file alone."""
        asked = self._asked(problem, gpu, kernel)
        return map(self._config, self._assignments(self._case(problem, gpu, kernel), 0, asked, self._due(asked)))

    def serves(self, problem: Problem, gpu: Gpu, kernel: Kernel) -> bool:
        """Whether there is any feasible config (no fused dk/dv kernel holds a 256 x 256 state)."""
        return next(self.configs(problem, gpu, kernel), None) is not None

    def default(self, problem: Problem, gpu: Gpu, kernel: Kernel) -> Config:
        """The file's default, for use without any tuning.

        Raises:
            SpaceError: the space does not serve this case (ask ``serves`` first), or the default is not feasible.
        """
        config = self._config(self._completed({}, problem, gpu, kernel))
        why = self.feasible(config, problem, gpu, kernel)
        if why is None:
            return config
        case = f"kernel {kernel.name!r} of {problem} on {gpu.name}"
        if self.serves(problem, gpu, kernel):
            raise SpaceError(f"{self.path}: default: not feasible for {case}: {why}; mend the default ({config})")
        raise SpaceError(f"{self.path}: no config serves {case}: {why}; choose a plan without {kernel.name!r}")

    def feasible_starts(self, problem: Problem, gpu: Gpu, kernel: Kernel) -> list[Config]:
        """Those of ``starts`` that are feasible as they stand; what one leaves out is as in the default."""
        configs = [self._config(self._completed(start, problem, gpu, kernel)) for start in self.starts]
        return [config for config in configs if self.feasible(config, problem, gpu, kernel) is None]

    def make(self, values: Mapping[str, str | int], problem: Problem, gpu: Gpu, kernel: Kernel) -> Config:
        """The config with these values by parameter name, without those that do not apply. It may be infeasible.

        Raises:
            ValueError: a parameter that applies has no value.
        """
        names = self._case(problem, gpu, kernel)
        for parameter, applies in zip(self.parameters, self._asked(problem, gpu, kernel).applied, strict=True):
            if applies(names):
                if parameter.name not in values:
                    raise ValueError(f"space {self.name}: expected a value for {parameter.name}, got none; add it")
                names[parameter.name] = values[parameter.name]
        return self._config(names)

    def _case(self, problem: Problem, gpu: Gpu, kernel: Kernel) -> dict[str, object]:
        assert kernel.space == self.name, f"kernel {kernel.name} is drawn from space {kernel.space}, not {self.name}"
        return case_names(problem, gpu, kernel)

    @functools.lru_cache(maxsize=8)  # noqa: B019 (of a few spaces, which live as long as the process)
    def _asked(self, problem: Problem, gpu: Gpu, kernel: Kernel) -> _Asked:
        """Kernels of one problem take turns: each keeps its answers meanwhile."""
        names = {parameter.name for parameter in self.parameters}
        return _Asked(
            applied=[_remembered(parameter.applies, parameter.reads & names) for parameter in self.parameters],
            allowed=[_remembered(constraint.allows, constraint.names & names) for constraint in self.constraints],
        )

    def _misfit(self, values: Mapping[str, str | int], names: dict[str, object], asked: _Asked) -> str | None:
        """Why ``values`` are not a point of this space, constraints aside."""
        chosen = dict(names)
        for parameter, applies in zip(self.parameters, asked.applied, strict=True):
            value = values.get(parameter.name)
            if not applies(chosen):
                if value is not None:
                    return f"{parameter.name} applies only when {parameter.when}"
                continue
            if value not in parameter.values:
                return f"{parameter.name} must be one of {', '.join(map(str, parameter.values))}, got {value}"
            chosen[parameter.name] = value
        unknown = sorted(values.keys() - chosen.keys())
        return f"{', '.join(unknown)} is no parameter of space {self.name}" if unknown else None

    def _due(self, asked: _Asked) -> list[list[Question]]:
        """For each number of parameters passed, the constraints that can be decided then and not earlier."""
        position = {parameter.name: index + 1 for index, parameter in enumerate(self.parameters)}
        due: list[list[Question]] = [[] for _ in range(len(self.parameters) + 1)]
        for constraint, allows in zip(self.constraints, asked.allowed, strict=True):
            due[max((position.get(name, 0) for name in constraint.names), default=0)].append(allows)
        return due

    def _assignments(
        self, names: dict[str, object], passed: int, asked: _Asked, due: list[list[Question]]
    ) -> Iterator[dict[str, object]]:
        if not all(allows(names) for allows in due[passed]):
            return
        if passed == len(self.parameters):
            yield names
            return
        if not asked.applied[passed](names):
            yield from self._assignments(names, passed + 1, asked, due)
            return
        parameter = self.parameters[passed]
        for value in parameter.values:
            yield from self._assignments({**names, parameter.name: value}, passed + 1, asked, due)

    def _completed(self, values: Mapping[str, str | int], problem: Problem, gpu: Gpu, kernel: Kernel) -> dict[str, object]:
        """A value for every parameter that applies: the given one, else the default."""
        chosen = self._case(problem, gpu, kernel)
        for parameter, applies in zip(self.parameters, self._asked(problem, gpu, kernel).applied, strict=True):
            if applies(chosen):
                value = values.get(parameter.name, self.defaults[parameter.name])
                chosen[parameter.name] = value.integer(chosen) if isinstance(value, Expression) else value
        return chosen

    def _config(self, names: Mapping[str, object]) -> Config:
        by_kind: dict[str, dict] = {"algorithm": {}, "choice": {}, "constexpr": {}, "launch": {}}
        for parameter in self.parameters:
            if parameter.name in names:
                by_kind[parameter.kind][parameter.name] = names[parameter.name]
        launch = by_kind["launch"]
        return Config.of(
            by_kind["algorithm"]["algorithm"],
            choices=by_kind["choice"],
            constexprs=by_kind["constexpr"],
            num_warps=launch.pop("num_warps"),
            num_stages=launch.pop("num_stages"),
            options=launch,
        )


def _text(value: Expression | str | int | None) -> str | int | None:
    return value.text if isinstance(value, Expression) else value


def _remembered(question: Question, reads: Collection[str]) -> Question:
    """``question``, of names of one case, asked once for each set of values that it reads."""
    ordered = sorted(reads)
    known: dict[tuple[object, ...], bool] = {}

    def answer(names: Mapping[str, object]) -> bool:
        values = tuple(map(names.get, ordered))
        if values not in known:
            known[values] = question(names)
        return known[values]

    return answer


def load_space(name: str, path: Path | None = None) -> Space:
    """The search space of the kernels whose ``Kernel.space`` is ``name``.

    Args:
        path: a user's own file, which may narrow the shipped choices, move ranges and add launch options.

    Raises:
        SpaceError: the file has a mistake; the message names file, key and remedy.
    """
    known = sorted({kernel.space for kernel in KERNELS.values()})
    if name not in known:
        raise SpaceError(f"unknown search space {name!r}: expected one of {', '.join(known)}")
    shipped = paths.search_spaces() / f"{name}.yaml"
    if path is None:
        return _shipped_space(shipped)
    file = read_space_file(path)
    if file.kernel != name:
        raise SpaceError(f"{path}: kernel: expected {name!r}, got {file.kernel!r}; give the file of that search space")
    check_served_by_templates(file, path, _shipped_file(shipped))
    return Space.of(name, file, path)


@functools.cache
def _shipped_space(path: Path) -> Space:
    """Read once: that takes 0.3 s, and every problem asks for it."""
    file = _shipped_file(path)
    return Space.of(file.kernel, file, path)


@functools.cache
def _shipped_file(path: Path) -> SpaceFile:
    return read_space_file(path)
