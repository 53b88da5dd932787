"""One entry of the cache, and the file of all entries of one GPU, as JSON and back."""

from __future__ import annotations

import functools
import itertools
import json
import re
import reprlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timezone

from latune.cache.node import Node
from latune.cache.standing import Standing
from latune.config import Config
from latune.errors import RenderError
from latune.gpu import ARCHITECTURES, CATALOGUE, Gpu
from latune.measurement import Measurement
from latune.plan import FORMS, Plan, Step
from latune.problem import Bucket, Problem

SCHEMA = 1
EVIDENCE = ("measured", "transferred", "static")
"""The strongest first."""

TOOLCHAIN = ("torch", "triton", "cuda", "driver", "latune", "protocol")

PlanSha256 = Callable[[Bucket, Plan], str]
"""SHA-256 of the code that would be generated now to serve a bucket by a plan; a ``RenderError`` where none would."""

_TIMESTAMP = "%Y-%m-%dT%H:%M:%SZ"
_TIMESTAMP_PATTERN = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_SHAPE = ("batch", "num_heads", "seqlen")


def utc_now() -> str:
    """The time as entries state it: ISO 8601, UTC, whole seconds (``2026-01-31T12:00:00Z``); sorts as text."""
    return datetime.now(timezone.utc).strftime(_TIMESTAMP)


