#!/usr/bin/env python3
"""Adapts models by every method at several budgets and prints what each loses.

  scripts/compare_methods.py PROGRAM [MODEL...] [--calibration FILE] [--text FILE]
      [--windows N] [--window N] [--choices FILE...] [--keep 0.7 0.56 0.45]
      [--method rana wina ...] [--without refit ...] [--tokens N]
      [--keep-adapters FOLDER] [--dtype f32 bf16 ...]
      [--results FILE [--context 1,250,500]]

Prints one table per model: excess log-loss over the dense model in nats per token,
by method and budget, with the share of the multiply-adds that the evaluation
measured. A dash: a method refuses the model or the budget (stderr says why).
Methods are those of `PROGRAM adapt --help` that write an adapter. a3 writes smaller
checkpoints, which scripts/compare_a3.py compares. The model and the texts are those
of examples/models unless others are named; scripts/fetch_stories.py makes the texts
of docs/rana.md. --window is the length of windows, for calibration and evaluation.
--choices adds one table for each file of questions (`rankforge eval --choices`): the
share that is answered right, with its standard error. --without adds rows of method rana that leave out what is
named. Adapters are made every time, unless --keep-adapters names a folder for them.
Weights are evaluated in each --dtype. --results appends to a file what eval and bench
print, for `rankforge report --models`, and gives every cell the share of the dense
model's decode time. --context says at which contexts bench decodes, -n how many
tokens.
--equal-time adds what each method loses when it decodes for as long as rana does at
those budgets, interpolated linearly between the method's own budgets.
"""
import argparse
import json
import os
import sys
import tempfile

from rankforge_program import (DEFAULT_MODEL, Refused, add_texts, answer, check_texts,
                               choices)


def loss_at(time, points):
    """The loss at `time`, on straight lines between (time, loss) points; None outside
    them."""
    points = sorted(points)
    for (t0, l0), (t1, l1) in zip(points, points[1:]):
        if t0 <= time <= t1:
            return l0 + (l1 - l0) * (time - t0) / (t1 - t0)
    return None


def named(method, without):
    return method + "".join(f", without {name}" for name in without)


