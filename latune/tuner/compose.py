"""Complete plans made of tuned kernels.

dk and dv are the operator that dq is, with its roles permuted: a ranking of dq's configs serves those of its widths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain, islice, product
from typing import TYPE_CHECKING

from latune.codegen.kept import handing_over
from latune.codegen.partition import Partition
from latune.codegen.space import Space, load_space
from latune.codegen.state_flow import StateFlow
from latune.config import Config
from latune.gpu import Gpu
from latune.plan import FORMS, KERNELS, Kernel, Plan, Step
from latune.problem import Problem
from latune.tuner.grid import Grid

if TYPE_CHECKING:
    from latune.tuner.evaluators import Evaluator

Spaces = Mapping[str, Space]

CONFIGS_OF_A_KERNEL = 6
"""Of a search's fastest, those of which plans are made: at 4,32,4096,128 five were within 1.2% of the best, measured alone."""

# Whose ranking serves a kernel of the same widths, which then has no search of its own.
_SIBLINGS = {"dk": "dq", "dv": "dq", "dk_dv": "dq"}
# The same two streams in two launches, and side by side in one.
_APART, _BESIDE = ("dk", "dv"), ("dk_dv",)
_PLANS_OF_A_FORM = 6
_STARTS_OF_A_FORM = 2
# Between values of PROGRAMS that search spaces know.
_PROGRAMS_STEP = 32
# Compute capability times ten, from which on there is programmatic dependent launch.
_CHAINING_ARCH = 90


def all_spaces(own: Spaces | None = None) -> Spaces:
    """The shipped search spaces by ``Kernel.space``, those of ``own`` in their places."""
    shipped = {name: load_space(name) for name in sorted({kernel.space for kernel in KERNELS.values()})}
    return {**shipped, **(own or {})}