class SchemaError(ValueError):
    """The file follows another schema than this version of latune reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one compiled kernel of the plan takes: registers and spills a thread, shared memory a block."""

    name: str
    registers: int
    spill_bytes: int
    shared_bytes: int
    num_warps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """The plan that serves a bucket on one GPU, and everything needed to trust it.

    Attributes:
        bucket: what it is looked up by.
        batch: batch of the problem it was tuned on.
        num_heads: heads of that problem.
        seqlen: length of that problem.
        plan: the winner; complete for the bucket's direction.
        alternates: complete plans to fall back to, best first.
        measurement: the winner's outcome; a prediction (``samples`` 0) for evidence ``static``.
        standing: the winner among what it was raced against; None: nothing, or an older latune did not say.
        evidence: ``measured`` on this GPU, ``transferred`` from another bucket or GPU, or ``static`` (compiled and modelled).
        resources: figures of each kernel in the winner's binary.
        roof_ms: time that no implementation can beat on this GPU; None when unknown.
        toolchain: version of each of ``TOOLCHAIN``; None for what was not there (the driver of a static entry).
        template_sha256: digest of the code that was generated for bucket and plan: of the module's text without its header.
        tuned_at: when, as ``utc_now`` writes it.
        study: name of the study it came from.
    """

    bucket: Bucket
    batch: int
    num_heads: int
    seqlen: int
    plan: Plan
    alternates: tuple[Plan, ...] = ()
    measurement: Measurement
    standing: Standing | None = None
    evidence: str
    resources: tuple[Resources, ...]
    roof_ms: float | None = None
    toolchain: Mapping[str, str | None] = field(hash=False)
    template_sha256: str
    tuned_at: str
    study: str

    def __post_init__(self) -> None:
        if self.evidence not in EVIDENCE:
            raise ValueError(f"evidence: expected one of {', '.join(EVIDENCE)}, got {self.evidence!r}")
        _check_plan("plan", self.plan, self.bucket.direction)
        for index, alternate in enumerate(self.alternates):
            _check_plan(f"alternates[{index}]", alternate, self.bucket.direction)
        if not _TIMESTAMP_PATTERN.fullmatch(self.tuned_at):
            raise ValueError(f"tuned_at: expected UTC time as 2026-01-31T12:00:00Z, got {self.tuned_at!r}")
        if sorted(self.toolchain) != sorted(TOOLCHAIN):
            raise ValueError(f"toolchain: expected the keys {', '.join(TOOLCHAIN)}, got {', '.join(self.toolchain) or 'none'}")
        self._check_measurement()
        self._check_shape()

    def _check_measurement(self) -> None:
        if not self.measurement.ok:
            raise ValueError(f"measurement.outcome: expected 'ok' of an entry's winner, got {self.measurement.outcome!r}")
        timed = self.measurement.samples > 0
        if self.evidence == "measured" and not timed:
            raise ValueError("measurement.samples: expected at least 1 for evidence 'measured', got 0")
        if self.evidence == "static" and timed:
            raise ValueError(f"measurement.samples: expected 0 for evidence 'static', got {self.measurement.samples}")

    def _check_shape(self) -> None:
        if self.evidence != "transferred" and self.problem.bucket() != self.bucket:
            raise ValueError(f"bucket: expected that of the shape tuned on ({self.problem.bucket()}), got {self.bucket}")

    @property
    def problem(self) -> Problem:
        """The problem the plan was tuned on."""
        kept = {name: value for name, value in asdict(self.bucket).items() if name not in ("batch_heads", "seqlen")}
        return Problem(batch=self.batch, num_heads=self.num_heads, seqlen=self.seqlen, **kept)

    def is_current(self, plan_sha256: PlanSha256) -> bool:
        """Whether the code that would be generated for it now is the code that it speaks of."""
        return self.why_stale(plan_sha256) is None

    def why_stale(self, plan_sha256: PlanSha256) -> str | None:
        """Why it is not current, in one line; None if it is."""
        try:
            sha256 = plan_sha256(self.bucket, self.plan)
        except RenderError as error:
            return f"of code {self.template_sha256[:8]}, {error}: the dispatcher ignores it"
        if sha256 == self.template_sha256:
            return None
        return f"of code {self.template_sha256[:8]}, its plan is generated as {sha256[:8]} now: the dispatcher ignores it"

    def to_json(self) -> dict[str, object]:
        return {
            "bucket": self.bucket.to_json(),
            "shape": {name: getattr(self, name) for name in _SHAPE},
            "plan": self.plan.to_json(),
            "alternates": [plan.to_json() for plan in self.alternates],
            "measurement": self.measurement.to_json(),
            **({} if self.standing is None else {"standing": asdict(self.standing)}),
            "evidence": self.evidence,
            "resources": [asdict(kernel) for kernel in self.resources],
            "roof_ms": self.roof_ms,
            "toolchain": dict(self.toolchain),
            "template_sha256": self.template_sha256,
            "tuned_at": self.tuned_at,
            "study": self.study,
        }

    @classmethod
    def from_json(cls, value: object, where: str = "entry") -> Entry:
        """The inverse of ``to_json``.

        Raises:
            ValueError: something is missing, unknown, of another type or contradictory; the message names its key.
        """
        node = Node(value, where)
        names = ["shape" if member.name == "batch" else member.name for member in fields(cls)]
        found = node.fields(*(name for name in names if name not in (*_SHAPE, "standing")), optional=("standing",))
        return node.make(
            cls,
            bucket=_bucket(found["bucket"]),
            **{name: size.integer(1) for name, size in found["shape"].fields(*_SHAPE).items()},
            plan=_plan(found["plan"]),
            alternates=tuple(_plan(plan) for plan in found["alternates"].items()),
            measurement=_measurement(found["measurement"]),
            standing=Standing.read(found["standing"]) if "standing" in found else None,
            resources=tuple(_resources(kernel) for kernel in found["resources"].items()),
            roof_ms=found["roof_ms"].optional(Node.number),
            toolchain={name: part.optional(Node.text) for name, part in found["toolchain"].mapping().items()},
            **{name: found[name].text() for name in ("evidence", "template_sha256", "tuned_at", "study")},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCache:
    """All entries of one GPU, in the order of their buckets."""

    gpu: Gpu
    entries: Mapping[Bucket, Entry]

    @classmethod
    def of(cls, gpu: Gpu, entries: Iterable[Entry] = ()) -> DeviceCache:
        """A cache of entries of different buckets.

        Raises:
            ValueError: two entries have one bucket.
        """
        ordered = sorted(entries, key=lambda entry: entry.bucket)
        by_bucket = {entry.bucket: entry for entry in ordered}
        if len(by_bucket) < len(ordered):
            twice = next(a.bucket for a, b in itertools.pairwise(ordered) if a.bucket == b.bucket)
            raise ValueError(f"entries: expected one entry a bucket, got two for {twice}")
        return cls(gpu=gpu, entries=by_bucket)

    def to_text(self) -> str:
        """The file's text: the same for the same entries, whatever order they came in."""
        entries = [self.entries[bucket].to_json() for bucket in sorted(self.entries)]
        document = {"schema": SCHEMA, "gpu": self.gpu.to_json(), "entries": entries}
        return json.dumps(document, indent=2, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def from_text(cls, text: str) -> DeviceCache:
        """The inverse of ``to_text``.

        Raises:
            SchemaError: it is a file of another version of latune.
            ValueError: the text is not such a file; the message names the key at fault.
        """
        document = _parse(text)
        if isinstance(document, dict):
            _check_schema(document.get("schema"))
        found = Node(document, "").fields("schema", "gpu", "entries")
        return cls.of(_gpu(found["gpu"]), [Entry.from_json(entry.value, entry.where) for entry in found["entries"].items()])


def _check_schema(schema: object) -> None:
    # True is an int, and equal to 1.
    if type(schema) is not int or schema != SCHEMA:
        other = SchemaError if type(schema) is int else ValueError
        raise other(f"schema: expected {SCHEMA}, got {reprlib.repr(schema)}; use the latune that wrote it")


def _check_plan(where: str, plan: Plan, direction: str) -> None:
    kernels = tuple(step.kernel for step in plan.steps)
    if kernels not in FORMS[direction]:
        forms = " or ".join("+".join(form) for form in FORMS[direction])
        raise ValueError(
            f"{where}: expected the kernels {forms} for direction {direction!r}, got {'+'.join(kernels) or 'none'}"
        )


def _parse(text: str) -> object:
    def refuse(constant: str) -> object:
        raise ValueError(f"expected finite numbers, got {constant}")

    try:
        return json.loads(text, parse_constant=refuse, object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError("the file is nested too deeply") from error


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Of a key that comes twice JSON would keep the last, and lose what came before."""
    result = dict(pairs)
    if len(result) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"expected each key once in an object, got {reprlib.repr(twice)} twice")
    return result


@functools.cache
def _keys(kind: type) -> tuple[str, ...]:
    return tuple(member.name for member in fields(kind))


def _gpu(node: Node) -> Gpu:
    found = node.fields(*_keys(Gpu))
    gpu = Gpu(
        **{name: found[name].text() for name in ("name", "title", "source")},
        **{name: found[name].integer(1) for name in ("arch", "sms", "memory_gib")},
        l2_mib=found["l2_mib"].number(),
        **{name: found[name].positive() for name in ("bandwidth_gbps", "matrix_tflops")},
    )
    if gpu.arch not in ARCHITECTURES:
        raise ValueError(f"{node.where}.arch: expected one of {', '.join(map(str, ARCHITECTURES))}, got {gpu.arch}")
    for listed in CATALOGUE:
        if listed.name == gpu.name or listed.file_stem == gpu.file_stem:
            _check_identity(node.where, listed, gpu)
    # In the file 40 MiB are 40, as they are in the catalogue, not 40.0.
    return next((listed for listed in CATALOGUE if listed == gpu), gpu)


def _check_identity(where: str, listed: Gpu, gpu: Gpu) -> None:
    """A board may differ from its model in memory, but what has its name or its file has both, and its architecture."""
    for name in ("name", "file_stem", "arch"):
        expected, value = getattr(listed, name), getattr(gpu, name)
        if value != expected:
            raise ValueError(f"{where}: expected the {name} {expected!r} of {listed.title}, got {reprlib.repr(value)}")


def _bucket(node: Node) -> Bucket:
    found = node.fields(*_keys(Bucket))
    bucket = Bucket(
        **{name: found[name].text() for name in ("op", "direction", "decay", "dtype")},
        **{name: found[name].integer(1) for name in ("batch_heads", "seqlen", "head_dim_k", "head_dim_v")},
        **{name: found[name].flag() for name in ("has_initial_state", "needs_final_state", "varlen")},
    )
    node.make(bucket.problem)
    return bucket


def _plan(node: Node) -> Plan:
    return Plan.from_steps([_step(step) for step in node.items()])


def _step(node: Node) -> Step:
    found = node.fields("kernel", "config")
    return node.make(Step, kernel=found["kernel"].text(), config=_config(found["config"]))


def _config(node: Node) -> Config:
    found = node.fields(*_keys(Config))
    return Config.of(
        found["algorithm"].word(),
        choices={name: choice.word() for name, choice in found["choices"].mapping().items()},
        constexprs={name: number.integer(1) for name, number in found["constexprs"].mapping().items()},
        num_warps=found["num_warps"].integer(1),
        num_stages=found["num_stages"].integer(),
        options={name: number.integer() for name, number in found["options"].mapping().items()},
    )


def _measurement(node: Node) -> Measurement:
    found = node.fields(*_keys(Measurement))
    return node.make(
        Measurement,
        **{name: found[name].text() for name in ("outcome", "detail")},
        **{name: found[name].optional(Node.number) for name in ("median_ms", "ci_low_ms", "ci_high_ms")},
        samples=found["samples"].integer(),
        errors=tuple(sorted((name, error.number()) for name, error in found["errors"].mapping().items())),
    )


def _resources(node: Node) -> Resources:
    found = node.fields(*_keys(Resources))
    numbers = {name: value.integer() for name, value in found.items() if name != "name"}
    return Resources(name=found["name"].text(), **numbers)
