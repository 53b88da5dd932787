"""Whether the tuner could have written what an entry says of its measurement."""

from __future__ import annotations

from collections.abc import Iterator

from latune.cache.entry import Entry
from latune.gpu import Gpu
from latune.tuner.timing import is_under_roof, roof_ms
from latune.tuner.verify import TOLERANCES


def contradictions(entry: Entry, gpu: Gpu) -> list[str]:
    """What the tuner would have refused or written otherwise, each in one line; of ``gpu``'s file."""
    by_time = _of_timed(entry) if entry.measurement.samples else _of_predicted(entry)
    return [*_of_protocol(entry), *_of_roof(entry, gpu), *by_time]


def _of_protocol(entry: Entry) -> Iterator[str]:
    """A prediction may not pose as measured, whatever else it says."""
    kind = "static" if entry.evidence == "static" else "measured"
    protocol = entry.toolchain["protocol"]
    if not (protocol or "").startswith(f"{kind}-"):
        yield f"expected a protocol {kind}-N for evidence {entry.evidence!r}, got {protocol!r}"


def _of_roof(entry: Entry, gpu: Gpu) -> Iterator[str]:
    """Where an entry states no roof, that of the memory's peak bandwidth."""
    roof = entry.roof_ms or roof_ms(entry.problem.compulsory_bytes, gpu.bandwidth_gbps)
    if is_under_roof(_median_ms(entry), roof):
        yield f"faster than physics: {_median_ms(entry):.4g} ms, where moving its bytes takes {roof:.4g} ms"


def _of_predicted(entry: Entry) -> Iterator[str]:
    measurement = entry.measurement
    if measurement.errors or measurement.ci_low_ms is not None or measurement.ci_high_ms is not None:
        yield "expected neither errors nor an interval of what no sample was taken of"


def _of_timed(entry: Entry) -> Iterator[str]:
    low_ms, high_ms = entry.measurement.ci_low_ms, entry.measurement.ci_high_ms
    if low_ms is None or high_ms is None or not low_ms <= _median_ms(entry) <= high_ms:
        yield f"expected an interval around its median of {_median_ms(entry):.4g} ms, got {low_ms} to {high_ms} ms"
    errors = dict(entry.measurement.errors)
    if missing := [name for name in entry.plan.outputs if name not in errors]:
        yield f"expected an error for each output, got none for {', '.join(missing)}"
    limit = TOLERANCES[entry.bucket.dtype].rms
    for name, error in errors.items():
        if error > limit:
            yield f"wrong result: expected an RMS error of at most {limit:g} of {name}, got {error:.2g}"


def _median_ms(entry: Entry) -> float:
    assert entry.measurement.median_ms is not None, "a winner has a time"
    return entry.measurement.median_ms
