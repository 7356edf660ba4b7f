#!/usr/bin/env python3
"""Runs a case of each kind of the suites of Google Benchmark and reads what they
print: names, times and counters. Nothing is asserted about how large a time is.

suites_test.py FOLDER_OF_THE_PROGRAMS SOURCE_FOLDER"""

import json
import math
import pathlib
import subprocess
import sys
import tempfile
import unittest

PROGRAMS, SOURCE = (pathlib.Path(word) for word in sys.argv[1:])
ROOFLINE = {"useful_gbps", "read_gbps", "roofline"}


def run(program, *words):
    return subprocess.run([PROGRAMS / program, *words], capture_output=True,
                          text=True, check=False)


class SuitesTest(unittest.TestCase):
    def measure(self, program, pattern, counters):
        """Names of the cases that `pattern` finds, after a short run of each. A
        case whose weights come from memory may end with an error instead: on a
        busy machine the read loops may be slower than the product."""
        done = run(program, f"--benchmark_filter={pattern}",
                   "--benchmark_min_time=0.001", "--benchmark_format=json")
        self.assertEqual(done.returncode, 0, done.stderr)
        cases = json.loads(done.stdout)["benchmarks"]
        for case in cases:
            if case.get("error_occurred"):
                self.assertIn("roofline", case["error_message"])
                continue
            self.assertGreater(case["real_time"], 0, case)
            self.assertGreater(case["iterations"], 0, case)
            self.assertLessEqual(counters, case.keys(), case)
            for counter in counters:
                self.assertTrue(math.isfinite(case[counter]), case)
        return [case["name"] for case in cases], done.stdout

    def test_gemv_bench(self):
        names, printed = self.measure(
            "gemv_bench",
            "^hwy/[A-Z0-9_]+/(dense|row_mask|column_mask)_(bf16|i4_group32)_"
            "[^/]+/64x2048/density:(50|100)/threads:1/ceiling", ROOFLINE)
        for operation in ("dense", "row_mask", "column_mask"):
            for kind in ("bf16", "i4_group32"):
                self.assertTrue(
                    any(f"/{operation}_{kind}_" in name for name in names), names)
        # The script makes a table of it.
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "gemv.json")
            path.write_text(printed)
            done = subprocess.run(
                [sys.executable, SOURCE / "scripts/roofline_table.py", path],
                capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("| bf16 | column_mask | 64 x 2048, ceiling | 1 |",
                      done.stdout)

    def test_attention_bench(self):
        names, _ = self.measure(
            "attention_bench",
            "^tinyllama-1.1b/(bf16|i8)/context:256/threads:2/", ROOFLINE)
        self.assertEqual(
            sorted(names),
            [f"tinyllama-1.1b/{kind}/context:256/threads:2/real_time"
             for kind in ("bf16", "i8")])

    def test_mask_bench(self):
        names, _ = self.measure("mask_bench", "/4096/density:50$",
                                {"s_per_value"})
        for producer in ("threshold/all", "top_k/list", "from_index/bits",
                         "from_bytes/index"):
            self.assertIn(f"{producer}/4096/density:50", names)

    def test_dispatch_bench(self):
        names, printed = self.measure("dispatch_bench", ".", set())
        self.assertEqual(names, ["PlanCall", "Decide", "LoadTable",
                                 "LoadTableAndBindPlans"])
        # A call allocates nothing.
        self.assertEqual(json.loads(printed)["benchmarks"][0]["allocations"], 0)

    def test_unknown_options_are_refused(self):
        for program in ("gemv_bench", "attention_bench", "mask_bench",
                        "dispatch_bench"):
            self.assertNotEqual(run(program, "--unknown").returncode, 0, program)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
