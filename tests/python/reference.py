"""What plans are compared with: products of NumPy in f64, and error bounds."""

import numpy
from numpy.typing import NDArray

Floats = NDArray[numpy.float32]
Doubles = NDArray[numpy.float64]

# The largest relative error of rounding a weight to a float.
FLOAT_ERROR = {"f32": 0.0, "bf16": 2.0**-8, "f16": 2.0**-11}
# Steps of an integer type to its largest magnitude, and the size of a group; 0:
# a whole row or column.
INTEGERS = {
    "i8": (127, 0),
    "i8_group32": (127, 32),
    "i4_group32": (7, 32),
    "i4_group64": (7, 64),
    # Half of a range of up to two magnitudes, in 15 steps.
    "i4m_group32": (7, 32),
}


def weight_error(w: Floats, dtype: str, operation: str) -> Doubles:
    """(rows, cols): how far a stored weight may be from w."""
    size = numpy.abs(w.astype(numpy.float64))
    if dtype in FLOAT_ERROR:
        return size * FLOAT_ERROR[dtype]
    steps, group = INTEGERS[dtype]
    if operation == "column_mask":  # groups run along columns
        size = size.T
    largest = numpy.empty_like(size)
    group = group or size.shape[1]
    for first in range(0, size.shape[1], group):
        part = size[:, first : first + group]
        largest[:, first : first + group] = part.max(axis=1, keepdims=True)
    # Half a step, and the scale is an f16.
    error = largest / steps * 0.5 + size * 2.0**-11 + 1e-7
    return error.T if operation == "column_mask" else error


def check_product(
    y: Floats, w: Floats, x: Floats, dtype: str = "f32", operation: str = "dense",
    activations: str = "f32",
) -> None:
    """y is w @ x but for the rounding of weights, of inputs and of f32 sums."""
    exact = w.astype(numpy.float64) @ x.astype(numpy.float64)
    size = numpy.abs(x.astype(numpy.float64))
    bound = weight_error(w, dtype, operation) @ size
    bound += 1e-6 * (numpy.abs(w) @ size) + 1e-7
    if activations == "i8":
        # Half of 1/127 of the largest input or, in columns, of the largest
        # product of an input and a scale, times integers of up to 8/7 of it.
        largest = float(numpy.abs(w).max()) * float(size.max())
        bound += 8 / 7 * largest / 254 * numpy.count_nonzero(x)
    assert y.shape == exact.shape
    assert numpy.all(numpy.abs(y - exact) <= bound)


def matrix(random: numpy.random.Generator, rows: int, cols: int) -> Floats:
    return random.standard_normal((rows, cols), dtype=numpy.float32)


def vector(random: numpy.random.Generator, size: int) -> Floats:
    return random.standard_normal(size, dtype=numpy.float32)
