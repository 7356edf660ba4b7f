#!/usr/bin/env python3
"""Decode of one model shape, RankForge and llama.cpp in turn.

    scripts/compare_llama_cpp.py --llama-bench PATH --gguf tinyllama-bf16.gguf \
      --threads 2 --context 256 -- --model tinyllama --dtype bf16 \
      --lm-head-dtype bf16 --table table.json

What follows `--` goes to `rankforge bench`. Each round runs llama-bench (an
installed one; `-n` tokens behind `--context` ones) and then `rankforge bench`
with the same threads, tokens and context. Printed are medians over the rounds
and the ratio within each round. Both say nothing of quality: compare types of
the same bytes a weight, or say which ones you compare."""

import argparse
import json
import shutil
import statistics
import subprocess
import sys


class Failed(Exception):
    """A program that could not be run, or did not answer as expected."""


def run_json(command):
    try:
        done = subprocess.run(command, capture_output=True, text=True,
                              check=False)
    except OSError as error:
        raise Failed(f"{command[0]}: {error.strerror}") from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise Failed(f"{command[0]} ended with {done.returncode}: {last}")
    try:
        return json.loads(done.stdout)
    except ValueError:
        raise Failed(f"{command[0]} did not print JSON") from None


def llama_ms(options):
    """Milliseconds a token; the fields are those of llama-bench -o json."""
    answer = run_json([
        options.llama_bench, "-m", options.gguf, "-t", str(options.threads),
        "-p", "0", "-n", str(options.tokens), "-d", str(options.context),
        "-r", "3", "-o", "json"])
    try:
        return (statistics.median(answer[0]["samples_ns"])
                / answer[0]["n_gen"] / 1e6)
    except (IndexError, KeyError, TypeError):
        raise Failed("llama-bench printed other fields than samples_ns and "
                     "n_gen: too old or too new") from None


def rankforge_answer(options):
    return run_json([
        options.rankforge, "bench", "--json",
        "--threads", str(options.threads), "-n", str(options.tokens),
        "--context", str(options.context), *options.bench])


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--llama-bench", default="llama-bench",
                        help="program of llama.cpp")
    parser.add_argument("--gguf", required=True,
                        help="model of the same shape for llama.cpp")
    parser.add_argument("--rankforge", default="build/release/rankforge")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("bench", nargs="*", metavar="-- BENCH_OPTION",
                        help="for `rankforge bench`")
    options = parser.parse_args()
    for program in (options.llama_bench, options.rankforge):
        if shutil.which(program) is None:
            parser.error(f"{program} is not there or not executable")
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    return options


def main():
    options = parse()
    times = {"llama.cpp": [], "dense": [], "adapted": []}
    read = []
    for _ in range(options.rounds):
        times["llama.cpp"].append(llama_ms(options))
        answer = rankforge_answer(options)
        times["dense"].append(answer["dense_ms_per_token"])
        times["adapted"].append(answer["decode_ms_per_token"])
        read.append(answer["read_gbps"])
        print("llama.cpp {:.1f} ms, dense {:.1f} ms, adapted {:.1f} ms, read "
              "{:.1f} GB/s".format(*(t[-1] for t in times.values()), read[-1]),
              file=sys.stderr)
    print(f"llama.cpp: {statistics.median(times['llama.cpp']):.1f} ms a token")
    for name in ("dense", "adapted"):
        ratios = [theirs / ours for theirs, ours
                  in zip(times["llama.cpp"], times[name])]
        print(f"{name}: {statistics.median(times[name]):.1f} ms a token, "
              f"{statistics.median(ratios):.2f} times as quick "
              f"({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"read bandwidth: {min(read):.1f} to {max(read):.1f} GB/s")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as failure:
        print(failure, file=sys.stderr)
        sys.exit(1)
