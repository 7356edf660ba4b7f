#!/usr/bin/env python3
"""Applies docs/table.schema.json: to the shipped tables, to one that `rankforge
tune` writes now and to one that `table merge` makes of two; and shows that
damaged ones fail, each for the reason that it was damaged.

table_schema_test.py PROGRAM SOURCE_FOLDER"""

import copy
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

import jsonschema

PROGRAM = sys.argv[1]
SOURCE = pathlib.Path(sys.argv[2])


def load(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


SCHEMA = load(SOURCE / "docs/table.schema.json")
GOLDEN = load(SOURCE / "tests/runtime/data/table_v1.json")
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def objects(value, path=()):
    """(path, object) of every object below that has a closed set of keys."""
    if isinstance(value, dict):
        if path != ("environment", "read_gbps"):
            yield path, value
        for key, child in value.items():
            yield from objects(child, path + (key,))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from objects(child, path + (index,))


def at(document, path):
    for step in path:
        document = document[step]
    return document


class SchemaTest(unittest.TestCase):
    def expect_valid(self, document):
        errors = [f"{error.json_path}: {error.message}"
                  for error in VALIDATOR.iter_errors(document)]
        self.assertEqual(errors, [])

    def expect_invalid(self, document, path):
        """`path` is among the places that errors name."""
        places = [tuple(error.absolute_path)
                  for error in VALIDATOR.iter_errors(document)]
        self.assertIn(path, places)

    def test_the_schema_is_one(self):
        jsonschema.Draft202012Validator.check_schema(SCHEMA)

    def test_names_are_those_of_the_program(self):
        variants = json.loads(subprocess.run(
            [PROGRAM, "variants", "--json"], check=True, capture_output=True,
            text=True).stdout)["variants"]
        entry = SCHEMA["$defs"]["entry"]["properties"]
        problem = SCHEMA["$defs"]["problem"]["properties"]
        self.assertEqual({variant["operation"] for variant in variants},
                         set(problem["operation"]["enum"]))
        self.assertEqual({variant["dtype"] for variant in variants},
                         set(problem["type"]["enum"]))
        self.assertEqual({variant["activations"] for variant in variants},
                         set(problem["activations"]["enum"]))
        self.assertEqual({layout for variant in variants
                          for layout in variant["layouts"]},
                         set(entry["layout"]["enum"]))

    def test_golden_file(self):
        self.expect_valid(GOLDEN)

    def test_shipped_tables(self):
        tables = sorted((SOURCE / "generated/tables").glob("*.json"))
        self.assertGreater(len(tables), 0)
        for path in tables:
            with self.subTest(path.name):
                self.expect_valid(load(path))

    def test_tuned_and_merged_tables(self):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            tables = []
            for cols in (64, 96):
                shapes = folder / "shapes.json"
                shapes.write_text(json.dumps([
                    {"operation": operation, "rows": 64, "cols": cols,
                     "dtype": dtype, "density": 1 if operation == "dense"
                     else 0.5}
                    for operation in ("dense", "row_mask", "column_mask")
                    for dtype in ("bf16", "i8")]))
                tables.append(folder / f"{cols}.json")
                subprocess.run(
                    [PROGRAM, "tune", "--shapes", shapes, "--rigor",
                     "estimate", "--budget", "60s", "--threads", "1",
                     "--allow-noise", "--out", tables[-1]], check=True)
                self.expect_valid(load(tables[-1]))
            merged = folder / "merged.json"
            subprocess.run([PROGRAM, "table", "merge", *tables, "--out",
                            merged], check=True)
            self.expect_valid(load(merged))
            entries = load(merged)["entries"]
            self.assertEqual(len(entries), 12)
            for entry in entries:
                problem = entry["problem"]
                self.assertEqual(problem.get("activations", "f32"),
                                 "i8" if problem["type"] == "i8" else "f32")

    def test_each_key_is_needed(self):
        optional = {"runner_up", "microcode"}
        for path, value in objects(GOLDEN):
            for key in set(value) - optional:
                with self.subTest(path=path, without=key):
                    damaged = copy.deepcopy(GOLDEN)
                    del at(damaged, path)[key]
                    self.expect_invalid(damaged, path)

    def test_no_other_keys(self):
        for path, _ in objects(GOLDEN):
            with self.subTest(path=path):
                damaged = copy.deepcopy(GOLDEN)
                at(damaged, path)["colour"] = "blue"
                self.expect_invalid(damaged, path)

    def test_no_other_types(self):
        for path, value in objects(GOLDEN):
            for key in value:
                with self.subTest(path=path, key=key):
                    damaged = copy.deepcopy(GOLDEN)
                    at(damaged, path)[key] = None
                    self.expect_invalid(damaged, path + (key,))

    def test_values_out_of_range(self):
        bucket = ("entries", 0, "by_density", 0)
        problem = ("entries", 0, "problem")
        for path, value in (
                (("schema",), "rankforge-table/2"),
                (("build", "registry_hash"), "0123456789ABCDEF"),
                (("fingerprint", "cpu", "family"), -1),
                (("environment", "confidence"), "medium"),
                (("policy", "rigor"), "hasty"),
                (("policy", "margin"), 1.5),
                (problem + ("rows",), 0),
                (problem + ("rows",), 256.5),
                (problem + ("operation",), "dance"),
                (problem + ("type",), "f8"),
                (problem + ("threads",), 5000),
                (("entries", 0, "layout"), "out_out"),
                (("entries", 0, "by_density"), []),
                (bucket + ("max",), 1.25),
                (bucket + ("spec",), "12"),
                (bucket + ("variant",), "AVX2"),
                (bucket + ("ns", "median"), -1)):
            with self.subTest(path=path, value=value):
                damaged = copy.deepcopy(GOLDEN)
                at(damaged, path[:-1])[path[-1]] = value
                self.expect_invalid(damaged, path)
        damaged = copy.deepcopy(GOLDEN)
        damaged["environment"]["read_gbps"]["two"] = 3
        self.expect_invalid(damaged, ("environment", "read_gbps"))
        damaged = copy.deepcopy(GOLDEN)
        damaged["entries"][0]["by_density"][-1]["max"] = 0.99
        self.expect_invalid(damaged, ("entries", 0, "by_density"))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