@dataclass(frozen=True, kw_only=True)
class Composer:
    """Puts together the plans of one problem on one GPU.

    Attributes:
        ahead: the forward plan that backward plans run behind; None: not known.
    """

    problem: Problem
    gpu: Gpu
    spaces: Spaces
    ahead: Plan | None = None

    @classmethod
    def of(cls, problem: Problem, evaluate: Evaluator, own: Spaces | None) -> Composer:
        """Of the plans that ``evaluate`` judges.

        Args:
            own: as in ``all_spaces``.
        """
        return cls(problem=problem, gpu=evaluate.gpu, spaces=all_spaces(own), ahead=evaluate.ahead)

    @property
    def forms(self) -> list[tuple[str, ...]]:
        """The direction's forms, without those that have a kernel whose space is empty here."""
        return [form for form in FORMS[self.problem.direction] if all(map(self._serves, form))]

    @property
    def searched(self) -> list[str]:
        """The kernels that need a search of their own."""
        return list(dict.fromkeys(self._ranked_as(name) for form in self.forms for name in form))

    def space(self, name: str) -> Space:
        return self.spaces[KERNELS[name].space]

    def grid(self, name: str) -> Grid:
        """The kernel's space as a grid."""
        return _grid(self.space(name), self.problem, self.gpu, KERNELS[name])

    def compose(self, ranked: Mapping[str, Sequence[Config]], pinned: Sequence[Plan] = ()) -> list[Plan]:
        """Plans of the best kernels, form by form, then the default and those of ``pinned`` that can run here.

        Args:
            ranked: configs of the searched kernels, best first; a form that lacks one of them is left out.
        """
        by_form = chain.from_iterable(islice(self._plans(form, ranked), _PLANS_OF_A_FORM) for form in self.forms)
        return list(dict.fromkeys([*by_form, *self._defaults, *filter(self._allows, pinned)]))

    def fit(self, plans: Sequence[Plan]) -> list[Plan]:
        """Plans of other problems made feasible for this one, each config moved as little as that takes; then the default.

        Each comes a second time, cut into segments that fill the GPU: with more heads it may have been full without.
        """
        complete = [plan for plan in plans if tuple(step.kernel for step in plan.steps) in self.forms]
        both = [variant for plan in complete for variant in (plan, _mapped(plan, self._filling))]
        fitted = [_mapped(plan, self._fitted) for plan in both]
        return list(dict.fromkeys([*fitted, *self._defaults]))

    def rearranged(self, plan: Plan) -> list[Plan]:
        """The plan with its launches chained, or not; with dk and dv apart, or side by side, by a start of their own too; and
        with dq as the forward plan ahead is, or cut like it.
        """
        chained = [self._chained(plan) or plan, plan.unchained()]
        others = dict.fromkeys([*chained, *self._with_dk_and_dv_otherwise(plan), *self._behind(plan)])
        return [other for other in others if other != plan and self._allows(other)]

    def variants(self, plan: Plan) -> list[Plan]:
        """The plan with one of its kernels changed: cut otherwise, to a start of its space as it is or cut, or to a deeper
        pipeline; the plan ``rearranged``; and the first starts of the other forms.

        Siblings change together. For plans of neighbours, which are much alike: with other heads another kind may win. Plans
        that differ in depth alone often tie, until fewer heads leave each SM more to fetch.
        """
        changed: list[Plan] = []
        for name, own in ((step.kernel, step.config) for step in plan.steps):
            if self._ranked_as(name) == name:
                starts = self.space(name).feasible_starts(self.problem, self.gpu, KERNELS[name])
                configs = [cut for config in (own, *starts) for cut in self._cuts(name, config)]
                configs.append(replace(own, num_stages=own.num_stages + 1))
                changed += [self._changed(plan, name, config) for config in configs if self._feasible(name, config)]
        others = dict.fromkeys([*changed, *self.rearranged(plan), *self._of_other_forms(plan)])
        return [other for other in others if other != plan and self._allows(other)]

    def _ranked_as(self, name: str) -> str:
        sibling = _SIBLINGS.get(name, name)
        return sibling if KERNELS[sibling].dims(self.problem) == KERNELS[name].dims(self.problem) else name

    def _serves(self, name: str) -> bool:
        return self.space(name).serves(self.problem, self.gpu, KERNELS[name])

    def _feasible(self, name: str, config: Config) -> bool:
        return self.space(name).feasible(config, self.problem, self.gpu, KERNELS[name]) is None

    def _plans(self, form: tuple[str, ...], ranked: Mapping[str, Sequence[Config]]) -> Iterator[Plan]:
        """Plans of one form, those first whose kernels rank highest together; siblings share one config."""
        searched = list(dict.fromkeys(map(self._ranked_as, form)))
        best = [ranked.get(name, ())[:CONFIGS_OF_A_KERNEL] for name in searched]
        places = product(*(range(len(configs)) for configs in best))
        for place in sorted(places, key=lambda place: (sum(place), place)):
            chosen = {name: configs[index] for name, configs, index in zip(searched, best, place, strict=True)}
            yield Plan(tuple(Step(kernel=name, config=self._fitted(name, chosen[self._ranked_as(name)])) for name in form))

    def _fitted(self, name: str, config: Config) -> Config:
        """The config itself where the kernel's space allows it, else the nearest it allows, if possible of the algorithm."""
        if self._feasible(name, config):
            return config
        grid = self.grid(name)
        others = {other for other in grid.configs if other.algorithm != config.algorithm}
        nearest = grid.nearest(config.values(), others) or grid.nearest(config.values())
        assert nearest is not None, f"the form's kernels are served, {name} among them"
        return nearest

    def _chained(self, plan: Plan) -> Plan | None:
        """The plan with its launches chained; None where there is one launch, or the GPU cannot."""
        flows = [StateFlow(problem=self.problem, step=step) for step in plan.steps]
        several = len(flows) > 1 or any(flow.segmented for flow in flows)
        chains = several and not all(flow.waits for flow in flows)
        return plan.chained() if self.gpu.arch >= _CHAINING_ARCH and chains else None

    def _behind(self, plan: Plan) -> list[Plan]:
        """The plan with dq by the forward config ahead, or only cut as that is: so that dq is given the segments' states."""
        if self.ahead is None:
            return []
        (forward,) = self.ahead.steps
        values = dict(forward.config.constexprs)
        if "PROGRAMS" not in values:
            return []
        slices = [Partition(problem=self.problem, step=replace(forward, kernel=name)).num_splits for name in ("o", "dq")]
        programs = values["PROGRAMS"] * slices[1] // slices[0]
        cut = {"BLOCK_N": values["BLOCK_N"], "BLOCK_E": values["BLOCK_E"], "PROGRAMS": programs}
        by_forward = forward.config.with_constexprs(PROGRAMS=programs)
        of_dq = [step.config for step in plan.steps if step.kernel == "dq"]
        cut_alike = [replace(own.with_constexprs(**cut), algorithm=forward.config.algorithm) for own in of_dq]
        others = (_with(plan, "dq", config) for config in (by_forward, *cut_alike))
        return [other for other in others if self._is_given(other) and self._allows(other)]

    def _with_dk_and_dv_otherwise(self, plan: Plan) -> list[Plan]:
        """The plan with dk and dv apart, or side by side, then also by a start and dq as it is.

        In one launch they are twice the programs, so that slices twice as wide as dq's may fill the GPU.
        """
        apart, beside = (
            _mapped(other, self._as_of) for other in (_regrouped(plan, _BESIDE, _APART), _regrouped(plan, _APART, _BESIDE))
        )
        starts = self.space("dk_dv").feasible_starts(self.problem, self.gpu, KERNELS["dk_dv"])
        others = [apart, beside, *(_with(beside, "dk_dv", start) for start in starts)]
        return [other for other in others if other != plan and self._allows(other)]

    def _is_given(self, plan: Plan) -> bool:
        """Whether its dq starts from what the forward plan ahead keeps."""
        assert self.ahead is not None
        return handing_over(self.ahead, plan, self.problem) is not None

    def _of_other_forms(self, plan: Plan) -> Iterator[Plan]:
        """The first starts of all kernels together, then the second; each as it is, and chained."""
        for form in self.forms:
            starts = (self.space(name).feasible_starts(self.problem, self.gpu, KERNELS[name]) for name in form)
            if form != tuple(step.kernel for step in plan.steps):
                for configs in islice(zip(*starts, strict=False), _STARTS_OF_A_FORM):
                    other = Plan(tuple(Step(kernel=name, config=config) for name, config in zip(form, configs, strict=True)))
                    yield from filter(None, (other, self._chained(other)))

    def _changed(self, plan: Plan, name: str, config: Config) -> Plan:
        """The plan with this config for the kernel and its siblings."""
        return _mapped(plan, lambda kernel, own: self._as_of(kernel, config) if self._ranked_as(kernel) == name else own)

    def _as_of(self, name: str, config: Config) -> Config:
        """A sibling's config as this kernel has it: equal shares are for the programs that run at once, of all its streams."""
        if config.algorithm != "relay":
            return config
        return config.with_constexprs(PROGRAMS=self.gpu.sms // KERNELS[name].num_walks)

    def _cuts(self, name: str, config: Config) -> list[Config]:
        """The config as it is, in segments that give each SM one program or two, and the former's states made otherwise.

        Or, of heads that are more than programs, in equal shares.
        """
        once, twice = (self._filling(name, config, waves=waves) for waves in (1, 2))
        if once.algorithm != "split":
            return [config, once, twice, self._as_of(name, replace(config, algorithm="relay"))]
        alike = (replace(once, algorithm=other) for other in ("scan", "cooperative"))
        return [config, once, twice, *alike, replace(once.with_constexprs(PROGRAMS=self.gpu.sms), algorithm="balanced")]

    def _filling(self, name: str, config: Config, *, waves: int = 1) -> Config:
        """The config by ``split``, with ``waves`` programs for each SM, if each head then has two segments; else as it is."""
        if config.algorithm in ("remainder", "parallel", "relay"):
            return config
        slices = Partition(problem=self.problem, step=Step(kernel=name, config=config)).num_splits
        programs = self.gpu.sms // _PROGRAMS_STEP * _PROGRAMS_STEP * waves
        if programs < 2 * self.problem.batch_heads * slices:
            return config
        return replace(config.with_constexprs(PROGRAMS=programs), algorithm="split")

    @property
    def _defaults(self) -> list[Plan]:
        """The first form of the spaces' defaults; none where no form is served."""

        def step(name: str) -> Step:
            return Step(kernel=name, config=self.space(name).default(self.problem, self.gpu, KERNELS[name]))

        return [Plan(tuple(map(step, form))) for form in self.forms[:1]]

    def _allows(self, plan: Plan) -> bool:
        complete = tuple(step.kernel for step in plan.steps) in self.forms
        return complete and all(self._feasible(step.kernel, step.config) for step in plan.steps)


@lru_cache(maxsize=16)
def _grid(space: Space, problem: Problem, gpu: Gpu, kernel: Kernel) -> Grid:
    """Kept: listing a space takes a second, and what a problem is foreseen by is asked again when it is tuned."""
    return Grid(space, problem, gpu, kernel)


def _mapped(plan: Plan, change: Callable[[str, Config], Config]) -> Plan:
    return plan.with_steps(Step(kernel=step.kernel, config=change(step.kernel, step.config)) for step in plan.steps)


def _with(plan: Plan, name: str, config: Config) -> Plan:
    """The plan with this config for one kernel alone."""
    return _mapped(plan, lambda kernel, own: config if kernel == name else own)


def _regrouped(plan: Plan, before: tuple[str, ...], after: tuple[str, ...]) -> Plan:
    """The plan with kernels of the second group, by the same config, in place of the first group's; as it is without those."""
    steps = [step for step in plan.steps if step.kernel not in before]
    config = next((step.config for step in plan.steps if step.kernel in before), None)
    return plan.with_steps([*steps, *(Step(kernel=name, config=config) for name in after)]) if config else plan
