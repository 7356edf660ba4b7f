"""Plans against NumPy."""

import pathlib
from typing import Any

import numpy
import pytest
from numpy.random import Generator

import rankforge
from rankforge import Activations, Mask, Operation, Plan, WeightType, pack
from reference import Floats, check_product, matrix, vector

TYPES = list(rankforge.WEIGHT_TYPES)
ROWS, COLS = 96, 131


def masked(x: Floats, tau: float) -> Floats:
    return numpy.where(numpy.abs(x) >= tau, x, numpy.float32(0))


def activations_of(dtype: str) -> str:
    """What products of this type do to their inputs where nobody says."""
    return "i8" if dtype.startswith("i") else "f32"


@pytest.mark.parametrize("dtype", TYPES)
def test_dense(random: Generator, dtype: WeightType) -> None:
    w, x = matrix(random, ROWS, COLS), vector(random, COLS)
    plan = Plan.gemv(pack(w, dtype=dtype))
    assert (plan.rows, plan.cols, plan.tokens) == (ROWS, COLS, 1)
    check_product(plan(x), w, x, dtype, activations=activations_of(dtype))
    assert "dense" in plan.explain()


@pytest.mark.parametrize("dtype", TYPES)
def test_activations(random: Generator, dtype: WeightType) -> None:
    w, x = matrix(random, ROWS, COLS), matrix(random, 3, COLS)
    weights = pack(w, dtype=dtype, activations="f32", tokens=3)
    exact = Plan.gemv(weights)
    untold = Plan.gemv(pack(w, dtype=dtype, tokens=3))
    check_product(exact(x[0]), w, x[0], dtype)
    if activations_of(dtype) == "f32":
        numpy.testing.assert_array_equal(untold(x), exact(x))
        with pytest.raises(rankforge.Error, match="i8 is not for weights of"):
            Plan.gemv(weights, activations="i8")
        return
    rounded = Plan.gemv(weights, activations="i8")
    assert "i8 activations" in rounded.explain()
    numpy.testing.assert_array_equal(untold(x), rounded(x))
    assert numpy.any(rounded(x) != exact(x))
    for token in range(3):
        numpy.testing.assert_array_equal(rounded(x[token]), rounded(x)[token])
    with pytest.raises(rankforge.Error, match="'i4' is none of f32, bf16, i8"):
        Plan.gemv(weights, activations="i4")  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", TYPES)
def test_column_mask(random: Generator, dtype: WeightType) -> None:
    w, x = matrix(random, ROWS, COLS), vector(random, COLS)
    plan = Plan.gemv(pack(w, "column_mask", dtype=dtype))
    kept = numpy.zeros(1, numpy.uint64)
    y = plan(x, mask=Mask.threshold(0.8), kept=kept)
    check_product(
        y, w, masked(x, 0.8), dtype, "column_mask", activations_of(dtype))
    assert kept[0] == numpy.count_nonzero(numpy.abs(x) >= 0.8)


@pytest.mark.parametrize("dtype", TYPES)
def test_row_mask(random: Generator, dtype: WeightType) -> None:
    w, x = matrix(random, ROWS, COLS), vector(random, COLS)
    plan = Plan.gemv(pack(w, "row_mask", dtype=dtype))
    keep = random.random(ROWS) < 0.4
    y = plan(x, mask=Mask.bytes(keep))
    assert not y[~keep].any()
    check_product(
        y[keep], w[keep], x, dtype, "row_mask", activations_of(dtype))


