"""Operators inside ONNX Runtime against the same plans called from Python.

RANKFORGE_ONNXRUNTIME names the library of operators, librankforge_onnxruntime.so.
"""

import os
import pathlib
import runpy
from typing import Any

import numpy
import pytest
from numpy.random import Generator

from rankforge import Mask, Plan, pack
from reference import Floats, matrix, vector

onnx: Any = pytest.importorskip("onnx")
onnxruntime: Any = pytest.importorskip("onnxruntime")

ROWS, COLS, RANKS = 96, 131, 24


def library() -> str:
    named = os.environ.get("RANKFORGE_ONNXRUNTIME")
    root = pathlib.Path(__file__).parents[2]
    found = sorted(root.glob("build/*/librankforge_onnxruntime.so"))
    path = named or (str(found[0]) if found else "")
    if not path:
        pytest.skip("librankforge_onnxruntime.so is not built; see docs/dependencies.md")
    return path


def session(
    nodes: list[Any],
    initializers: dict[str, Any],
    inputs: dict[str, int],
    outputs: dict[str, int],
    threads: int = 2,
) -> Any:
    """A model of these nodes. Inputs and outputs are (tokens, size)."""
    helper = onnx.helper

    def values(sizes: dict[str, int]) -> list[Any]:
        return [
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["tokens", size])
            for name, size in sizes.items()
        ]

    graph = helper.make_graph(
        nodes,
        "test",
        values(inputs),
        values(outputs),
        [onnx.numpy_helper.from_array(value, name) for name, value in initializers.items()],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("rankforge", 1)],
        ir_version=10,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.register_custom_ops_library(library())
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> Any:
    return onnx.helper.make_node(kind, inputs, [output], domain="rankforge", **attributes)


def by_token(plan: Plan, x: Floats, *masks: Mask) -> Floats:
    """What calls of one token compute. One mask for all, or none."""
    return numpy.stack([plan(row, mask=masks[0]) if masks else plan(row) for row in x])


@pytest.mark.parametrize("tokens", [1, 3, 20])
@pytest.mark.parametrize(
    ("dtype", "activations"),
    [("f32", None), ("bf16", None), ("i8_group32", None), ("i8_group32", "f32")],
)
def test_products(random: Generator, dtype: Any, activations: Any, tokens: int) -> None:
    w, x = matrix(random, ROWS, COLS), matrix(random, tokens, COLS)
    score = matrix(random, tokens, ROWS)
    tau = numpy.abs(vector(random, COLS))
    stated = {"dtype": dtype} | ({"activations": activations} if activations else {})
    run = session(
        [
            node("MaskedGemv", ["x", "w"], "all", **stated),
            node("MaskedGemv", ["x", "w", "tau"], "columns", **stated, operation="column_mask"),
            node(
                "MaskedGemv",
                ["x", "w", "one", "score"],
                "rows",
                **stated,
                operation="row_mask",
            ),
        ],
        {"w": w, "tau": tau, "one": numpy.array([0.7], numpy.float32)},
        {"x": COLS, "score": ROWS},
        {"all": ROWS, "columns": ROWS, "rows": ROWS},
    )
    got = run.run(["all", "columns", "rows"], {"x": x, "score": score})
    dense = Plan.gemv(pack(w, dtype=dtype, activations=activations))
    columns = Plan.gemv(pack(w, "column_mask", dtype=dtype, activations=activations))
    rows = Plan.gemv(pack(w, "row_mask", dtype=dtype, activations=activations))
    numpy.testing.assert_array_equal(got[0], by_token(dense, x))
    numpy.testing.assert_array_equal(got[1], by_token(columns, x, Mask.threshold(tau)))
    expected = [
        rows(token, mask=Mask.threshold(0.7, score=judged))
        for token, judged in zip(x, score, strict=True)
    ]
    numpy.testing.assert_array_equal(got[2], numpy.stack(expected))


