#!/usr/bin/env python3
"""Compares how fast RankForge and llama.cpp decode one model shape.

    scripts/compare_llama_cpp.py --llama-bench PATH --gguf tinyllama-bf16.gguf \\
      --threads 2 --context 256 -- --model tinyllama --dtype bf16 \\
      --lm-head-dtype bf16 --table table.json

What follows `--` goes to `rankforge bench`, which reads the same GGUF file unless
--model or --preset is among it. The programs take turns: each round runs
llama-bench and then `rankforge bench`, with the same threads and context and the same
number of timed tokens. A time is the mean over all tokens of a decode, on both sides. With
--adapter, `rankforge bench` decodes each token with the dense and with the adapted
model in turn.

Printed are means over the rounds. "N times as fast as llama.cpp" is the time of
llama.cpp divided by ours; the brackets hold the lowest and the highest round. Only time
is compared: the weights should have the same bytes on both sides. Integer weights have
inputs of 8 bits, as those of llama.cpp have, unless `--activations f32` is among the
options of `bench`. llama-bench and the
GGUF file come from you: build llama.cpp (https://github.com/ggml-org/llama.cpp) and
convert the same checkpoint with its convert_hf_to_gguf.py."""

import argparse
import json
import shutil
import statistics
import subprocess
import sys


WARM_UP = 2  # tokens of `bench -n` that it does not time


class Failed(Exception):
    """A program does not run, or its answer is not the expected one."""


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


def llama_ms(answer):
    """Mean milliseconds per token of what `llama-bench -o json` printed: a sample is
    the time of a whole decode."""
    try:
        return (statistics.mean(answer[0]["samples_ns"])
                / answer[0]["n_gen"] / 1e6)
    except (IndexError, KeyError, TypeError, ZeroDivisionError,
            statistics.StatisticsError):
        raise Failed("llama-bench did not print samples_ns and n_gen: "
                     "its version is too old or too new") from None


def rankforge_ms(stages):
    """Mean milliseconds per token of what `rankforge bench --json` printed. Stages
    are means, and one of them, `between`, is what the others leave of a token;
    `decode_ms_per_token` is a median, which a slow token does not change."""
    return sum(stage["ms_per_token"] for stage in stages.values())


def measure_round(options):
    """Milliseconds per token by model, and the read bandwidth in GB/s."""
    llama = run_json([
        options.llama_bench, "-m", options.gguf, "-t", str(options.threads),
        "-p", "0", "-n", str(options.tokens), "-d", str(options.context),
        "-r", "1", "-o", "json"])
    ours = run_json([
        options.rankforge, "bench", "--json",
        "--threads", str(options.threads), "-n", str(options.tokens + WARM_UP),
        "--context", str(options.context), *options.bench])
    if ours["tokens"] != options.tokens:
        raise Failed(f"rankforge bench timed {ours['tokens']} tokens, not "
                     f"{options.tokens}: leave -n out after --")
    times = {"llama.cpp": llama_ms(llama),
             "dense": rankforge_ms(ours["dense_stages"])}
    if ours["method"] != "dense":
        times["adapted"] = rankforge_ms(ours["stages"])
    return times, ours["read_gbps"]


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-bench", default="llama-bench",
                        help="program of llama.cpp (%(default)s)")
    parser.add_argument("--gguf", required=True,
                        help="model for llama.cpp, and for RankForge unless "
                             "--model follows --")
    parser.add_argument("--rankforge", default="build/release/rankforge",
                        help="(%(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="(%(default)s)")
    parser.add_argument("--tokens", type=int, default=16, help="(%(default)s)")
    parser.add_argument("--context", type=int, default=256, help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("bench", nargs="*", metavar="-- BENCH_OPTION",
                        help="for `rankforge bench`")
    options = parser.parse_args()
    for program, source in (
            (options.llama_bench, "build llama.cpp and name its llama-bench "
                                  "with --llama-bench"),
            (options.rankforge, "build it with `cmake --preset release && "
                                "cmake --build --preset release`")):
        if shutil.which(program) is None:
            parser.error(f"{program} is not there or not executable: {source}")
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    if not {"--model", "--preset"} & set(options.bench):
        options.bench = ["--model", options.gguf, *options.bench]
    return options


def main():
    options = parse()
    rounds, read = [], []
    for _ in range(options.rounds):
        times, gbps = measure_round(options)
        rounds.append(times)
        read.append(gbps)
        print(", ".join(f"{name} {ms:.2f} ms" for name, ms in times.items())
              + f", read {gbps:.1f} GB/s", file=sys.stderr)
    llama = [times["llama.cpp"] for times in rounds]
    print(f"llama.cpp: {statistics.mean(llama):.2f} ms per token")
    for name in list(rounds[0])[1:]:
        ours = [times[name] for times in rounds]
        ratios = [a / b for a, b in zip(llama, ours)]
        print(f"{name}: {statistics.mean(ours):.2f} ms per token, "
              f"{statistics.mean(llama) / statistics.mean(ours):.2f} times as "
              f"fast as llama.cpp ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"read bandwidth: {min(read):.1f} to {max(read):.1f} GB/s")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as failure:
        print(failure, file=sys.stderr)
        sys.exit(1)
