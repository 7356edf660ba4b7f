"""From arrays to packed weights."""

import os
from collections.abc import Sequence
from typing import Any

import numpy

from rankforge import _core
from rankforge._types import Activations, Array, Operation, Path, WeightType


def _as_source(matrix: Array | _core.Source) -> _core.Source:
    if isinstance(matrix, _core.Source):
        return matrix
    if isinstance(matrix, numpy.ndarray) and matrix.dtype.name == "bfloat16":
        # NumPy hands out the types of ml_dtypes to nobody.
        return _core.Source(matrix.view(numpy.uint16), "BF16")
    return _core.Source(matrix)


def blocks(data: Array, format: str, cols: int) -> _core.Source:
    """A matrix (rows, cols) in blocks of ggml, for `pack`.

    Args:
        data: uint8 (rows, bytes of a row), rows contiguous.
        format: "Q4_0", "Q8_0", "Q4_K" and others, by ggml's names.
        cols: weights of a row, whole blocks.

    Raises:
        Error: no such format, or a shape that does not match.
    """
    return _core.Source(data, format, cols)


def pack(
    matrix: Array | _core.Source | Sequence[Array | _core.Source],
    operation: Operation = "dense",
    *,
    dtype: WeightType = "f32",
    granularity: int = 1,
    tokens: int = 1,
    threads: int = 0,
    activations: Activations | None = None,
    table: _core.Table | None = None,
    context: _core.Context | None = None,
) -> _core.Weights:
    """Packs w of y (rows,) = w @ x (cols,) in the order that kernels read.

    The arrays are read where they lie and are not needed afterwards.

    Args:
        matrix: (rows, cols) of float32, float16 or bfloat16 (ml_dtypes or a
            tensor), rows or columns contiguous, so that `w.T` needs no copy;
            or `blocks`; or several of them with equal cols, which are stacked
            on top of each other (q, k and v; gate and up).
        operation: "dense"; "row_mask": dropped outputs are 0; "column_mask":
            dropped inputs count as 0.
        dtype: how weights are stored, rounded to nearest even.
        granularity: neighbouring channels that one mask entry covers: 1, 8, 32.
        tokens: most tokens of one run, 1 to 16.
        threads: of a run; 0: those of the context.
        activations: what products round their inputs to: "f32" nothing, "i8"
            for integer weights, "bf16" for bf16 weights (a column mask keeps its
            inputs). None: "i8" for integer weights, else "f32". Plans of the
            weights have it, too.
        table: decides the layout, see `load_table`. None: the default layout.
        context: None: that of the process, with all of its CPUs.

    Raises:
        Error: a shape or type that does not match, or weights that are NaN,
            infinite or too large for `dtype`.
    """
    several = isinstance(matrix, (list, tuple))
    matrices: Any = matrix if several else [matrix]
    return _core.pack(
        [_as_source(one) for one in matrices],
        operation,
        dtype,
        granularity,
        tokens,
        threads,
        activations,
        table,
        context,
    )


def adopt(
    matrix: Array,
    operation: Operation = "dense",
    *,
    granularity: int = 1,
    tokens: int = 1,
    threads: int = 0,
    context: _core.Context | None = None,
) -> _core.Weights:
    """Weights that are read where they lie, with no copy; the array is kept.

    Args:
        matrix: (rows, cols) of float32 or float16, rows contiguous, cols a
            multiple of 32; for float32, data and rows aligned to 64 bytes.
        operation: "dense" or "row_mask".

    Raises:
        Error: with Status.UNSUPPORTED and the reason, where `pack` is needed.
    """
    return _core.adopt(
        _as_source(matrix), operation, granularity, tokens, threads, context
    )


def load_table(path: Path) -> _core.Table:
    """Opens what `tune` or the program `rankforge tune` wrote.

    A table of another CPU opens, and has no effect; `Table.notes` says so.

    Raises:
        Error: the file is missing or damaged.
    """
    return _core.Table(os.fspath(path))