class Measured:
    """One model in one weight type."""

    def __init__(self, arguments, model, dtype, folder):
        self.arguments, self.model, self.folder = arguments, model, folder
        self.name = os.path.basename(os.path.normpath(model))
        self.threads = ["--threads", str(arguments.threads)]
        self.weights = ["--dtype", dtype]
        self.window = ["--window", str(arguments.window)]
        self.dense = self.evaluate()
        self.points = {}  # {row: {keep: (share of the decode time, excess)}}
        print(f"{self.name}, {dtype}: dense perplexity "
              f"{self.dense['perplexity']:.3f}, log-loss {self.dense['loss']:.4f}")

    def add_result(self, result):
        if self.arguments.results:
            with open(self.arguments.results, "a", encoding="utf-8") as file:
                file.write(json.dumps(result) + "\n")
        return result

    def adapter(self, method, without, keep):
        label = "-".join([self.name, method, *without, str(keep)])
        path = os.path.join(self.folder, label + ".safetensors")
        if not os.path.exists(path):
            left_out = [word for name in without for word in ("--without", name)]
            answer(self.arguments.program, "adapt", "--model", self.model,
                   "--calibration", self.arguments.calibration, "--method", method,
                   *left_out, "--keep", str(keep), "--tokens",
                   str(self.arguments.tokens), *self.window, "--json", *self.threads,
                   "--out", path)
        return ["--adapter", path]

    def evaluate(self, *words):
        return self.add_result(answer(
            self.arguments.program, "eval", "--model", self.model, "--text",
            self.arguments.text, "--windows", str(self.arguments.windows), *self.window,
            "--json", *self.threads, *self.weights, *words))

    def answered(self, questions, *words):
        """The share of the questions that is answered right, with its standard
        error."""
        result = self.add_result(answer(
            self.arguments.program, "eval", "--model", self.model, "--choices",
            questions, "--json", *self.threads, *self.weights, *words))
        return f"{result['accuracy']:.3f} +- {result['accuracy_error']:.3f}"

    def decode_share(self, adapter):
        """The decode time of the adapted model / that of the dense one."""
        timed = self.add_result(answer(
            self.arguments.program, "bench", "--model", self.model, *adapter,
            *self.weights, *self.threads, "--context", self.arguments.context, "-n",
            str(self.arguments.n), "--json"))
        return timed["decode_ms_per_token"] / timed["dense_ms_per_token"]

    def cell(self, label, method, without, keep):
        try:
            adapter = self.adapter(method, without, keep)
        except Refused as reason:
            print(reason, file=sys.stderr)
            return "-"
        if not self.arguments.results:
            result = self.evaluate(*adapter)
            excess = result["loss"] - self.dense["loss"]
            return f"{excess:.4f} ({result['linear_flops_ratio']:.3f})"
        share = self.decode_share(adapter)
        result = self.evaluate(*adapter, "--layers")
        excess = result["loss"] - self.dense["loss"]
        self.points.setdefault(label, {})[keep] = (share, excess)
        return (f"{excess:.4f} ({result['linear_flops_ratio']:.3f}, {share:.3f} of "
                "the time)")

    def print_table(self, rows):
        keeps = self.arguments.keep
        heads = " | ".join(f"keep {keep}" for keep in keeps)
        print(f"| method | {heads} |\n|---|{'---|' * len(keeps)}")
        for method, without in rows:
            label = named(method, without)
            cells = [self.cell(label, method, without, keep) for keep in keeps]
            print(f"| {label} | {' | '.join(cells)} |", flush=True)

    def print_choices(self, rows):
        keeps = self.arguments.keep
        heads = " | ".join(f"keep {keep}" for keep in keeps)
        for questions in self.arguments.choices:
            dense = self.answered(questions)
            print(f"\n{os.path.basename(questions)}: dense {dense}\n")
            print(f"| method | {heads} |\n|---|{'---|' * len(keeps)}")
            for method, without in rows:
                cells = []
                for keep in keeps:
                    try:
                        adapter = self.adapter(method, without, keep)
                    except Refused:  # said above
                        cells.append("-")
                        continue
                    cells.append(self.answered(questions, *adapter))
                print(f"| {named(method, without)} | {' | '.join(cells)} |",
                      flush=True)

    def print_equal_time(self):
        for keep in self.arguments.equal_time:
            if keep not in self.points.get("rana", {}):
                continue
            time, _ = self.points["rana"][keep]
            print(f"\nAt {time:.3f} of the dense decode time:")
            for label, found in self.points.items():
                # The dense model is a point of every method.
                loss = loss_at(time, [(1, 0), *found.values()])
                print(f"- {label}: " +
                      ("out of reach" if loss is None else f"{loss:.4f}"))


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("models", nargs="*", default=[DEFAULT_MODEL])
    add_texts(parser)
    parser.add_argument("--window", type=int, default=256, metavar="N")
    parser.add_argument("--choices", nargs="+", default=[], metavar="FILE")
    parser.add_argument("--keep", nargs="+", type=float,
                        default=[0.70, 0.56, 0.45])
    parser.add_argument("--method", nargs="+")
    parser.add_argument("--without", nargs="+", default=[])
    parser.add_argument("--tokens", type=int, default=32000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep-adapters")
    parser.add_argument("--dtype", nargs="+", default=["f32"])
    parser.add_argument("--results")
    parser.add_argument("--context", default="256")
    parser.add_argument("-n", type=int, default=32)
    parser.add_argument("--equal-time", nargs="+", type=float, default=[],
                        metavar="KEEP")
    arguments = parser.parse_args()
    if arguments.equal_time and not arguments.results:
        parser.error("--equal-time: decode times need --results")
    if not set(arguments.equal_time) <= set(arguments.keep):
        parser.error("--equal-time: name some of --keep")
    return arguments


def main():
    arguments = parse()
    check_texts(arguments)
    for path in arguments.choices:
        if not os.path.exists(path):
            raise SystemExit(f"--choices: {path} is not there")
    methods = arguments.method or [
        method for method in choices(arguments.program, "adapt", "--method")
        if method != "a3"]
    rows = [(method, []) for method in methods]
    rows += [("rana", [name]) for name in arguments.without]
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep_adapters or scratch
        os.makedirs(folder, exist_ok=True)
        for model in arguments.models:
            for dtype in arguments.dtype:
                measured = Measured(arguments, model, dtype, folder)
                measured.print_table(rows)
                measured.print_choices(rows)
                measured.print_equal_time()
                print()


if __name__ == "__main__":
    try:
        main()
    except Refused as reason:  # not of a method: a model or a file
        raise SystemExit(str(reason)) from None
