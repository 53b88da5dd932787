"""What a JSON document of ``latune bench`` says, of this run or an earlier one: as much as summaries and plots need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from latune.cli.benchmark.case import LINEAR
from latune.errors import LatuneError

LATUNE = "latune"

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Ratio(_Record):
    """A median with its 95% interval; of fewer than six values their extremes."""

    median: Positive
    low: Positive
    high: Positive


class PeerRecord(_Record):
    """One peer in one direction of one shape; the figures are None where it was not timed."""

    peer: str
    function: str
    verdict: str
    median_ms: Positive | None
    ci_low_ms: Positive | None
    ci_high_ms: Positive | None
    times_latune: Ratio | None
    extra_bytes: int | None
    output_bytes: int | None

    @model_validator(mode="after")
    def _with_its_interval(self) -> PeerRecord:
        times = (self.median_ms, self.ci_low_ms, self.ci_high_ms)
        if None in times and any(time is not None for time in times):
            raise ValueError(f"expected a median with its interval, or none of them, got {times}")
        return self

    @property
    def linear(self) -> bool:
        return self.function == LINEAR

    @property
    def timed(self) -> bool:
        return self.median_ms is not None

    @property
    def extra_over_outputs(self) -> float | None:
        return self.extra_bytes / self.output_bytes if self.timed and self.extra_bytes and self.output_bytes else None


class CaseRecord(_Record):
    """One direction of one shape."""

    problem: str
    direction: Literal["fwd", "bwd"]
    batch: PositiveInt
    num_heads: PositiveInt
    seqlen: PositiveInt
    head_dim_k: PositiveInt
    head_dim_v: PositiveInt
    roof_ms: Positive
    results: tuple[PeerRecord, ...]

    @property
    def latune(self) -> PeerRecord | None:
        return next((result for result in self.results if result.peer == LATUNE), None)

    @property
    def rivals(self) -> list[PeerRecord]:
        """Those that compute the same function as latune."""
        return [result for result in self.results if result.linear and result.peer != LATUNE]

    @property
    def kind(self) -> str:
        """Dtype, decay and whatever else but the sizes tells one problem from another."""
        return " ".join(self.problem.split()[2:])

    @property
    def shape(self) -> str:
        """``B,H,N,D``, and E where it differs."""
        sizes = [self.batch, self.num_heads, self.seqlen, self.head_dim_k]
        return ",".join(map(str, sizes if self.head_dim_v == self.head_dim_k else [*sizes, self.head_dim_v]))


class GpuRecord(_Record):
    title: str


class Document(_Record):
    gpu: GpuRecord
    cases: tuple[CaseRecord, ...]

    @property
    def peers(self) -> list[str]:
        """All of them, in the order of the tables."""
        return list(dict.fromkeys(result.peer for case in self.cases for result in case.results))

    def cases_by_direction(self) -> dict[str, list[CaseRecord]]:
        directions = dict.fromkeys(case.direction for case in self.cases)
        return {direction: [case for case in self.cases if case.direction == direction] for direction in directions}


def to_records(document: Mapping[str, object]) -> Document:
    return Document.model_validate(document)


def read_all_records(paths: Sequence[Path]) -> Document:
    """What earlier runs wrote as one document: runs of different shapes, at least one, on GPUs of one kind.

    Raises:
        LatuneError: one cannot be read or is no such document, or they do not belong together.
    """
    documents = [read_records(path) for path in paths]
    seen: dict[str, Path] = {}
    for path, document in zip(paths, documents, strict=True):
        if document.gpu != documents[0].gpu:
            raise LatuneError(
                f"expected runs on one kind of GPU, got {documents[0].gpu.title} in {paths[0]} and {document.gpu.title} in "
                f"{path}: sum them up one by one"
            )
        for case in document.cases:
            if case.kind != documents[0].cases[0].kind:
                raise LatuneError(
                    f"expected runs of one dtype and decay, got {documents[0].cases[0].kind} in {paths[0]} and {case.kind} in "
                    f"{path}: sum them up one by one"
                )
            if case.problem in seen:
                raise LatuneError(
                    f"expected each shape in one run, got {case.problem} in {seen[case.problem]} and in {path}: leave out one"
                )
            seen[case.problem] = path
    return Document(gpu=documents[0].gpu, cases=tuple(case for document in documents for case in document.cases))


def read_records(path: Path) -> Document:
    """The document that an earlier ``latune bench --json FILE`` wrote.

    Raises:
        LatuneError: it cannot be read or is no such document.
    """
    try:
        document = Document.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise LatuneError(f"cannot read {path}: {error}; give a file that `latune bench --json FILE` wrote") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise LatuneError(
            f"{path}: expected a document of `latune bench --json FILE`, got a mistake in {where}: {first['msg']}; "
            "time the shapes again"
        ) from error
    if not document.cases:
        raise LatuneError(f"{path}: expected at least one shape, got none; time some with `latune bench --json FILE`")
    return document
