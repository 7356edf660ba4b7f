#!/usr/bin/env python3
"""A session of ONNX Runtime with an operator of RankForge in its model: a masked
product, as the `down` of an MLP. Prints how far y is from ONNX Runtime's own product
of the inputs that took part.

  pip install onnx onnxruntime
  examples/onnxruntime/masked_session.py build/release/librankforge_onnxruntime.so
"""

import sys
from typing import Any

import numpy
import onnx
import onnxruntime

ROWS, COLS, TAU = 1024, 2816, 0.8


def model_of(w: Any) -> Any:
    """y = w @ x where |x_j| >= TAU, and the same in ONNX's own operators."""
    helper, f32 = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("MaskedGemv", ["x", "w", "tau"], ["y"], domain="rankforge",
                         operation="column_mask", dtype="f32"),
        helper.make_node("Abs", ["x"], ["magnitude"]),
        helper.make_node("GreaterOrEqual", ["magnitude", "tau"], ["kept"]),
        helper.make_node("Where", ["kept", "x", "zero"], ["dropped"]),
        helper.make_node("Gemm", ["dropped", "w"], ["expected"], transB=1),
    ]
    constants = {"w": w, "tau": numpy.array([TAU], numpy.float32),
                 "zero": numpy.zeros(1, numpy.float32)}
    graph = helper.make_graph(
        nodes, "down",
        [helper.make_tensor_value_info("x", f32, ["tokens", COLS])],
        [helper.make_tensor_value_info(name, f32, ["tokens", ROWS])
         for name in ("y", "expected")],
        [onnx.numpy_helper.from_array(value, name)
         for name, value in constants.items()])
    return helper.make_model(graph, ir_version=10, opset_imports=[
        helper.make_opsetid("", 20), helper.make_opsetid("rankforge", 1)])


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: masked_session.py LIBRANKFORGE_ONNXRUNTIME.SO")
    random = numpy.random.default_rng(1)
    w = random.standard_normal((ROWS, COLS)).astype(numpy.float32)
    x = random.standard_normal((3, COLS)).astype(numpy.float32)
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(sys.argv[1])
    session = onnxruntime.InferenceSession(
        model_of(w).SerializeToString(), options, providers=["CPUExecutionProvider"])
    y, expected = session.run(["y", "expected"], {"x": x})
    error = numpy.linalg.norm(y - expected) / numpy.linalg.norm(expected)
    print(f"kept {numpy.mean(numpy.abs(x) >= TAU):.3f} of the inputs; "
          f"relative error {error:.1e}")
    if error > 1e-5:
        sys.exit("masked_session.py: the products differ")


if __name__ == "__main__":
    main()
