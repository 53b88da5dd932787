"""What came of one peer of a contest."""

from __future__ import annotations

import math
from dataclasses import dataclass

from latune.cli.benchmark.hosttime import HostTime
from latune.cli.benchmark.peers import Peer
from latune.tuner import timing


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of one peer in one direction.

    Attributes:
        verdict: ``ok``, ``wrong`` or ``unavailable``; only what is ok is timed.
        detail: why it is unavailable.
        error: the largest relative RMS error of its outputs.
        timing: of the GPU's work, the L2 cache cold.
        replayed: from a CUDA graph; else it was launched by itself.
        host: how long an eager call keeps the host: the forward pass, or a step of forward and backward pass.
        ratio: how many times as long as latune it takes, round by round: median, and its 95% interval; of fewer than six
            rounds, as slow peers have, their extremes.
        extra_bytes: the most memory a call holds beyond its inputs, outputs included; of a backward pass, beyond what the
            forward pass before it has kept for it, too.
        output_bytes: what its outputs alone take.
        step_bytes: of a backward pass: the most memory that it and its forward pass together hold beyond their inputs; None
            where there is no room for that beside what is timed.
    """

    peer: Peer
    verdict: str
    detail: str = ""
    error: float | None = None
    timing: timing.Timing | None = None
    replayed: bool = True
    host: HostTime | None = None
    ratio: tuple[float, float, float] | None = None
    extra_bytes: int | None = None
    output_bytes: int | None = None
    step_bytes: int | None = None

    def to_json(self) -> dict[str, object]:
        timed = self.timing
        return {
            "peer": self.peer.name,
            "version": self.peer.version,
            "function": self.peer.function,
            "layout": self.peer.layout,
            "remark": self.peer.remark,
            "verdict": self.verdict,
            "detail": self.detail,
            # NaN has no place in JSON; the verdict tells.
            "relative_rms_error": self.error if self.error is not None and math.isfinite(self.error) else None,
            "median_ms": timed and timed.median_ms,
            "ci_low_ms": timed and timed.ci_low_ms,
            "ci_high_ms": timed and timed.ci_high_ms,
            "samples": timed.samples if timed else 0,
            "replayed": self.replayed if timed else None,
            "host": self.host and self.host.to_json(),
            "times_latune": None if self.ratio is None else dict(zip(("median", "low", "high"), self.ratio, strict=True)),
            "extra_bytes": self.extra_bytes,
            "output_bytes": self.output_bytes,
            "step_bytes": self.step_bytes,
        }
