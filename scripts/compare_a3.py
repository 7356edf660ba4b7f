#!/usr/bin/env python3
"""Measures what checkpoints of `adapt --method a3` lose, and prints the tables of
docs/a3.md.

  scripts/compare_a3.py PROGRAM [MODEL...] [--calibration FILE] [--text FILE]
      [--windows N] [--keep 0.9 0.8]
      [--parts methods components refinements rana i4]
      [--torch PYTHON] [--threads N]

The model and the texts are those of examples/models unless others are named;
scripts/fetch_stories.py makes the texts of docs/a3.md. Parts:
  methods      a3, as the paper has it, and two-factor SVD at equal parameters:
               activation-aware (method svd) and plain (scripts/plain_svd.py, run by
               the Python --torch, which has torch and safetensors)
  components   each component alone, uniform, at 95, 90, 80 and 60 %
  refinements  a3 without one refinement, for each of them
  rana         a3 at 90 % with RaNA on top against RaNA alone at equal bytes
  i4           a3 at 90 % in i4 against the model in i4
Head sizes are multiples of 2 and MLP widths of 8, so that sizes are close to those
asked for. `methods` also shows a3 with the default multiples.
"""

import argparse
import os
import subprocess
import tempfile

from rankforge_program import (DEFAULT_MODEL, Refused, add_texts, answer,
                               check_texts)

FINE = ["--head-multiple", "2", "--mlp-multiple", "8"]
PAPER = ["--uniform", *(word for name in ("refit-down", "refit-o", "group-outputs")
                        for word in ("--without", name))]
PARTS = ["methods", "components", "refinements", "rana", "i4"]


class Measured:
    def __init__(self, arguments, model, scratch):
        self.arguments, self.model, self.scratch = arguments, model, scratch
        self.threads = ["--threads", str(arguments.threads)]
        self.count = 0
        self.dense = self.evaluate(model)

    def evaluate(self, folder, *words):
        return answer(
            self.arguments.program, "eval", "--model", folder, "--text",
            self.arguments.text, "--windows", str(self.arguments.windows), "--json",
            *self.threads, *words)

    def adapt(self, model, *words):
        self.count += 1
        out = os.path.join(self.scratch, f"{self.count}.out")
        summary = answer(
            self.arguments.program, "adapt", "--model", model, "--calibration",
            self.arguments.calibration, "--json", "--out", out, *self.threads,
            *words)
        return out, summary["linear_flops_ratio"]

    def a3(self, keep, *words, fine=True):
        return self.adapt(self.model, "--method", "a3", "--keep", str(keep),
                          *(FINE if fine else []), *words)

    def cell(self, result, ratio):
        return f"{result['perplexity']:.3f} ({ratio:.3f})"

    def row(self, label, keeps, one):
        """one(keep) -> (evaluation, ratio)"""
        cells = [self.cell(*one(keep)) for keep in keeps]
        print(f"| {label} | {' | '.join(cells)} |", flush=True)

    def shrunk(self, *words, fine=True):
        def one(keep):
            out, ratio = self.a3(keep, *words, fine=fine)
            return self.evaluate(out), ratio
        return one

    def methods(self):
        keeps = self.arguments.keep

        def svd(keep):
            out, ratio = self.adapt(self.model, "--method", "svd", "--exact-d",
                                    "--keep", str(keep))
            return self.evaluate(self.model, "--adapter", out), ratio

        def plain(keep):
            self.count += 1
            out = os.path.join(self.scratch, f"{self.count}.svd")
            script = os.path.join(os.path.dirname(__file__), "plain_svd.py")
            done = subprocess.run(
                [self.arguments.torch, script, self.model, str(keep), out],
                capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise SystemExit(f"{script}: {done.stderr.strip()}")
            return self.evaluate(out), keep

        self.row("a3", keeps, self.shrunk())
        self.row("a3, default multiples", keeps, self.shrunk(fine=False))
        self.row("a3, as the paper has it", keeps, self.shrunk(*PAPER))
        self.row("activation-aware SVD", keeps, svd)
        if self.arguments.torch:
            self.row("plain SVD", keeps, plain)

    def components(self):
        keeps = [0.95, 0.9, 0.8, 0.6]
        for name in ("qk", "ov", "mlp"):
            self.row(f"{name} alone", keeps,
                     self.shrunk("--components", name, "--uniform"))

    def refinements(self):
        keeps = self.arguments.keep
        for name in ("refit-down", "refit-o", "group-outputs", "mixed-ranks"):
            self.row(f"a3 without {name}", keeps, self.shrunk("--without", name))

    def rana(self):
        out, ratio = self.a3(0.9)
        for keep in (0.7, 0.56):
            alone, _ = self.adapt(self.model, "--keep", str(keep))
            both, _ = self.adapt(out, "--keep", str(keep / ratio))
            for label, result in (("rana", self.evaluate(self.model, "--adapter", alone)),
                                  ("a3 + rana", self.evaluate(out, "--adapter", both))):
                print(f"| {label} at {keep} | {result['perplexity']:.3f} | "
                      f"{result['bytes_per_token'] / 1e6:.2f} |", flush=True)

    def i4(self):
        out, _ = self.a3(0.9)
        for label, folder in (("i4", self.model), ("a3 + i4", out)):
            result = self.evaluate(folder, "--dtype", "i4", "--activations", "f32")
            print(f"| {label} | {result['perplexity']:.3f} | "
                  f"{result['bytes_per_token'] / 1e6:.2f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("models", nargs="*", default=[DEFAULT_MODEL])
    add_texts(parser)
    parser.add_argument("--keep", nargs="+", type=float, default=[0.9, 0.8])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--torch")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    check_texts(arguments)
    for model in arguments.models:
        with tempfile.TemporaryDirectory() as scratch:
            measured = Measured(arguments, model, scratch)
            print(f"{os.path.basename(os.path.normpath(model))}: dense "
                  f"{measured.dense['perplexity']:.3f}, "
                  f"{measured.dense['bytes_per_token'] / 1e6:.2f} MB a token")
            for part in arguments.parts:
                print(part, flush=True)
                getattr(measured, part)()


if __name__ == "__main__":
    try:
        main()
    except Refused as reason:
        raise SystemExit(str(reason)) from None
