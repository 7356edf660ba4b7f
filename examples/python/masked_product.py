#!/usr/bin/env python3
"""A product that reads only the columns whose inputs are large, and a rank adapter.

  pip install . && examples/python/masked_product.py
"""

import numpy

import rankforge


def main() -> None:
    random = numpy.random.default_rng(0)
    w = random.standard_normal((1024, 2816), dtype=numpy.float32)
    x = random.standard_normal(2816, dtype=numpy.float32)

    weights = rankforge.pack(w, "column_mask", dtype="bf16")
    plan = rankforge.Plan.gemv(weights)
    kept = numpy.zeros(1, numpy.uint64)
    y = plan(x, mask=rankforge.Mask.threshold(0.8), kept=kept)
    exact = w @ numpy.where(numpy.abs(x) >= 0.8, x, 0)
    error = numpy.abs(y - exact).max() / numpy.abs(exact).max()
    print(f"{kept[0]} of {len(x)} columns, largest error {error:.4f}")
    print(plan.explain())

    # A of rank 256: its columns are skipped where z is small.
    b = random.standard_normal((256, 2816), dtype=numpy.float32)
    a = random.standard_normal((1024, 256), dtype=numpy.float32)
    adapter = rankforge.Plan.rank_adapter(
        rankforge.pack(b, dtype="bf16"),
        rankforge.pack(a, "column_mask", dtype="bf16"),
        rankforge.Mask.threshold(50.0),
    )
    out = numpy.empty(1024, numpy.float32)
    adapter(x, out=out, kept=kept)
    print(f"{kept[0]} of 256 ranks")


if __name__ == "__main__":
    main()
