#!/usr/bin/env python3
"""Times a model against smaller ones of `adapt --method a3`.

  scripts/a3_speed.py PROGRAM MODEL [--keep 0.8 0.6] [--dtype bf16] [--threads N]
      [--rounds N] [--prompt N] [--folder FOLDER]

Every layer keeps the same share (--uniform), calibrated on random token ids: for
time, not for quality, so that checkpoints of `rankforge synth` will do. The models
take turns, --rounds times; a row has medians, in brackets the share of the dense
model's: decode (`bench`), prefill of --prompt tokens (`generate`), and the bytes
of a position of the KV cache. --folder keeps the smaller checkpoints.
"""
import argparse
import json
import os
import random
import statistics
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
    parser.add_argument("model")
    parser.add_argument("--keep", nargs="+", type=float, default=[0.8, 0.6])
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--folder")
    arguments = parser.parse_args()

    with open(os.path.join(arguments.model, "config.json")) as file:
        vocabulary = json.load(file)["vocab_size"]
    source = random.Random(0)
    ids = [source.randrange(vocabulary) for _ in range(2048)]
    weights = ["--dtype", arguments.dtype, "--threads", arguments.threads, "--json"]

    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or scratch
        os.makedirs(folder, exist_ok=True)
        ids_path = os.path.join(scratch, "ids.json")
        with open(ids_path, "w") as file:
            json.dump(ids, file)
        models = {"dense": arguments.model}
        for keep in arguments.keep:
            small = models[f"a3 at {keep}"] = os.path.join(folder, str(keep))
            if not os.path.exists(small):
                run(arguments.program, "adapt", "--method", "a3", "--uniform",
                    "--keep", str(keep), "--model", arguments.model,
                    "--calibration-ids", ids_path, "--tokens", "1024",
                    "--threads", arguments.threads, "--json", "--out", small)

        prompt = ",".join(str(i) for i in ids[:arguments.prompt])
        columns = {name: {label: [] for label in models}
                   for name in ("decode, ms a token", "MB a token",
                                "prefill, ms", "KV bytes a position")}
        read = []
        for _ in range(arguments.rounds):
            for label, model in models.items():
                bench = run(arguments.program, "bench", "--model", model, *weights)
                read.append(bench["read_gbps"])
                generated = run(arguments.program, "generate", "--model", model,
                                "--prompt-ids", prompt, "-n", "2", *weights)
                row = (bench["decode_ms_per_token"], bench["bytes_per_token"] / 1e6,
                       1e3 * arguments.prompt / generated["prefill_tokens_per_s"],
                       bench["kv_bytes_per_position"])
                for values, value in zip(columns.values(), row):
                    values[label].append(value)

        print(f"read bandwidth {statistics.median(read):.1f} GB/s "
              f"({min(read):.1f} to {max(read):.1f}), medians of "
              f"{arguments.rounds}")
        print(f"| model | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
        for label in models:
            cells = []
            for values in columns.values():
                value = statistics.median(values[label])
                share = value / statistics.median(values["dense"])
                cells.append(f"{value:.2f} ({share:.3f})")
            print(f"| {label} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
