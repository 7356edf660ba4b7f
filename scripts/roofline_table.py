#!/usr/bin/env python3
"""Prints what gemv_bench measured as a table: shares of the read bandwidth.

    gemv_bench --benchmark_filter='(dense|row_mask|column_mask)_(f32|bf16)_.*' \
      --benchmark_out_format=json --benchmark_out=gemv.json
    scripts/roofline_table.py gemv.json

One line per weight type, operation, shape and number of threads, one column per
density. A cell has the median of a variant's repetitions, for the fastest variant.
">1" are cases that gemv_bench left out because they were faster than the read
loops, "-" are cases that were not measured."""

import argparse
import json
import re
import statistics
import sys
from collections import defaultdict

NAME = re.compile(
    r"^(?P<variant>[^/]+/[^/]+/(?P<operation>dense|row_mask|column_mask)"
    r"_(?P<type>f32|bf16|f16|i8_group32|i8|i4_group32|i4_group64|i4m_group32)_[^/]+)"
    r"/(?P<shape>\d+x\d+)/density:(?P<density>\d+)/threads:(?P<threads>\d+)"
    r"(?P<residence>/cached|/ceiling)?(/real_time)?$")
TYPES = ("f32", "bf16", "f16", "i8", "i8_group32", "i4_group32", "i4_group64",
         "i4m_group32")
OPERATIONS = ("dense", "row_mask", "column_mask")
ABOVE = float("inf")  # faster than the read loops


def read_cases(path):
    """{case: {variant: [share of the read bandwidth]}}, with
    case = (type, operation, residence, threads, shape, density)."""
    with open(path, encoding="utf-8") as file:
        runs = json.load(file)["benchmarks"]
    cases = defaultdict(lambda: defaultdict(list))
    for run in runs:
        name = NAME.match(run.get("run_name", run["name"]))
        if name is None or run.get("run_type") == "aggregate":
            continue
        case = (name["type"], name["operation"], name["residence"] or "",
                int(name["threads"]), name["shape"], int(name["density"]))
        share = ABOVE if run.get("error_occurred") else run["roofline"]
        cases[case][name["variant"]].append(share)
    if not cases:
        raise ValueError("no case of gemv_bench in it; write it with "
                         "--benchmark_out, without aggregates only")
    return cases


def cell(variants):
    if not variants:
        return "-"
    # The median of an even number must not be a mean with infinity.
    best = max(statistics.median_low(shares) for shares in variants.values())
    return ">1" if best == ABOVE else f"{best:.2f}".lstrip("0")


def shape_order(shape):
    rows, cols = (int(side) for side in shape.split("x"))
    return -rows * cols, -rows


def table(cases):
    densities = sorted({case[-1] for case in cases})
    lines = defaultdict(dict)
    for case, variants in cases.items():
        lines[case[:-1]][case[-1]] = variants
    yield ("| type | operation | shape | threads | "
           + " | ".join(f".{d:02d}" if d < 100 else "1" for d in densities)
           + " |")
    yield "|---" * (4 + len(densities)) + "|"
    for key in sorted(lines, key=lambda k: (TYPES.index(k[0]),
                                            OPERATIONS.index(k[1]), k[2],
                                            shape_order(k[4]), k[3])):
        kind, operation, residence, threads, shape = key
        cells = (cell(lines[key].get(d)) for d in densities)
        yield (f"| {kind} | {operation} | "
               f"{shape.replace('x', ' x ')}{residence.replace('/', ', ')} | "
               f"{threads} | " + " | ".join(cells) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", help="what gemv_bench --benchmark_out wrote")
    options = parser.parse_args()
    try:
        for line in table(read_cases(options.json)):
            print(line)
    except (OSError, ValueError, KeyError) as error:
        print(f"{options.json}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
