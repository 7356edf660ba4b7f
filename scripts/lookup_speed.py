#!/usr/bin/env python3
"""Times `generate` with and without --lookup, on prompts whose text comes again.

  scripts/lookup_speed.py PROGRAM MODEL [--lookup 3 7 15] [--rounds N] [--tokens N]
      [--prompt-file FILE ...] [-- --dtype bf16 --threads 2 ...]

What follows -- are options of `generate`. The prompts are an edit of a function, a list
of JSON objects, a summary with quotes, and a story, whose text does not come again; or
the files of --prompt-file. Without drafts and with each --lookup, the runs take turns,
--rounds times. A row has medians of decoded tokens per second, how many times as fast
each --lookup is (the median of the ratios within a round), which share of the drafted
tokens came out, and tokens per pass. The ids must be the same in all runs: if they are
not, the script fails.

Other work on the machine changes what is measured: the load is printed, too. After the
runs it counts their own threads.
"""
import argparse
import os
import statistics
import sys

from rankforge_program import Refused, answer

EDIT = '''Here is a function:

def total_price(items, tax_rate):
    total = 0
    for item in items:
        price = item["price"] * item["count"]
        if item["discount"] > 0:
            price = price - price * item["discount"]
        total = total + price
    return total + total * tax_rate

Here is the same function, with the name tax_rate changed to rate:

def total_price(items, rate):
    total = 0
'''
LIST = '''[
  {"id": 1, "name": "Anna", "city": "Berlin", "active": true, "roles": ["admin"]},
  {"id": 2, "name": "Bob", "city": "Paris", "active": true, "roles": ["user"]},
  {"id": 3, "name": "Clara", "city": "Rome", "active": false, "roles": ["user"]},
'''
QUOTES = '''The report says: "The old bridge over the river was closed in March because two \
of its steel cables had rusted. Repairs will take until the end of September and will \
cost four million euros. Until then, a ferry carries people across the river every \
twenty minutes, from six in the morning until midnight."

Question: Why was the old bridge closed? Quote the report.
Answer: "The old bridge over the river was closed in March because two of its steel \
cables had rusted."

Question: How long will repairs take, and what do they cost? Quote the report.
Answer: "Repairs will take'''
STORY = '''Once upon a time, in a small village by the sea, there lived an old fisherman who'''
PROMPTS = {"edit of a function": EDIT, "JSON objects": LIST,
           "quotes of a text": QUOTES, "story": STORY}


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("--lookup", nargs="+", type=int, default=[3, 7, 15])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--prompt-file", nargs="+", metavar="FILE")
    words = sys.argv[1:]
    options = []
    if "--" in words:
        at = words.index("--")
        words, options = words[:at], words[at + 1:]
    arguments = parser.parse_args(words)
    arguments.options = options
    return arguments


def prompts(arguments):
    if not arguments.prompt_file:
        return PROMPTS
    texts = {}
    for path in arguments.prompt_file:
        with open(path, encoding="utf-8") as file:
            texts[os.path.basename(path)] = file.read()
    return texts


def generate(arguments, prompt, lookup):
    drafts = ["--lookup", str(lookup)] if lookup else []
    return answer(arguments.program, "generate", "--model", arguments.model,
                  "--prompt", prompt, "-n", str(arguments.tokens), "--json",
                  *drafts, *arguments.options)


def measure(arguments, name, prompt):
    """Documents by lookup, 0: none; one for each round."""
    found = {lookup: [] for lookup in [0, *arguments.lookup]}
    for _ in range(arguments.rounds):
        for lookup, documents in found.items():
            documents.append(generate(arguments, prompt, lookup))
    ids = found[0][0]["ids"]
    for lookup, documents in found.items():
        if any(document["ids"] != ids for document in documents):
            raise SystemExit(f"{name}: --lookup {lookup} gives other tokens")
    return found


def rate(document):
    return document["decode_tokens_per_s"]


def row(name, found):
    before = found[0]
    cells = [name, str(len(before[0]["ids"])),
             f"{statistics.median(map(rate, before)):.1f}"]
    for lookup, documents in found.items():
        if lookup == 0:
            continue
        one = documents[0]
        if one["passes"] == 0:
            raise SystemExit(f"{name}: ends with its first token, which no pass "
                             "decodes: there is nothing to time")
        times = [rate(after) / rate(document)
                 for after, document in zip(documents, before)]
        share = one["accepted"] / one["drafted"] if one["drafted"] else 0
        cells += [f"{statistics.median(map(rate, documents)):.1f}",
                  f"{statistics.median(times):.2f} ({min(times):.2f} to "
                  f"{max(times):.2f})",
                  f"{share:.2f}", f"{one['tokens_per_pass']:.2f}"]
    return cells


def main():
    arguments = parse()
    columns = ["prompt", "tokens", "tokens/s"]
    for lookup in arguments.lookup:
        columns += [f"--lookup {lookup}", "times as fast", "accepted", "per pass"]
    print(f"load {os.getloadavg()[0]:.2f} before; medians of {arguments.rounds}")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for name, prompt in prompts(arguments).items():
        print(f"| {' | '.join(row(name, measure(arguments, name, prompt)))} |",
              flush=True)
    print(f"load {os.getloadavg()[0]:.2f} after")


if __name__ == "__main__":
    try:
        main()
    except Refused as reason:
        raise SystemExit(str(reason)) from None
