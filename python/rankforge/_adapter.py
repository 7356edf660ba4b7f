"""Adapter files as arrays, and as plans."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy
from numpy.typing import NDArray

from rankforge import _core
from rankforge._errors import Error, Status
from rankforge._types import Activations, Path, WeightType
from rankforge._weights import pack

Floats: TypeAlias = NDArray[numpy.float32]


@dataclass(frozen=True)
class RankAdapter:
    """y = A ((|z| >= tau) * z), z = B x, in place of the weights of `module`.

    a: (rows, ranks), its columns contiguous; b: (ranks, cols); tau: (ranks,).
    The arrays are read-only and lie in the memory of the adapter.
    """

    module: str
    a: Floats
    b: Floats
    tau: Floats
    density: float

    def plan(
        self,
        *,
        dtype: WeightType = "f32",
        tokens: int = 1,
        threads: int = 0,
        activations: Activations | None = None,
        table: _core.Table | None = None,
        context: _core.Context | None = None,
    ) -> _core.Plan:
        """Packs A and B, and binds both products and the mask to kernels."""
        b = pack(self.b, "dense", dtype=dtype, tokens=tokens, threads=threads,
                 activations=activations, table=table, context=context)
        a = pack(self.a, "column_mask", dtype=dtype, tokens=tokens,
                 threads=threads, activations=activations, table=table,
                 context=context)
        return _core.Plan.rank_adapter(
            b, a, _core.Mask.threshold(self.tau), tokens=tokens,
            threads=threads, activations=activations, table=table,
            context=context)


@dataclass(frozen=True)
class ChannelMask:
    """Channel j of `module` takes part iff its value is >= tau_j in magnitude.

    tau: (channels,), read-only, in the memory of the adapter. gain: (channels,),
    a factor of what takes part; bias: (rows,), added to the output; both None
    where none were learned.
    """

    module: str
    tau: Floats
    density: float
    gain: Floats | None = None
    bias: Floats | None = None

    def mask(self) -> _core.Mask:
        """The mask of a plan that reads the values of these channels."""
        return _core.Mask.threshold(self.tau)


@dataclass(frozen=True)
class Adapter:
    """What becomes of the layers of a checkpoint, by their modules.

    ranks: rank adapters; masks: inputs that take part; gates: neurons of a
    gated MLP, judged by act(gate); left_dense: why a module stays as it is.

    routers: by block, (hidden,), what a prompt decides by which layers its
    sequence does without: those whose mean sigmoid is below skip_threshold.
    skip_layers: those that every sequence does without.
    """

    method: str
    keep: float
    ranks: dict[str, RankAdapter]
    masks: dict[str, ChannelMask]
    gates: dict[str, ChannelMask]
    left_dense: dict[str, str]
    routers: dict[int, Floats] = field(default_factory=dict)
    skip_threshold: float = 0.5
    skip_layers: list[int] = field(default_factory=list)


def save_routers(
    path: Path,
    checkpoint: Path,
    routers: Mapping[int, NDArray[numpy.floating]],
    *,
    threshold: float = 0.5,
    method: str = "first",
    parameters: Mapping[str, str] | None = None,
    adapter: Path | None = None,
) -> None:
    """Writes an adapter whose routers decide which layers a prompt leaves out.

    Args:
        checkpoint: the folder or GGUF file that the routers were trained with.
        routers: by block, (hidden,), finite; blocks without one always run.
        threshold: of the mean sigmoid over a prompt's tokens, from 0 to 1.
        method, parameters: what the file says of its origin.
        adapter: file of an adapter that has more for the same checkpoint.

    Raises:
        Error: a router of a block or a size that the checkpoint does not have.
    """
    weights = {}
    for block, router in routers.items():
        values = numpy.asarray(router, dtype=numpy.float32)
        if values.ndim != 1:
            raise Error(Status.ARGUMENT,
                        f"routers: that of block {block} has {values.ndim} "
                        "dimensions, expected one")
        weights[int(block)] = values.tolist()
    _core.save_routers(
        os.fspath(path), os.fspath(checkpoint), weights, threshold, method,
        dict(parameters or {}), "" if adapter is None else os.fspath(adapter))


def load_adapter(path: Path, checkpoint: Path) -> Adapter:
    """Reads an adapter that `rankforge adapt` made for `checkpoint`.

    Raises:
        Error: a damaged file, or one that was made for another checkpoint.
    """
    fields = _core.load_adapter(os.fspath(path), os.fspath(checkpoint))
    return Adapter(
        method=fields["method"],
        keep=fields["keep"],
        ranks={name: RankAdapter(**rank)
               for name, rank in fields["ranks"].items()},
        masks={name: ChannelMask(**mask)
               for name, mask in fields["masks"].items()},
        gates={name: ChannelMask(**mask)
               for name, mask in fields["gates"].items()},
        left_dense=fields["left_dense"],
        routers=fields["routers"],
        skip_threshold=fields["skip_threshold"],
        skip_layers=fields["skip_layers"],
    )
