#!/usr/bin/env python3
"""Prints what a call of a plan from Python costs beside the run itself: the time of
a call with a tiny matrix, which computes next to nothing.

  pip install . && scripts/python_overhead.py

Medians of batches of calls, in microseconds, with the load of the machine: other
work makes them longer.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

import numpy

import rankforge

CALLS = 2000


def microseconds(call: Callable[[], object], batches: int) -> tuple[float, float]:
    """The median and the least of the batches."""
    times = []
    for _ in range(batches):
        start = time.perf_counter_ns()
        for _ in range(CALLS):
            call()
        times.append((time.perf_counter_ns() - start) / CALLS / 1e3)
    return statistics.median(times), min(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=50)
    arguments = parser.parse_args()

    context = rankforge.Context(1)
    w = numpy.ones((1, 32), numpy.float32)
    x, y = numpy.ones(32, numpy.float32), numpy.empty(1, numpy.float32)
    dense = rankforge.Plan.gemv(rankforge.pack(w, context=context),
                                context=context)
    masked = rankforge.Plan.gemv(
        rankforge.pack(w, "column_mask", context=context), context=context)
    mask = rankforge.Mask.threshold(0.5)
    x_at, y_at = x.ctypes.data, y.ctypes.data
    calls: dict[str, Callable[[], object]] = {
        "plan(x, out=y)": lambda: dense(x, out=y),
        "plan(x, mask=m, out=y)": lambda: masked(x, mask=mask, out=y),
        "plan(x)": lambda: dense(x),
        "plan.run_at(x, y, 1)": lambda: dense.run_at(x_at, y_at, 1),
        "a lambda": lambda: None,
    }
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs; us a call")
    for name, call in calls.items():
        median, least = microseconds(call, arguments.batches)
        print(f"{name:24} median {median:6.2f}  least {least:6.2f}")


if __name__ == "__main__":
    main()
