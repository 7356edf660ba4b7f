"""Names that annotations share."""

import os
from collections.abc import Sequence
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

Operation: TypeAlias = Literal["dense", "row_mask", "column_mask"]
WeightType: TypeAlias = Literal[
    "f32",
    "bf16",
    "f16",
    "i8",
    "i8_group32",
    "i4_group32",
    "i4_group64",
    "i4m_group32",
]
Activations: TypeAlias = Literal["f32", "bf16", "i8"]
Path: TypeAlias = str | os.PathLike[str]


@runtime_checkable
class SupportsDLPack(Protocol):
    """An array of NumPy, PyTorch, JAX or another library that speaks DLPack."""

    def __dlpack__(self, *arguments: Any, **options: Any) -> Any: ...


Array: TypeAlias = SupportsDLPack | memoryview
TokenIds: TypeAlias = Sequence[int]