@pytest.mark.parametrize("threads", [1, 2])
def test_adapted_model(random: Generator, threads: int) -> None:
    """A gated MLP: gate and up as adapters, down as a column mask."""
    parts: dict[str, Floats] = {
        "gate_b": matrix(random, RANKS, COLS),
        "gate_a": matrix(random, ROWS, RANKS),
        "gate_tau": numpy.full(RANKS, 8, numpy.float32),
        "up_b": matrix(random, RANKS, COLS),
        "up_a": matrix(random, ROWS, RANKS),
        "up_tau": numpy.full(1, 8, numpy.float32),
        "down": matrix(random, COLS, ROWS),
        "tau": numpy.full(1, 300, numpy.float32),
    }
    nodes = [
        node("RankAdapter", ["x", "gate_b", "gate_a", "gate_tau"], "gate"),
        node("RankAdapter", ["x", "up_b", "up_a", "up_tau"], "up"),
        onnx.helper.make_node("Mul", ["gate", "up"], ["h"]),
        node("MaskedGemv", ["h", "down", "tau"], "y", operation="column_mask"),
    ]
    outputs = {"gate": ROWS, "h": ROWS, "y": COLS}
    run = session(nodes, parts, {"x": COLS}, outputs, threads)
    x = matrix(random, 2, COLS)
    gate, h, y = run.run(["gate", "h", "y"], {"x": x})
    adapter = Plan.rank_adapter(
        pack(parts["gate_b"], dtype="bf16"),
        pack(parts["gate_a"], "column_mask", dtype="bf16"),
        Mask.threshold(parts["gate_tau"]),
    )
    numpy.testing.assert_array_equal(gate, by_token(adapter, x))
    down = Plan.gemv(pack(parts["down"], "column_mask", dtype="bf16"))
    numpy.testing.assert_array_equal(y, by_token(down, h, Mask.threshold(300.0)))
    assert 0.1 < numpy.mean(numpy.abs(h) >= 300) < 0.9


def test_weights_may_be_halves(random: Generator) -> None:
    w = matrix(random, ROWS, COLS).astype(numpy.float16)
    run = session(
        [node("MaskedGemv", ["x", "w"], "y", dtype="f16")], {"w": w}, {"x": COLS}, {"y": ROWS}
    )
    x = matrix(random, 1, COLS)
    (y,) = run.run(["y"], {"x": x})
    numpy.testing.assert_array_equal(y, by_token(Plan.gemv(pack(w, dtype="f16")), x))


@pytest.mark.parametrize(
    ("inputs", "attributes", "message"),
    [
        (["x", "w"], {"operation": "column_mask"}, "takes no tau"),
        (["x", "w"], {"operation": "sparse"}, "operation: 'sparse'"),
        (["x", "w"], {"dtype": "f8"}, "weight type 'f8'"),
        (["x", "w"], {"dtype": 1}, "dtype: is no text"),
        (["x", "w"], {"dtype": 0.5}, "dtype: is no text"),
        (["x", "w"], {"dtype": [1, 2]}, "dtype: is no text"),
        (["x", "w"], {"operation": [0.5]}, "operation: is no text"),
        (
            ["x", "w"],
            {"dtype": onnx.numpy_helper.from_array(numpy.zeros(1, numpy.float32))},
            "dtype: is no text",
        ),
        (["x", "w", "w1"], {"operation": "column_mask"}, "tau: is not f32, or has 2 values"),
        (["x", "x"], {}, "no initializer"),
        (["x", "w1"], {}, "no matrix"),
    ],
)
def test_errors_of_sessions(
    random: Generator, inputs: list[str], attributes: dict[str, Any], message: str
) -> None:
    weights = {"w": matrix(random, ROWS, COLS), "w1": vector(random, 2)}
    with pytest.raises(Exception, match=message):
        session([node("MaskedGemv", inputs, "y", **attributes)], weights, {"x": COLS}, {"y": ROWS})


def test_the_example_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example = pathlib.Path(__file__).parents[2] / "examples/onnxruntime/masked_session.py"
    monkeypatch.setattr("sys.argv", [str(example), library()])
    runpy.run_path(str(example), run_name="__main__")
    assert "relative error" in capsys.readouterr().out


def test_errors_of_runs(random: Generator) -> None:
    run = session(
        [node("MaskedGemv", ["x", "w"], "y")],
        {"w": matrix(random, ROWS, COLS)},
        {"x": COLS + 1},
        {"y": ROWS},
    )
    with pytest.raises(Exception, match="its last dimension is not 131"):
        run.run(["y"], {"x": matrix(random, 1, COLS + 1)})
