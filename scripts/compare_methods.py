#!/usr/bin/env python3
"""Adapts models by every method at several budgets and prints what each loses.

  scripts/compare_methods.py PROGRAM MODEL... --calibration FILE (--text FILE |
      --ids NAME) [--keep 0.7 0.56 0.45] [--method rana wina ...]
      [--without refit ...] [--tokens N] [--keep-adapters FOLDER]
      [--dtype f32 bf16 ...] [--results FILE [--context 1,250,500]]

A table a model: excess log-loss over the dense model, nats a token, by method and
budget, with the share of the multiply-adds that the evaluation measured. --ids is
a file in each model's folder, for example golden/tinystories_ids.safetensors.
--without adds rows of method rana that leave out what is named. Adapters are
remade every time, unless a folder keeps them. Weights are evaluated in each
--dtype. --results adds to a file what eval and bench say, for `rankforge report
--models`; --context says at which contexts bench decodes.
"""
import argparse
import json
import os
import subprocess
import tempfile


def run(*words):
    done = subprocess.run(words, capture_output=True, text=True)
    # bench has printed its result when it finds a roofline above 1: a model
    # that lies in a cache can be decoded faster than memory is read.
    if done.returncode != 0 and not (words[1] == "bench" and done.stdout):
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
    parser.add_argument("--dtype", nargs="+", default=["f32"])
    parser.add_argument("--results")
    parser.add_argument("--context", default="256")
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

            def adapter_of(method, without, keep):
                label = "-".join([name, method, *without, str(keep)])
                path = os.path.join(folder, label + ".safetensors")
                if not os.path.exists(path):
                    left_out = [w for x in without for w in ("--without", x)]
                    run(arguments.program, "adapt", "--model", model,
                        "--calibration", arguments.calibration, "--method",
                        method, *left_out, "--keep", str(keep), "--tokens",
                        str(arguments.tokens), "--json", *threads, "--out", path)
                return path

            def evaluate(*words):
                result = run(arguments.program, "eval", "--model", model, *data,
                             "--json", *threads, *words)
                add_result(result)
                return result

            def add_result(result):
                if arguments.results:
                    with open(arguments.results, "a") as file:
                        file.write(json.dumps(result) + "\n")

            for dtype in arguments.dtype:
                weights = ["--dtype", dtype]
                dense = evaluate(*weights)
                print(f"{name}, {dtype}: dense perplexity "
                      f"{dense['perplexity']:.3f}, log-loss {dense['loss']:.4f}")
                heads = " | ".join(f"keep {keep}" for keep in arguments.keep)
                print(f"| method | {heads} |\n|---|{'---|' * len(arguments.keep)}")
                for method, without in rows:
                    cells = []
                    for keep in arguments.keep:
                        adapter = ["--adapter", adapter_of(method, without, keep)]
                        if arguments.results:
                            add_result(run(
                                arguments.program, "bench", "--model", model,
                                *adapter, *weights, *threads, "--context",
                                arguments.context, "--json"))
                            adapter.append("--layers")
                        result = evaluate(*weights, *adapter)
                        cells.append(f"{result['loss'] - dense['loss']:.4f} "
                                     f"({result['linear_flops_ratio']:.3f})")
                    label = method + "".join(f", without {w}" for w in without)
                    print(f"| {label} | {' | '.join(cells)} |", flush=True)
                print()


if __name__ == "__main__":
    main()
