#!/usr/bin/env python3
"""Adapts models by every method at several budgets and prints what each loses.

  scripts/compare_methods.py PROGRAM MODEL... --calibration FILE --text FILE
      [--windows N] [--keep 0.7 0.56 0.45] [--method rana wina ...]
      [--without refit ...] [--tokens N] [--keep-adapters FOLDER]
      [--dtype f32 bf16 ...] [--results FILE [--context 1,250,500]]

Prints one table per model: excess log-loss over the dense model in nats per token,
by method and budget, with the share of the multiply-adds that the evaluation
measured. A dash: a method refuses the model or the budget (stderr says why).
--windows evaluates the first N windows of the text. scripts/fetch_stories.py makes
the texts of docs/rana.md. --without adds rows of method rana that leave out what is
named. Adapters are remade every time, unless a folder keeps them. Weights are
evaluated in each --dtype. --results adds to a file what eval and bench say, for
`rankforge report --models`, and gives every cell the share of the dense model's
decode time. --context says at which contexts bench decodes, -n how many tokens.
--equal-time adds what each method loses when it decodes as long as rana does at
those budgets, by straight lines between its own.
"""
import argparse
import json
import os
import re
import subprocess
import sys
import tempfile


class Refused(Exception):
    """The program cannot do what was asked for: exit status 2."""


def run(*words):
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode == 2:
        raise Refused(done.stderr.strip())
    # bench has printed its result when it finds a roofline above 1: a model
    # that lies in a cache can be decoded faster than memory is read.
    if done.returncode != 0 and not (words[1] == "bench" and done.stdout):
        raise SystemExit(f"{' '.join(words)}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def adapter_methods(program):
    """The methods that `adapt --help` lists, but for a3: it makes a checkpoint."""
    text = subprocess.run([program, "adapt", "--help"], capture_output=True,
                          text=True, check=True).stdout
    names = re.search(r"--method TEXT:\{([^}]*)\}", text).group(1).split(",")
    return [name for name in names if name != "a3"]


def loss_at(time, points):
    """What (time, loss) points say of a time by a straight line; None outside."""
    points = sorted(points)
    for (t0, l0), (t1, l1) in zip(points, points[1:]):
        if t0 <= time <= t1:
            return l0 + (l1 - l0) * (time - t0) / (t1 - t0)
    return None


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--windows", type=int, default=0)
    parser.add_argument("--keep", nargs="+", type=float,
                        default=[0.70, 0.56, 0.45])
    parser.add_argument("--method", nargs="+",
                        help="default: all that make adapters")
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

    methods = arguments.method or adapter_methods(arguments.program)
    rows = [(method, []) for method in methods]
    rows += [("rana", [name]) for name in arguments.without]
    threads = ["--threads", str(arguments.threads)]
    data = ["--text", arguments.text, "--windows", str(arguments.windows)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep_adapters or scratch
        os.makedirs(folder, exist_ok=True)
        for model in arguments.models:
            name = os.path.basename(os.path.normpath(model))

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
                points = {}  # (share of the decode time, excess) by row
                for method, without in rows:
                    label = method + "".join(f", without {w}" for w in without)
                    cells = []
                    for keep in arguments.keep:
                        try:
                            adapter = ["--adapter",
                                       adapter_of(method, without, keep)]
                        except Refused as reason:
                            print(reason, file=sys.stderr)
                            cells.append("-")
                            continue
                        time = ""
                        if arguments.results:
                            timed = run(
                                arguments.program, "bench", "--model", model,
                                *adapter, *weights, *threads, "--context",
                                arguments.context, "-n", str(arguments.n),
                                "--json")
                            add_result(timed)
                            share = (timed["decode_ms_per_token"] /
                                     timed["dense_ms_per_token"])
                            time = f", {share:.3f} of the time"
                            adapter.append("--layers")
                        result = evaluate(*weights, *adapter)
                        excess = result["loss"] - dense["loss"]
                        if arguments.results:
                            points.setdefault(label, {})[keep] = (share, excess)
                        cells.append(f"{excess:.4f} "
                                     f"({result['linear_flops_ratio']:.3f}{time})")
                    print(f"| {label} | {' | '.join(cells)} |", flush=True)
                for keep in arguments.equal_time:
                    if keep not in points.get("rana", {}):
                        continue
                    time, _ = points["rana"][keep]
                    print(f"\nAt {time:.3f} of the dense decode time:")
                    for label, found in points.items():
                        # The dense model is a point of every method.
                        loss = loss_at(time, [(1, 0), *found.values()])
                        print(f"- {label}: " +
                              ("out of reach" if loss is None else f"{loss:.4f}"))
                print()


if __name__ == "__main__":
    try:
        main()
    except Refused as reason:  # not of a method: a model or a file
        raise SystemExit(str(reason)) from None
