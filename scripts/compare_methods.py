#!/usr/bin/env python3
"""Adapts models by every method at several budgets and prints what each loses.

  scripts/compare_methods.py PROGRAM MODEL... --calibration FILE (--text FILE |
      --ids NAME) [--keep 0.7 0.56 0.45] [--method rana wina ...]
      [--without refit ...] [--tokens N] [--keep-adapters FOLDER]

A table a model: excess log-loss over the dense model, nats a token, by method and
budget, with the share of the multiply-adds that the evaluation measured. --ids is
a file in each model's folder, for example golden/tinystories_ids.safetensors.
--without adds rows of method rana that leave out what is named. Adapters are
remade every time, unless a folder keeps them.
"""
import argparse
import json
import os
import subprocess
import tempfile


def run(*words):
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(words)}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--calibration", required=True)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--text")
    source.add_argument("--ids")
    parser.add_argument("--keep", nargs="+", type=float,
                        default=[0.70, 0.56, 0.45])
    parser.add_argument("--method", nargs="+",
                        default=["rana", "rana-paper", "teal", "wina", "svd"])
    parser.add_argument("--without", nargs="+", default=[])
    parser.add_argument("--tokens", type=int, default=32000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep-adapters")
    arguments = parser.parse_args()

    rows = [(method, []) for method in arguments.method]
    rows += [("rana", [name]) for name in arguments.without]
    threads = ["--threads", str(arguments.threads)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep_adapters or scratch
        os.makedirs(folder, exist_ok=True)
        for model in arguments.models:
            name = os.path.basename(os.path.normpath(model))
            data = (["--text", arguments.text] if arguments.text else
                    ["--ids", os.path.join(model, arguments.ids)])

            def evaluate(*words):
                return run(arguments.program, "eval", "--model", model, *data,
                           "--json", *threads, *words)

            dense = evaluate()
            print(f"{name}: dense perplexity {dense['perplexity']:.3f}, log-loss "
                  f"{dense['loss']:.4f}")
            heads = " | ".join(f"keep {keep}" for keep in arguments.keep)
            print(f"| method | {heads} |\n|---|{'---|' * len(arguments.keep)}")
            for method, without in rows:
                cells = []
                for keep in arguments.keep:
                    label = "-".join([name, method, *without, str(keep)])
                    path = os.path.join(folder, label + ".safetensors")
                    if not os.path.exists(path):
                        left_out = [w for x in without
                                    for w in ("--without", x)]
                        run(arguments.program, "adapt", "--model", model,
                            "--calibration", arguments.calibration, "--method",
                            method, *left_out, "--keep", str(keep), "--tokens",
                            str(arguments.tokens), "--json", *threads, "--out",
                            path)
                    result = evaluate("--adapter", path)
                    cells.append(f"{result['loss'] - dense['loss']:.4f} "
                                 f"({result['linear_flops_ratio']:.3f})")
                label = method + "".join(f", without {w}" for w in without)
                print(f"| {label} | {' | '.join(cells)} |", flush=True)
            print()


if __name__ == "__main__":
    main()
