"""Problem -> plan: the ladder from the exact bucket down to the search space's default."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from latune.cache.device import DeviceCache
from latune.cache.entry import Entry, PlanSha256
from latune.cache.kin import carried
from latune.cache.nearby import FLAGS, KINDS, by_distance, by_likeness, distance
from latune.cache.store import read_cache, read_entries
from latune.gpu import CATALOGUE, Gpu
from latune.plan import KERNELS, Plan, Step
from latune.problem import Bucket, Problem

_DEFAULT_KERNELS = {"fwd": ("o",), "bwd": ("dq", "dk", "dv")}


class Candidate(NamedTuple):
    """A plan that may serve, from which step of the ladder, and why; ``entry`` is None for the default."""

    step: str
    plan: Plan
    entry: Entry | None
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """The plan for a problem on a GPU.

    Attributes:
        step: where the plan was found: ``exact``, ``nearest``, ``sibling`` or ``default``.
        plan: what to run.
        entry: where the plan comes from; None for the default.
        gpu: the GPU it is for.
        why: one line that says what serves and how far it is from what was asked.
    """

    step: str
    plan: Plan
    entry: Entry | None
    gpu: Gpu
    why: str
    _ladder: _Ladder = field(repr=False, compare=False)

    @property
    def candidates(self) -> Iterator[tuple[Plan, str]]:
        """(plan, why) of the winner, then what to fall back to, in order, down to the default.

        A plan comes once. Found on demand: only a reader who comes to the default loads its search space.
        """
        yield self.plan, self.why
        for candidate in islice(self._ladder.candidates(), 1, None):
            yield candidate.plan, candidate.why


def resolve(problem: Problem, gpu: Gpu, *, plan_sha256: PlanSha256, caches: Sequence[DeviceCache] | None = None) -> Resolution:
    """What serves ``problem`` on ``gpu``, and why.

    Args:
        plan_sha256: tells which entries are current, the others are ignored; asked only of entries that would serve.
        caches: merged caches of this GPU and its siblings; by default those on disk.
    """
    ladder = _Ladder(problem=problem, gpu=gpu, plan_sha256=plan_sha256, caches=caches)
    first = next(ladder.candidates())
    return Resolution(step=first.step, plan=first.plan, entry=first.entry, gpu=gpu, why=first.why, _ladder=ladder)


def starting_plans(
    problem: Problem,
    gpu: Gpu,
    *,
    plan_sha256: PlanSha256,
    caches: Sequence[DeviceCache] | None = None,
    folders: Sequence[Path] = (),
) -> Iterator[Plan]:
    """Plans that a search for ``problem`` should try early: winners of the likeliest buckets, then their alternates.

    Of equally likely ones those tuned on ``gpu`` come before those of its siblings: a sibling knows more of the very
    bucket than ``gpu`` of a neighbouring one. A plan may come again; whether it is feasible is not asked. Found on demand:
    whether an entry is current is asked when its plan is.

    Args:
        caches: as in ``resolve``.
        folders: where more cache files of ``gpu`` are; of equally likely plans theirs come first.
    """
    ladder = _Ladder(problem=problem, gpu=gpu, plan_sha256=plan_sha256, caches=caches)
    own = [entry for folder in folders for entry in read_cache(gpu, [folder]).entries.values()]
    siblings = [entry for sibling in ladder.siblings() for entry in ladder.entries(sibling) if fits(entry, gpu)]
    current = []
    for entry in by_likeness([*own, *ladder.entries(gpu), *siblings], problem.bucket()):
        if ladder.is_current(entry):
            current.append(entry)
            yield entry.plan
    for entry in current:
        yield from entry.alternates


def default_plan(problem: Problem, gpu: Gpu) -> Plan:
    """The plan that needs no entry: every output by its own stream, since the fused kernel does not serve all head dims."""
    # `import latune` must stay free of yaml: a cached problem reads no search space.
    from latune.codegen.space import load_space

    space = load_space("stream")
    names = _DEFAULT_KERNELS[problem.direction]
    return Plan(tuple(Step(kernel=name, config=space.default(problem, gpu, KERNELS[name])) for name in names))


def without_checkpoints(candidates: Iterable[tuple[Plan, str]]) -> Iterator[tuple[Plan, str]]:
    """Those whose plans read none, the default among them: what runs where no forward pass has kept any."""
    return (candidate for candidate in candidates if not candidate[0].reads_checkpoints)


def fits(entry: Entry, gpu: Gpu) -> bool:
    """Whether the entry's kernels, as compiled where it was tuned, find their shared memory on ``gpu``, and SMs enough for
    programs that wait for one another; unknown ones do not.
    """
    known = bool(entry.resources) and entry.plan.programs_at_once <= gpu.sms
    return known and all(kernel.shared_bytes <= gpu.shared_per_block_bytes for kernel in entry.resources)


class _Ladder(NamedTuple):
    problem: Problem
    gpu: Gpu
    plan_sha256: PlanSha256
    caches: Sequence[DeviceCache] | None

    def candidates(self) -> Iterator[Candidate]:
        seen: set[Plan] = set()
        for candidate in self._all_candidates():
            if candidate.plan not in seen:
                seen.add(candidate.plan)
                yield candidate

    def _all_candidates(self) -> Iterator[Candidate]:
        wanted = self.problem.bucket()
        own = self.entries(self.gpu)
        if exact := self._first_current(entry for entry in own if entry.bucket == wanted):
            yield from _of_entry("exact", exact, f"exact bucket {wanted}", self.gpu, wanted)
        others = [entry for entry in own if entry.bucket != wanted]
        yield from self._of_other_entries(others, wanted)
        why = f"default of the search space: no other entry serves {wanted} on {self.gpu.title}"
        yield Candidate(step="default", plan=default_plan(self.problem, self.gpu), entry=None, why=why)

    def _of_other_entries(self, own: Iterable[Entry], wanted: Bucket) -> Iterator[Candidate]:
        if entry := self._first_current(by_distance(own, wanted)):
            yield from _of_entry("nearest", entry, f"nearest bucket {_difference(entry.bucket, wanted)}", self.gpu, wanted)
        if found := self._sibling(wanted):
            sibling, entry = found
            served = f"sibling GPU's bucket {_difference(entry.bucket, wanted)}"
            yield from _of_entry("sibling", entry, served, sibling, wanted)

    def is_current(self, entry: Entry) -> bool:
        return entry.is_current(self.plan_sha256)

    def _first_current(self, entries: Iterable[Entry]) -> Entry | None:
        return next(filter(self.is_current, entries), None)

    def entries(self, gpu: Gpu) -> list[Entry]:
        """Of all buckets, current or not; those of one bucket in the order in which they are to serve."""
        if self.caches is None:
            return list(chain.from_iterable(read_entries(gpu).values()))
        return [entry for cache in self.caches if cache.gpu.name == gpu.name for entry in cache.entries.values()]

    def siblings(self) -> list[Gpu]:
        """The other GPUs of the same architecture."""
        return [gpu for gpu in CATALOGUE if gpu.arch == self.gpu.arch and gpu.name != self.gpu.name]

    def _sibling(self, wanted: Bucket) -> tuple[Gpu, Entry] | None:
        """The nearest fitting entry of the same architecture's other GPUs; of equals, that of the nearest SM count."""
        known = ((sibling, entry) for sibling in self.siblings() for entry in by_distance(self.entries(sibling), wanted))
        found = [(sibling, entry) for sibling, entry in known if fits(entry, self.gpu)]
        found.sort(key=lambda pair: (distance(pair[1].bucket, wanted), abs(pair[0].sms - self.gpu.sms)))
        return next((pair for pair in found if self.is_current(pair[1])), None)


def _of_entry(step: str, entry: Entry, served: str, gpu: Gpu, wanted: Bucket) -> Iterator[Candidate]:
    """The entry's plan, then its alternates, as ``wanted`` has them; ``gpu`` is the one it was tuned for."""
    for number, plan in enumerate((entry.plan, *entry.alternates)):
        what = f"alternate {number} of {served}: " if number else f"{served}: "
        price = " with a copy of the checkpoints it is given" if plan.reads_checkpoints else ""
        time = "" if number else f"{entry.measurement.median_ms:.4g} ms{price}, "
        why = f"{what}{entry.evidence} for {gpu.title}, {time}{entry.tuned_at}"
        if (own := carried(plan, entry.bucket, wanted)) is not None:
            yield Candidate(step=step, plan=own, entry=entry, why=why)


def _difference(served: Bucket, wanted: Bucket) -> str:
    names = [name for name in ("seqlen", "batch_heads", *KINDS, *FLAGS) if getattr(served, name) != getattr(wanted, name)]
    words = [f"{name} {getattr(served, name)} for {getattr(wanted, name)}" for name in names]
    return f"{served} ({', '.join(words) or 'the same bucket'})"
