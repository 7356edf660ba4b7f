"""Several threads, and the GIL that a run releases."""

import ctypes
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy
import pytest
from numpy.random import Generator

import rankforge
from rankforge import Mask, Plan, pack
from reference import matrix, vector


def test_two_threads_on_one_plan(random: Generator) -> None:
    w = matrix(random, 256, 512)
    plan = Plan.gemv(pack(w, "column_mask"))
    mask = Mask.threshold(0.5)
    inputs = [vector(random, 512) for _ in range(8)]
    expected = [plan(x, mask=mask) for x in inputs]

    def run(first: int) -> None:
        for step in range(200):
            number = (first + step) % len(inputs)
            numpy.testing.assert_array_equal(
                plan(inputs[number], mask=mask), expected[number])

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(run, first) for first in range(4)]:
            done.result()


def test_results_do_not_depend_on_threads(random: Generator) -> None:
    w, x = matrix(random, 256, 512), vector(random, 512)
    outputs = []
    for threads in (1, 2):
        context = rankforge.Context(threads)
        plan = Plan.gemv(pack(w, context=context), context=context)
        del context  # the plan keeps its threads
        outputs.append(plan(x))
    numpy.testing.assert_array_equal(outputs[0], outputs[1])


def test_the_gil_is_released(random: Generator) -> None:
    """While a run runs, other Python threads go on: with an interval between
    switches of a minute, none would in a call that kept the GIL."""
    context = rankforge.Context(1)
    w = matrix(random, 2048, 4096)
    plan = Plan.gemv(pack(w, tokens=16, context=context), context=context)
    x = matrix(random, 16, 4096)
    inside, steps, done = threading.Event(), 0, False

    def count() -> None:
        nonlocal steps
        inside.set()
        while not done:
            steps += 1
            time.sleep(0)  # gives the GIL back

    interval = sys.getswitchinterval()
    sys.setswitchinterval(60)
    try:
        other = threading.Thread(target=count)
        other.start()
        inside.wait()
        before = steps
        for _ in range(20):
            plan(x)
        during = steps - before
        done = True
        other.join()
    finally:
        sys.setswitchinterval(interval)
    assert during > 0


def test_objects_die_in_any_order(random: Generator) -> None:
    w, x = matrix(random, 64, 96), vector(random, 96)
    context = rankforge.Context(2)
    weights = pack(w, context=context)
    plan = Plan.gemv(weights, context=context)
    y = plan(x)
    del weights, context
    numpy.testing.assert_array_equal(plan(x), y)
    del plan
    assert y.any()


def test_openmp_needs_its_library() -> None:
    """In a process of its own: another test may have loaded libgomp."""
    text = ("import rankforge\n"
            "try: rankforge.Context(2, openmp=True)\n"
            "except rankforge.Error as error: print(error)")
    done = subprocess.run([sys.executable, "-c", text], capture_output=True,
                          text=True, check=True)
    assert "libgomp.so.1" in done.stdout


def test_openmp_gives_the_same_numbers(random: Generator) -> None:
    try:
        ctypes.CDLL("libgomp.so.1")
    except OSError:
        pytest.skip("no libgomp.so.1")
    w, x = matrix(random, 256, 512), vector(random, 512)
    expected = Plan.gemv(pack(w))(x)
    for threads in (1, 2, 3):
        context = rankforge.Context(threads, openmp=True)
        assert context.threads == threads
        plan = Plan.gemv(pack(w, context=context), context=context)
        del context  # the plan keeps its threads
        numpy.testing.assert_array_equal(plan(x), expected)
    assert rankforge.Context(openmp=True).threads >= 1
