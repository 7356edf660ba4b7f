#!/usr/bin/env python3
"""Times a model against smaller ones of `adapt --method a3`.

  scripts/a3_speed.py PROGRAM MODEL [--keep 0.8 0.6] [--dtype bf16] [--threads N]
      [--rounds N] [--prompt N] [--folder FOLDER]

Every layer keeps the same share (--uniform), and calibration is on random token ids.
That is enough for time, and says nothing of quality, so checkpoints of `rankforge
synth` will do. The models take turns, --rounds times. A row has medians of the time
and bytes per decoded token (`bench`), of the prefill of --prompt tokens (`generate`),
and of the bytes per position of the KV cache; in brackets, relative to the dense
model. --folder keeps the smaller checkpoints.
"""
import argparse
import json
import os
import random
import statistics
import tempfile

from rankforge_program import Refused, answer

COLUMNS = ("decode, ms per token", "MB per token", "prefill, ms",
           "KV bytes per position")


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("--keep", nargs="+", type=float, default=[0.8, 0.6])
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--folder")
    return parser.parse_args()


def random_ids(model):
    with open(os.path.join(model, "config.json"), encoding="utf-8") as file:
        vocabulary = json.load(file)["vocab_size"]
    source = random.Random(0)
    return [source.randrange(vocabulary) for _ in range(2048)]


def shrunk(arguments, ids, scratch):
    """{label: folder} of the dense model and of one for each --keep."""
    folder = arguments.folder or scratch
    os.makedirs(folder, exist_ok=True)
    ids_path = os.path.join(scratch, "ids.json")
    with open(ids_path, "w", encoding="utf-8") as file:
        json.dump(ids, file)
    models = {"dense": arguments.model}
    for keep in arguments.keep:
        small = models[f"a3 at {keep}"] = os.path.join(folder, str(keep))
        if not os.path.exists(small):
            answer(arguments.program, "adapt", "--method", "a3", "--uniform",
                   "--keep", str(keep), "--model", arguments.model,
                   "--calibration-ids", ids_path, "--tokens", "1024", "--threads",
                   arguments.threads, "--json", "--out", small)
    return models


def measure(arguments, model, ids):
    """A value for each column, and the read bandwidth in GB/s."""
    weights = ["--model", model, "--dtype", arguments.dtype, "--threads",
               arguments.threads, "--json"]
    bench = answer(arguments.program, "bench", *weights)
    prompt = ",".join(str(i) for i in ids[:arguments.prompt])
    generated = answer(arguments.program, "generate", "--prompt-ids", prompt, "-n",
                       "2", *weights)
    return (bench["decode_ms_per_token"], bench["bytes_per_token"] / 1e6,
            1e3 * arguments.prompt / generated["prefill_tokens_per_s"],
            bench["kv_bytes_per_position"]), bench["read_gbps"]


def main():
    arguments = parse()
    ids = random_ids(arguments.model)
    with tempfile.TemporaryDirectory() as scratch:
        models = shrunk(arguments, ids, scratch)
        rows = {label: [] for label in models}
        read = []
        for _ in range(arguments.rounds):
            for label, model in models.items():
                row, gbps = measure(arguments, model, ids)
                rows[label].append(row)
                read.append(gbps)

    medians = {label: [statistics.median(values) for values in zip(*found)]
               for label, found in rows.items()}
    print(f"read bandwidth {statistics.median(read):.1f} GB/s "
          f"({min(read):.1f} to {max(read):.1f}), medians of {arguments.rounds}")
    print(f"| model | {' | '.join(COLUMNS)} |\n|---|{'---|' * len(COLUMNS)}")
    for label, values in medians.items():
        cells = [f"{value:.2f} ({value / dense:.3f})"
                 for value, dense in zip(values, medians["dense"])]
        print(f"| {label} | {' | '.join(cells)} |")


if __name__ == "__main__":
    try:
        main()
    except Refused as reason:
        raise SystemExit(str(reason)) from None