def all_masks(x: Floats, keep: numpy.ndarray, rows: bool) -> dict[str, Mask]:
    """The same choice of channels in every form."""
    bits = numpy.zeros((len(keep) + 63) // 64, numpy.uint64)
    for channel in numpy.flatnonzero(keep):
        bits[channel // 64] |= numpy.uint64(1) << numpy.uint64(channel % 64)
    score = numpy.where(keep, 2, 1).astype(numpy.float32)
    return {
        "bytes": Mask.bytes(keep),
        "bits": Mask.bits(bits),
        "indices": Mask.indices(numpy.flatnonzero(keep).astype(numpy.uint32)),
        "score": Mask.threshold(1.5, score=score),
        "tau": Mask.threshold(
            numpy.where(keep, 1.5, 3).astype(numpy.float32), score=score + 1),
        "top_k": Mask.top_k(int(keep.sum()), score=score),
        "mu": Mask.threshold(0.5, score=score, mu=numpy.ones_like(score)),
    }


@pytest.mark.parametrize("operation", ["row_mask", "column_mask"])
def test_masks_agree(random: Generator, operation: rankforge.Operation) -> None:
    w, x = matrix(random, ROWS, COLS), vector(random, COLS)
    count = ROWS if operation == "row_mask" else COLS
    keep = random.random(count) < 0.5
    plan = Plan.gemv(pack(w, operation))
    masks = all_masks(x, keep, operation == "row_mask")
    expected = plan(x, mask=masks["bytes"])
    assert expected.any()
    for name, mask in masks.items():
        numpy.testing.assert_array_equal(plan(x, mask=mask), expected, name)


@pytest.mark.parametrize("granularity", [8, 32])
def test_granularity(random: Generator, granularity: int) -> None:
    w, x = matrix(random, ROWS, COLS), vector(random, COLS)
    groups = -(-COLS // granularity)
    keep = random.random(groups) < 0.5
    plan = Plan.gemv(pack(w, "column_mask", granularity=granularity))
    y = plan(x, mask=Mask.bytes(keep))
    channels = numpy.repeat(keep, granularity)[:COLS]
    check_product(y, w, numpy.where(channels, x, numpy.float32(0)))


def test_mask_of_the_input_in_top_k(random: Generator) -> None:
    w, x = matrix(random, ROWS, COLS), vector(random, COLS)
    plan = Plan.gemv(pack(w, "column_mask"))
    tau = float(numpy.sort(numpy.abs(x))[-20])
    numpy.testing.assert_array_equal(
        plan(x, mask=Mask.top_k(20)), plan(x, mask=Mask.threshold(tau)))


def test_a_changed_array_changes_the_mask(random: Generator) -> None:
    w, x = matrix(random, ROWS, COLS), vector(random, COLS)
    keep = numpy.zeros(COLS, numpy.uint8)
    plan, mask = Plan.gemv(pack(w, "column_mask")), Mask.bytes(keep)
    assert not plan(x, mask=mask).any()
    keep[:] = 1
    check_product(plan(x, mask=mask), w, x)


def test_bits_are_made_once(random: Generator) -> None:
    x = vector(random, COLS)
    bits = numpy.zeros(3, numpy.uint64)
    kept = Mask.threshold(0.8).make_into(bits, x)
    assert kept == numpy.count_nonzero(numpy.abs(x) >= 0.8)
    w = matrix(random, ROWS, COLS)
    plan = Plan.gemv(pack(w, "column_mask"))
    numpy.testing.assert_array_equal(
        plan(x, mask=Mask.bits(bits)), plan(x, mask=Mask.threshold(0.8)))


@pytest.mark.parametrize("tokens", [2, 5, 16])
def test_batches(random: Generator, tokens: int) -> None:
    w, x = matrix(random, ROWS, COLS), matrix(random, tokens, COLS)
    plan = Plan.gemv(pack(w, "column_mask", tokens=tokens))
    one = Plan.gemv(pack(w, "column_mask"))
    masks = [Mask.threshold(0.1 * token) for token in range(tokens)]
    y = plan(x, mask=masks)
    common = plan(x, mask=Mask.threshold(0.5))
    for token in range(tokens):
        expected = one(x[token], mask=masks[token])
        numpy.testing.assert_array_equal(y[token], expected)
        expected = one(x[token], mask=Mask.threshold(0.5))
        numpy.testing.assert_array_equal(common[token], expected)


@pytest.mark.parametrize("dtype", TYPES)
def test_rank_adapter(random: Generator, dtype: WeightType) -> None:
    ranks = 64
    b, a = matrix(random, ranks, COLS), matrix(random, ROWS, ranks)
    tau = numpy.full(ranks, 4, numpy.float32)
    packed_b = pack(b, dtype=dtype)
    x = vector(random, COLS)
    plan = Plan.rank_adapter(
        packed_b, pack(a, "column_mask", dtype=dtype), Mask.threshold(tau))
    kept = numpy.zeros(1, numpy.uint64)
    y = plan(x, kept=kept)
    # z as the plan has it: then A is the only product with errors.
    z = masked(Plan.gemv(packed_b)(x), 4)
    assert kept[0] == numpy.count_nonzero(z)
    check_product(y, a, z, dtype, "column_mask", activations_of(dtype))


INTEGERS = [dtype for dtype in TYPES if dtype.startswith("i")]


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("packed", ["f32", "i8"])
def test_an_adapter_has_the_activations_of_its_weights(
    random: Generator, dtype: WeightType, packed: Activations
) -> None:
    b, a = matrix(random, 64, COLS), matrix(random, ROWS, 64)
    x, rule = vector(random, COLS), Mask.threshold(4)
    other: Activations = "i8" if packed == "f32" else "f32"
    packed_b = pack(b, dtype=dtype, activations=packed)
    packed_a = pack(a, "column_mask", dtype=dtype, activations=packed)
    plan = Plan.rank_adapter(packed_b, packed_a, rule)
    assert ("i8 activations" in plan.explain()) == (packed == "i8")
    stated = Plan.rank_adapter(packed_b, packed_a, rule, activations=packed)
    numpy.testing.assert_array_equal(plan(x), stated(x))
    # What the plan is told counts.
    told = Plan.rank_adapter(packed_b, packed_a, rule, activations=other)
    assert ("i8 activations" in told.explain()) == (other == "i8")
    assert numpy.any(plan(x) != told(x))


@pytest.mark.parametrize("operation", ["dense", "row_mask"])  # of up
@pytest.mark.parametrize("packed", ["f32", "i8"])
def test_an_mlp_has_the_activations_of_its_weights(
    random: Generator, operation: Operation, packed: Activations
) -> None:
    hidden, x, rule = 160, vector(random, COLS), Mask.threshold(1)
    w = matrix(random, hidden, COLS)
    gate = pack(w, dtype="i8_group32", activations=packed)
    up = pack(w, operation, dtype="i4_group32", activations=packed)
    down = pack(matrix(random, ROWS, hidden), "column_mask",
                dtype="i4_group32", activations=packed)

    def plan(activations: Activations | None) -> Plan:
        gates = operation == "row_mask"
        return Plan.gated_mlp(
            gate, down, up, activations=activations,
            gate_rule=rule if gates else None,
            hidden_rule=None if gates else rule)

    as_packed = plan(None)
    assert ("i8 activations" in as_packed.explain()) == (packed == "i8")
    numpy.testing.assert_array_equal(as_packed(x), plan(packed)(x))
    changed = bool(numpy.any(as_packed(x) != plan("f32")(x)))
    assert changed == (packed == "i8")


def test_layers_of_different_activations(
    random: Generator, tmp_path: pathlib.Path
) -> None:
    rule, x = Mask.threshold(4), vector(random, COLS)
    source_b, source_a = matrix(random, 64, COLS), matrix(random, ROWS, 64)
    exact = pack(source_b, dtype="i8_group32", activations="f32")
    untold = pack(source_a, "column_mask", dtype="i4_group32")
    with pytest.raises(rankforge.Error,
                       match=r"^activations: .*\(b with f32, a with i8\)"):
        Plan.rank_adapter(exact, untold, rule)
    assert "i8 activations" not in Plan.rank_adapter(
        exact, untold, rule, activations="f32").explain()
    wide = pack(matrix(random, 64, COLS), dtype="bf16")
    with pytest.raises(
            rankforge.Error,
            match=r"^activations: .*\(gate with f32, gate_a with i8, up with "
                  r"f32, down with f32\)"):
        Plan.gated_mlp(
            wide, pack(source_b.T.copy(), "column_mask", dtype="i4_group32",
                       activations="f32"),
            exact, gate_a=untold, gate_a_rule=rule)
    # Weights that are never rounded beside, and files, have no say.
    both: list[Activations] = ["f32", "i8"]
    for beside in both:
        a = pack(source_a, "column_mask", dtype="i4_group32",
                 activations=beside)
        path = tmp_path / beside
        exact.save(path)
        for b in (wide, rankforge.Weights.open(path)):
            plan = Plan.rank_adapter(b, a, rule)
            expected = Plan.rank_adapter(b, a, rule, activations=beside)
            numpy.testing.assert_array_equal(plan(x), expected(x))
            assert ("i8 activations" in plan.explain()) == (beside == "i8")


@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh"])
def test_gated_mlp(random: Generator, activation: str) -> None:
    hidden = 160
    gate, up = matrix(random, hidden, COLS), matrix(random, hidden, COLS)
    down, x = matrix(random, ROWS, hidden), vector(random, COLS)
    packed_down = pack(down, "column_mask")
    plan = Plan.gated_mlp(pack(gate), packed_down, pack(up),
                          activation=activation,
                          hidden_rule=Mask.threshold(1.0))
    g = gate.astype(numpy.float64) @ x
    act = {
        "silu": lambda v: v / (1 + numpy.exp(-v)),
        "gelu": lambda v: v * 0.5 * (1 + numpy.vectorize(_erf)(v / 2**0.5)),
        "gelu_tanh": lambda v: 0.5 * v * (1 + numpy.tanh(
            (2 / numpy.pi) ** 0.5 * (v + 0.044715 * v**3))),
    }[activation](g)
    h = act * (up.astype(numpy.float64) @ x)
    near = numpy.abs(numpy.abs(h) - 1.0) < 1e-3
    h[near] = 0
    exact = down @ (h * (numpy.abs(h) >= 1.0))
    slack = numpy.abs(down[:, near]).sum(axis=1) * 1.01
    bound = 1e-4 * (numpy.abs(down) @ numpy.abs(h)) + slack
    assert numpy.all(numpy.abs(plan(x) - exact) <= bound)


def _erf(value: float) -> float:
    import math

    return math.erf(value)


def test_gate_first_mlp(random: Generator) -> None:
    hidden = 160
    gate, up = matrix(random, hidden, COLS), matrix(random, hidden, COLS)
    down, x = matrix(random, ROWS, hidden), vector(random, COLS)
    plan = Plan.gated_mlp(
        pack(gate), pack(down, "column_mask"), pack(up, "row_mask"),
        gate_rule=Mask.threshold(1.0))
    kept = numpy.zeros(1, numpy.uint64)
    y = plan(x, kept=kept)
    g = Plan.gemv(pack(gate))(x).astype(numpy.float64)
    act = g / (1 + numpy.exp(-g))
    keep = numpy.abs(act) >= 1.0
    assert abs(int(kept[0]) - int(keep.sum())) <= 1
    h = numpy.where(keep, act * (up.astype(numpy.float64) @ x), 0)
    assert numpy.all(
        numpy.abs(y - down @ h) <= 1e-4 * (numpy.abs(down) @ numpy.abs(h)))


def test_stacked_sources(random: Generator) -> None:
    q, k, x = matrix(random, 64, COLS), matrix(random, 32, COLS), vector(random, COLS)
    y = Plan.gemv(pack([q, k]))(x)
    check_product(y, numpy.concatenate([q, k]), x)


@pytest.mark.parametrize("source", ["float16", "bfloat16"])
def test_half_sources(random: Generator, source: str) -> None:
    if source == "bfloat16":
        pytest.importorskip("ml_dtypes")  # gives NumPy the name
    half: Any = matrix(random, ROWS, COLS).astype(source)
    w, x = half.astype(numpy.float32), vector(random, COLS)
    check_product(Plan.gemv(pack(half))(x), w, x)
    transposed = Plan.gemv(pack(numpy.ascontiguousarray(half.T).T))(x)
    check_product(transposed, w, x)


def test_memory_of_others(random: Generator) -> None:
    """Slices, transposes, memoryviews and mapped files, without copies."""
    big = matrix(random, 2 * ROWS, COLS + 5)
    w = big[::2, 3 : 3 + COLS]
    rows = matrix(random, 4, COLS + 2)
    x = rows[:, 1 : 1 + COLS]
    plan = Plan.gemv(pack(w, tokens=4))
    room = numpy.full((4, ROWS + 3), 9, numpy.float32)
    out = room[:, 2 : 2 + ROWS]
    assert plan(x, out=out) is out
    for token in range(4):
        check_product(out[token], w, x[token])
    assert (room[:, :2] == 9).all() and (room[:, 2 + ROWS :] == 9).all()
    single = numpy.ascontiguousarray(x[0])
    numpy.testing.assert_array_equal(
        Plan.gemv(pack(w))(single.data), out[0])


def test_bias_and_accumulate(random: Generator) -> None:
    w, x, bias = matrix(random, ROWS, COLS), vector(random, COLS), vector(random, ROWS)
    plan = Plan.gemv(pack(w))
    y = plan(x)
    numpy.testing.assert_allclose(plan(x, bias=bias), y + bias, rtol=1e-5, atol=1e-4)
    out = bias.copy()
    plan(x, out=out, accumulate=True)
    numpy.testing.assert_allclose(out, y + bias, rtol=1e-5, atol=1e-4)


def aligned(rows: int, cols: int) -> Floats:
    room = numpy.zeros(rows * cols + 16, numpy.float32)
    first = -(room.ctypes.data // 4) % 16
    return room[first : first + rows * cols].reshape(rows, cols)


def test_adopted_weights_are_read_in_place(random: Generator) -> None:
    w, x = aligned(ROWS, 128), vector(random, 128)
    w[:] = matrix(random, ROWS, 128)
    weights = rankforge.adopt(w)
    assert weights.adopted and weights.dtype == "f32"
    plan = Plan.gemv(weights)
    check_product(plan(x), w, x)
    w[:] = 0
    assert not plan(x).any()
    del weights, w  # the plan keeps the array
    assert not plan(x).any()


def test_weights_file(random: Generator, tmp_path: pathlib.Path) -> None:
    w, x = matrix(random, ROWS, COLS), vector(random, COLS)
    weights = pack(w, "column_mask", dtype="i4_group32")
    assert weights.quantization_error > 0
    path = tmp_path / "w.rankforge"
    weights.save(path)
    opened = rankforge.Weights.open(path)
    assert (opened.rows, opened.cols, opened.dtype, opened.layout) == (
        ROWS, COLS, "i4_group32", weights.layout)
    mask = Mask.threshold(0.5)
    numpy.testing.assert_array_equal(
        Plan.gemv(opened, "column_mask")(x, mask=mask),
        Plan.gemv(weights)(x, mask=mask))


def test_ggml_blocks(random: Generator) -> None:
    """Q8_0: an f16 scale and 32 integers."""
    cols = 128
    integers = random.integers(-127, 128, (ROWS, cols // 32, 32), numpy.int8)
    scales = random.random((ROWS, cols // 32, 1)).astype(numpy.float16)
    data = numpy.concatenate([scales.view(numpy.uint8).reshape(ROWS, -1, 2),
                              integers.view(numpy.uint8)], axis=2)
    w = (scales.astype(numpy.float32) * integers).reshape(ROWS, cols)
    x = vector(random, cols)
    source = rankforge.blocks(data.reshape(ROWS, -1), "Q8_0", cols)
    plan = Plan.gemv(pack(source, dtype="i8_group32", activations="f32"))
    check_product(plan(x), w, x)
    with pytest.raises(rankforge.Error, match="shape .* and cols 96"):
        rankforge.blocks(data.reshape(ROWS, -1), "Q8_0", 96)
    with pytest.raises(rankforge.Error, match="'Q9' is none of"):
        rankforge.blocks(data.reshape(ROWS, -1), "Q9", cols)
