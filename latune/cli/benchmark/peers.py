"""What ``latune bench`` sets latune beside: PyTorch, and packages that compute the same function, where installed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from torch import Tensor
from torch.nn.attention import SDPBackend

from latune.cli.benchmark import operators
from latune.cli.benchmark.case import LINEAR, SOFTMAX, Case


def _once(head_dim: int) -> float:
    return 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One implementation.

    Attributes:
        name: as the table has it.
        function: what it computes, ``LINEAR`` or (another function, for comparison of speed alone) ``SOFTMAX``.
        layout: of the tensors it works on without copies: ``BHND`` or ``BNHD``.
        load: imports it and prepares it for a case; what it returns is timed.
        package: whose version tells what was timed.
        query_factor: what q is multiplied by beforehand, by head dim: a power of two, so that nothing is rounded.
        remark: what a reader of its times should know.
    """

    name: str
    function: str
    layout: str
    load: operators.Load
    package: str
    query_factor: Callable[[int], float] = _once
    remark: str = ""

    @property
    def version(self) -> str | None:
        try:
            return version(self.package)
        except PackageNotFoundError:
            return None

    def inputs(self, case: Case) -> tuple[Tensor, Tensor, Tensor]:
        """The case's q, k and v as the peer takes them."""
        factor = self.query_factor(case.q.shape[-1])
        return self.arrange(case.q if factor == 1 else case.q * factor), self.arrange(case.k), self.arrange(case.v)

    def arrange(self, tensor: Tensor) -> Tensor:
        """A [B, H, N, width] tensor in the peer's layout, contiguous."""
        return tensor if self.layout == "BHND" else tensor.transpose(1, 2).contiguous()

    def restored(self, name: str, tensor: Tensor) -> Tensor:
        """One of the outputs ``o``, ``dq``, ``dk`` and ``dv`` as [B, H, N, width], comparable with the reference."""
        restored = tensor if self.layout == "BHND" else tensor.transpose(1, 2)
        return restored * self.query_factor(restored.shape[-1]) if name == "dq" else restored


# The hungriest last: what runs out of memory has cost no one else theirs.
PEERS: Sequence[Peer] = (
    Peer(name="latune", function=LINEAR, layout="BHND", load=operators.latune_itself, package="latune"),
    Peer(name="fla chunk_simple_gla", function=LINEAR, layout="BNHD", load=operators.fla_chunk, package="fla-core"),
    Peer(
        name="fla fused_chunk_simple_gla",
        function=LINEAR,
        layout="BNHD",
        load=operators.fla_fused_chunk,
        package="fla-core",
    ),
    Peer(
        name="mlstm siging xl_chunk",
        function=LINEAR,
        layout="BHND",
        load=operators.mlstm,
        package="mlstm-kernels",
        query_factor=operators.mlstm_query_factor,
        remark="computes its gates, and backward their gradients, too",
    ),
    Peer(
        name="lightning_attn", function=LINEAR, layout="BHND", load=operators.lightning_attn_package, package="lightning-attn"
    ),
    Peer(
        name="SDPA flash",
        function=SOFTMAX,
        layout="BHND",
        load=operators.sdpa(SDPBackend.FLASH_ATTENTION),
        package="torch",
    ),
    Peer(
        name="SDPA cuDNN",
        function=SOFTMAX,
        layout="BHND",
        load=operators.sdpa(SDPBackend.CUDNN_ATTENTION),
        package="torch",
    ),
    Peer(name="PyTorch chunked", function=LINEAR, layout="BHND", load=operators.pytorch_chunked, package="torch"),
    Peer(name="PyTorch quadratic", function=LINEAR, layout="BHND", load=operators.pytorch_quadratic, package="torch"),
)
