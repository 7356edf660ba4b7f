"""What is refused, and that the message names the argument and the sizes."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import numpy
import pytest

import rankforge
from rankforge import Error, Mask, Plan, Status, pack


@pytest.fixture
def plan() -> Plan:
    return Plan.gemv(pack(numpy.ones((4, 6), numpy.float32), tokens=3))


@pytest.fixture
def masked() -> Plan:
    return Plan.gemv(pack(numpy.ones((4, 6), numpy.float32), "column_mask"))


def floats(*shape: int) -> Any:
    return numpy.zeros(shape, numpy.float32)


@contextlib.contextmanager
def refused(message: str) -> Iterator[None]:
    with pytest.raises(Error, match=re.escape(message)) as info:
        yield
    assert info.value.status is Status.ARGUMENT


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (floats(5), "x: shape (5,), expected (6,) or (tokens, 6) with tokens "
                    "from 1 to 3"),
        (floats(4, 6), "x: shape (4, 6), expected (6,)"),
        (floats(0, 6), "x: shape (0, 6)"),
        (floats(1, 1, 6), "x: shape (1, 1, 6), expected one or two dimensions"),
        (numpy.zeros(6), "x: dtype float64, expected float32"),
        (floats(12)[::2], "x: values of a row are 2 apart"),
        (floats(6)[::-1], "x: values of a row are -1 apart"),
        (floats(2, 6)[::-1], "x: rows are -6 values apart, expected at least"),
        ([1.0] * 6, "x: is a list, expected an array"),
        (None, "x: is a NoneType, expected an array"),
    ],
)
def test_inputs(plan: Plan, x: Any, message: str) -> None:
    with refused(message):
        plan(x)


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (floats(5), "out: shape (5,), expected (4,)"),
        (floats(1, 4), "out: shape (1, 4), expected (4,)"),
        (numpy.zeros(4), "out: dtype float64, expected float32"),
        (floats(8)[::2], "out: values of a row are 2 apart"),
        ("four", "out: is a str, expected an array"),
    ],
)
def test_outputs(plan: Plan, out: Any, message: str) -> None:
    with refused(message):
        plan(floats(6), out=out)


def test_more_outputs(plan: Plan) -> None:
    with refused("out: shape (3, 4), expected (2, 4)"):
        plan(floats(2, 6), out=floats(3, 4))
    with refused("out: rows are 0 values apart"):
        plan(floats(2, 6),
             out=numpy.lib.stride_tricks.as_strided(floats(4), (2, 4), (0, 4)))
    read_only = floats(4)
    read_only.flags.writeable = False
    with refused("out: is read-only"):
        plan(floats(6), out=read_only)
    with refused("out: is None, nothing to add to"):
        plan(floats(6), accumulate=True)
    room = floats(10)
    with refused("y"):
        plan(room[:6], out=room[4:8])
    with refused("bias: shape (3,), expected (4,)"):
        plan(floats(6), bias=floats(3))
    with refused("kept: has 2 values, expected 1"):
        plan(floats(6), kept=numpy.zeros(2, numpy.uint64))
    with refused("kept: dtype int32, expected uint64"):
        plan(floats(6), kept=numpy.zeros(1, numpy.int32))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (None, "mask: is None, but the plan has a masked operation"),
        (Mask.threshold(floats(5)), "mask.tau: has 5 values, expected 6"),
        (Mask.threshold(1, score=floats(7)), "mask.score: has 7 values"),
        (Mask.threshold(1, mu=floats(7)), "mask.mu: has 7 values, expected 6"),
        (Mask.bytes(numpy.zeros(3, bool)), "mask.bytes: has 3 values"),
        (Mask.bits(numpy.zeros(2, numpy.uint64)), "mask.bits: has 2 values"),
        (Mask.indices(numpy.array([6], numpy.uint32)), "6"),
        (Mask.indices(numpy.array([2, 1], numpy.uint32)), "index"),
        ([Mask.threshold(1)] * 2, "mask: has 2 masks, expected 1 or 1"),
        ([0.5], "mask: is neither a Mask nor a sequence of them"),
        (0.5, "mask: is neither a Mask nor a sequence of them"),
    ],
)
def test_masks(masked: Plan, mask: Any, message: str) -> None:
    with refused(message):
        masked(floats(6), mask=mask)


def test_arrays_of_masks(plan: Plan) -> None:
    with refused("mask: is given, but the plan takes none"):
        plan(floats(6), mask=Mask.threshold(1))
    with refused("tau: is neither a number nor a vector of float32"):
        Mask.threshold("high")  # type: ignore[arg-type]
    with refused("tau: dtype float64, expected float32"):
        Mask.threshold(numpy.zeros(6))
    with refused("indices: dtype int64, expected uint32"):
        Mask.indices(numpy.arange(3))
    with refused("bits: shape (2, 2), expected a contiguous vector"):
        Mask.bits(numpy.zeros((2, 2), numpy.uint64))
    with refused("bits: has 1 values, expected 2"):
        Mask.threshold(1).make_into(numpy.zeros(1, numpy.uint64), floats(65))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (floats(6), "source: shape (6,), expected (rows, cols)"),
        (numpy.zeros((4, 6)), "source: dtype float64, expected float32"),
        (numpy.zeros((4, 6), numpy.uint16), "source: dtype uint16, expected"),
        (floats(8, 12)[::2, ::2], "source: strides (24, 2), expected contiguous"),
        ([], "sources: is empty"),
    ],
)
def test_sources(source: Any, message: str) -> None:
    with refused(message):
        pack(source)


def test_packing() -> None:
    bad = floats(4, 6)
    bad[1, 2] = numpy.nan
    with pytest.raises(Error, match="(?i)nan") as info:
        pack(bad)
    assert info.value.status is Status.FAILED
    with refused("operation: 'sparse' is none of dense, row_mask, column_mask"):
        pack(floats(4, 6), "sparse")  # type: ignore[arg-type]
    with refused("i4_group32"):
        pack(floats(4, 6), dtype="i3")  # type: ignore[arg-type]
    with refused("tokens"):
        pack(floats(4, 6), tokens=17)
    with refused("granularity"):
        pack(floats(4, 6), "column_mask", granularity=3)
    with refused("cols"):
        pack([floats(4, 6), floats(4, 7)])
    with pytest.raises(Error) as info:
        rankforge.adopt(floats(4, 6))
    assert info.value.status is Status.UNSUPPORTED


def test_plans() -> None:
    dense = pack(floats(4, 6))
    with pytest.raises(Error, match="(?i)shape|cols|rows"):
        Plan.rank_adapter(dense, pack(floats(8, 5), "column_mask"),
                          Mask.threshold(1))
    with refused("mask.tau: has 3 values, expected 4"):
        Plan.rank_adapter(dense, pack(floats(8, 4), "column_mask"),
                          Mask.threshold(floats(3)))
    with refused("activation: 'relu' is none of silu, gelu, gelu_tanh"):
        Plan.gated_mlp(dense, pack(floats(6, 4), "column_mask"), dense,
                       activation="relu")
    with pytest.raises(TypeError):
        Plan.gemv("weights")  # type: ignore[arg-type]


def test_files(tmp_path: Any) -> None:
    for missing in (rankforge.load_table, rankforge.Weights.open,
                    rankforge.Model.load):
        with pytest.raises(Error, match="nothing-here") as info:
            missing(str(tmp_path / "nothing-here"))
        assert info.value.status in (Status.FAILED, Status.ARGUMENT)


def test_context() -> None:
    assert rankforge.Context(2).threads == 2
    assert rankforge.Context().threads >= 1
    with refused("4097"):
        rankforge.Context(4097)
