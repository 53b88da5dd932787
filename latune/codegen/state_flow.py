"""Where the states of a step come from and go to, beside those that the caller gives and wants."""

from __future__ import annotations

from dataclasses import dataclass

from latune.codegen.partition import Partition


@dataclass(frozen=True, kw_only=True)
class StateFlow(Partition):
    """States of segments, and checkpoints: made by a kernel of the step, kept for another pass, or given by one."""

    @property
    def reverse(self) -> bool:
        return self.kernel.reverse

    @property
    def scanned(self) -> bool:
        """Each segment starts from the state that a scan over them has left."""
        return self.algorithm in ("scan", "cooperative", "balanced")

    @property
    def sums_segments(self) -> bool:
        """Each segment starts from the decayed sum of those before it."""
        return self.segmented and not self.scanned

    @property
    def keeping(self) -> bool:
        """The states of its segments are an output."""
        return self._values.get("segment_states") == "kept"

    @property
    def given(self) -> bool:
        """The states of its segments are an input."""
        return self._values.get("segment_states") == "given"

    @property
    def makes_states(self) -> bool:
        """It makes the states of its segments."""
        return self.segmented and not self.given

    @property
    def passes_states(self) -> bool:
        """Its kernels pass states to one another, or programs of one do: of segments, or of shares."""
        return self.segmented or self.relayed

    @property
    def stores_states(self) -> bool:
        """It writes these itself."""
        return self.makes_states or self.relayed

    @property
    def cooperates(self) -> bool:
        """Its main kernel does, in whose programs they are made for one another."""
        return self.makes_states and self.algorithm in ("cooperative", "balanced")

    @property
    def waits(self) -> bool:
        """Programs of its main kernel wait for one another, so that all have to run at once."""
        return self.cooperates or self.relayed

    @property
    def reads_checkpoints(self) -> bool:
        return self.kernel.reads_checkpoints

    @property
    def makes_checkpoints(self) -> bool:
        """A kernel of its own makes those that it reads."""
        return self.reads_checkpoints and self._values.get("checkpoints") != "given"

    @property
    def keeps_checkpoints(self) -> bool:
        """Forward states, of every ``checkpoint_rows`` rows, are an output."""
        return self._values.get("checkpoints") == "kept"

    @property
    def uses_checkpoints(self) -> bool:
        """Its main kernel writes or reads them."""
        return self.keeps_checkpoints or self.reads_checkpoints

    @property
    def given_checkpoints(self) -> bool:
        """They are an input."""
        return self._values.get("checkpoints") == "given"

    @property
    def checkpoints_key_major(self) -> bool:
        """They lie in memory as [D, E]; False: as [E, D]. Their maker stores them as it holds its state."""
        return self._values["given_layout"] == "plain" if self.given_checkpoints else not self.transposed

    @property
    def has_first_pass(self) -> bool:
        """A kernel of its own runs ahead of the main one."""
        return self.makes_checkpoints or (self.makes_states and not self.cooperates)

    @property
    def stored_head(self) -> str:
        """Where a head's segment states lie among those of all heads that have some."""
        return "i_rest" if self.remainder else "i_bh"

    @property
    def stored_key_major(self) -> bool:
        """Segment states lie in memory as [D, E] as this kernel sees them; False: their transpose.

        The kernel that made them stores them as it holds them. What contracts in one is the value dim of the other.
        """
        return self._values["given_layout"] == "transposed" if self.given else not self.transposed

    @property
    def transposed(self) -> bool:
        return not self.stateless and self._values["state_layout"] == "transposed"
