#!/usr/bin/env python3
"""Tunes the same problems --runs times and reports how often the winner changes.

    scripts/tuning_stability.py PROGRAM --out FOLDER [--runs N] -- TUNE_ARGUMENTS

TUNE_ARGUMENTS are those of `rankforge tune` except --out; all runs have the same
seed. An entry agrees with that of the first run if layout, threads and the variant
of every density are the same. Where entries differ, `table verify --against`
measures by how much the two choices differ, and whether that is within the margin.
"""

import argparse
import json
import pathlib
import subprocess
import sys


def tune(program, arguments, table):
    command = [program, "tune", *arguments, "--out", str(table), "--json"]
    result = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(result.stdout)


def choices(table):
    """By problem: (layout, threads) and, by density, (limit, variant)."""
    entries = {}
    for entry in json.loads(table.read_text())["entries"]:
        key = json.dumps(entry["problem"], sort_keys=True)
        entries[key] = (
            (entry["layout"], entry["threads"]),
            [(bucket["max"], bucket["variant"]) for bucket in entry["by_density"]],
        )
    return entries


def verify(program, arguments, table, rival):
    command = [program, "table", "verify", str(table), "--against", str(rival),
               "--json"]
    if "--allow-noise" in arguments:
        command.append("--allow-noise")
    result = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(result.stdout)


def compare(program, arguments, first, other, margin):
    a, b = choices(first), choices(other)
    flipped = [key for key in a if a[key] != b.get(key)]
    buckets = sum(len(entry[1]) for entry in a.values())
    bucket_flips = sum(
        x != y or a[key][0] != b[key][0]
        for key in a if key in b
        for x, y in zip(a[key][1], b[key][1]))
    print(f"{other}: {len(a) - len(flipped)} of {len(a)} entries agree, "
          f"{buckets - bucket_flips} of {buckets} densities")
    if not flipped:
        return 0
    beyond = 0
    for entry in verify(program, arguments, first, other)["entries"]:
        ratio = entry["against_rival"]
        within = abs(ratio["value"] - 1) <= margin + ratio["error"]
        beyond += not within
        problem = entry["problem"]
        print(f"  {problem['operation']} {problem['rows']}x{problem['cols']} "
              f"{problem['type']}, {problem.get('activations', 'f32')} activations: "
              f"{100 * (ratio['value'] - 1):+.1f} % "
              f"(+-{100 * ratio['error']:.1f}) against the other choice"
              f"{'' if within else ', beyond the margin'}")
    return beyond


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("tune", nargs="+", help="arguments of tune, after --")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    tables = []
    for run in range(arguments.runs):
        table = arguments.out / f"run{run}.json"
        result = tune(arguments.program, arguments.tune, table)
        print(f"{table}: {result['entries']} entries in "
              f"{result['seconds']:.1f} s, confidence {result['confidence']}")
        tables.append(table)
    margin = json.loads(tables[0].read_text())["policy"]["margin"]
    beyond = sum(compare(arguments.program, arguments.tune, tables[0], table,
                         margin)
                 for table in tables[1:])
    return 1 if beyond else 0


if __name__ == "__main__":
    sys.exit(main())
