"""Masked matrix-vector products, rank adapters, gated MLPs and small models on
kernels that read only the weights that are needed.

    weights = rankforge.pack(w, "column_mask", dtype="bf16")
    plan = rankforge.Plan.gemv(weights)
    y = plan(x, mask=rankforge.Mask.threshold(0.8))  # w @ (x where |x| >= 0.8)

Matrices have rows (outputs) and cols (inputs). Inputs and outputs are float32
arrays of NumPy, or of any library that speaks DLPack, and are never copied.
What cannot be done is an `Error` that names the argument.
"""

from rankforge._adapter import (
    Adapter,
    ChannelMask,
    RankAdapter,
    load_adapter,
    save_routers,
)
from rankforge._core import (
    Context,
    Mask,
    Plan,
    Problem,
    Source,
    Table,
    Weights,
    explain,
)
from rankforge._core import version as _version
from rankforge._core import weight_types as _weight_types
from rankforge._errors import Error, Notice, Status
from rankforge._model import Drafts, Generation, Layers, Model, Token
from rankforge._tune import tune
from rankforge._types import Activations, Operation, WeightType
from rankforge._weights import adopt, blocks, load_table, pack

__version__: str = _version()
WEIGHT_TYPES: tuple[str, ...] = _weight_types()
"""How weights are stored: all values of `dtype`."""

__all__ = [
    "WEIGHT_TYPES",
    "Activations",
    "Adapter",
    "ChannelMask",
    "Context",
    "Drafts",
    "Error",
    "Generation",
    "Layers",
    "Mask",
    "Model",
    "Notice",
    "Operation",
    "Plan",
    "Problem",
    "RankAdapter",
    "Source",
    "Status",
    "Table",
    "Token",
    "WeightType",
    "Weights",
    "adopt",
    "blocks",
    "explain",
    "load_adapter",
    "load_table",
    "pack",
    "save_routers",
    "tune",
]
