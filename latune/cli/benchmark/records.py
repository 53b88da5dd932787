"""What a JSON document of ``latune bench`` says, of this run or an earlier one: as much as summaries and plots need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from latune.cli.benchmark.case import LINEAR
from latune.errors import LatuneError

LATUNE = "latune"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Ratio(_Record):
    """A median with its 95% interval."""

    median: float
    low: float
    high: float


class PeerRecord(_Record):
    """One peer in one direction of one shape; the figures are None where it was not timed."""

    peer: str
    function: str
    verdict: str
    median_ms: float | None
    ci_low_ms: float | None
    ci_high_ms: float | None
    times_latune: Ratio | None
    extra_bytes: int | None
    output_bytes: int | None

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
    direction: str
    batch: int
    num_heads: int
    seqlen: int
    head_dim_k: int
    head_dim_v: int
    roof_ms: float
    results: tuple[PeerRecord, ...]

    @property
    def latune(self) -> PeerRecord | None:
        return next((result for result in self.results if result.peer == LATUNE), None)

    @property
    def rivals(self) -> list[PeerRecord]:
        """Those that compute the same function as latune."""
        return [result for result in self.results if result.linear and result.peer != LATUNE]

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
            if case.problem in seen:
                raise LatuneError(
                    f"expected each shape in one run, got {case.problem} in {seen[case.problem]} and in {path}: leave out one"
                )
        seen.update(dict.fromkeys((case.problem for case in document.cases), path))
    return Document(gpu=documents[0].gpu, cases=tuple(case for document in documents for case in document.cases))


def read_records(path: Path) -> Document:
    """The document that an earlier ``latune bench --json FILE`` wrote.

    Raises:
        LatuneError: it cannot be read or is no such document.
    """
    try:
        return Document.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise LatuneError(f"cannot read {path}: {error}; give a file that `latune bench --json FILE` wrote") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise LatuneError(
            f"{path}: expected a document of `latune bench --json FILE`, got a mistake in {where}: {first['msg']}; "
            "time the shapes again"
        ) from error
