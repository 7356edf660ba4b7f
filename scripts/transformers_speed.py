#!/usr/bin/env python3
"""Measures how fast a model of Transformers decodes, one sequence at a time: as PyTorch
runs it (eager, f32 and bf16), and with the layers of rankforge.torch, dense and with an
adapter.

  pip install .[torch] transformers
  scripts/transformers_speed.py --model FOLDER --adapter rana.safetensors --threads 1 2

All of them are in memory and take turns: in each round, each decodes --tokens tokens
after the same prompt of --context tokens, for each count of threads. Printed are
medians and means of the milliseconds per token over all tokens of all rounds, with
tokens per second of the mean, and "times as fast": the mean of each eager model divided
by that of ours. The logits of each are compared with those of f32 before. --json prints
the same as one document.

Weights are read from memory once for each token, so other work on the machine changes
what is measured: the load is printed, too.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers

import rankforge
import rankforge.torch

WARM_UP = 2  # tokens of each turn that are not timed


class Contender:
    """A model that decodes, and the times of its tokens by threads."""

    def __init__(self, name: str, model: Any, is_ours: bool) -> None:
        self.name = name
        self.model = model
        self.is_ours = is_ours
        self.ms: dict[int, list[float]] = {}

    def use(self, threads: int) -> None:
        torch.set_num_threads(threads)
        if self.is_ours:
            rankforge.torch.set_context(self.model, None)  # torch's

    def decode(self, threads: int, prompt: torch.Tensor, tokens: int) -> None:
        """Greedily, and adds the times."""
        self.use(threads)
        model = self.model
        cache = transformers.DynamicCache(config=model.config)
        with torch.inference_mode():
            step = model(prompt, cache=cache, use_cache=True)
            for i in range(WARM_UP + tokens):
                following = step.logits[:, -1:].argmax(-1)
                begin = time.perf_counter_ns()
                step = model(following, cache=cache, use_cache=True)
                if i >= WARM_UP:
                    self.ms.setdefault(threads, []).append(
                        (time.perf_counter_ns() - begin) / 1e6)

    def logits(self, prompt: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            logits: torch.Tensor = self.model(prompt).logits[0, -1]
            return logits.to(torch.float32)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=pathlib.Path,
                        help="folder of a checkpoint")
    parser.add_argument("--adapter", type=pathlib.Path,
                        help="file of `rankforge adapt` for it")
    parser.add_argument("--table", type=pathlib.Path,
                        help="file of `rankforge tune`; not given: untuned")
    parser.add_argument("--dtype", default="bf16", help="of our weights [bf16]")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--context", type=int, default=64,
                        help="tokens of the prompt [64]")
    parser.add_argument("--tokens", type=int, default=32,
                        help="timed tokens of a turn [32]")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--without", nargs="*", default=[],
                        help="contenders to leave out, by name: those that do "
                             "not fit into memory")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not (arguments.model / "config.json").exists():
        parser.error(f"--model: {arguments.model} has no config.json")
    if min(arguments.context, arguments.tokens, arguments.rounds,
           *arguments.threads) < 1:
        parser.error("--context, --tokens, --rounds, --threads: at least 1")
    return arguments


def contenders(arguments: argparse.Namespace) -> list[Contender]:
    table = arguments.table and rankforge.load_table(arguments.table)

    def from_folder(dtype: torch.dtype) -> Any:
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            str(arguments.model), dtype=dtype)
        return model.eval()

    def ours(adapter: pathlib.Path | None) -> Any:
        return rankforge.torch.apply(
            from_folder(torch.float32), dtype=arguments.dtype, table=table,
            adapter=adapter, checkpoint=arguments.model)

    makers: dict[str, Callable[[], Any]] = {
        "eager f32": lambda: from_folder(torch.float32),
        "eager bf16": lambda: from_folder(torch.bfloat16),
        f"ours {arguments.dtype}": lambda: ours(None),
    }
    if arguments.adapter is not None:
        makers[f"ours {arguments.dtype}, adapter"] = lambda: ours(arguments.adapter)
    for name in arguments.without:
        if makers.pop(name, None) is None:
            sys.exit(f"--without: '{name}' is none of {', '.join(makers)}")
    return [Contender(name, make(), name.startswith("ours"))
            for name, make in makers.items()]


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    found = contenders(arguments)
    generator = torch.Generator().manual_seed(7)
    vocab = transformers.AutoConfig.from_pretrained(str(arguments.model)).vocab_size
    prompt = torch.randint(vocab, (1, arguments.context), generator=generator)
    first = found[0].logits(prompt)
    distances = {one.name: float((one.logits(prompt) - first).norm() / first.norm())
                 for one in found}
    loads = [os.getloadavg()[0]]
    for _ in range(arguments.rounds):
        for threads in arguments.threads:
            for one in found:
                one.decode(threads, prompt, arguments.tokens)
    loads.append(os.getloadavg()[0])
    return {
        "model": str(arguments.model), "context": arguments.context,
        "tokens": arguments.tokens, "rounds": arguments.rounds,
        "torch": torch.__version__, "transformers": transformers.__version__,
        "load": loads, "compared_with": found[0].name,
        "logits_distance": distances,
        "ms_per_token": {
            one.name: {str(threads): {"median": statistics.median(times),
                                      "mean": statistics.mean(times)}
                       for threads, times in one.ms.items()} for one in found},
    }


def show(result: dict[str, Any]) -> None:
    loads = " to ".join(f"{load:.1f}" for load in result["load"])
    print(f"{result['model']}: {result['context']} tokens of context, "
          f"{result['rounds']} rounds of {result['tokens']} tokens, torch "
          f"{result['torch']}, load {loads} on {os.cpu_count()} CPUs")
    print(f"{'':22} threads  median ms  mean ms  tokens/s  logits off "
          f"(from {result['compared_with']})")
    times = result["ms_per_token"]
    for name, by_threads in times.items():
        for threads, ms in by_threads.items():
            print(f"{name:22} {threads:>7}  {ms['median']:9.2f}  {ms['mean']:7.2f}"
                  f"  {1e3 / ms['mean']:8.2f}  {result['logits_distance'][name]:.2e}")
    for name, by_threads in times.items():
        if not name.startswith("ours"):
            continue
        for rival in times:
            if rival.startswith("eager"):
                ratios = ", ".join(
                    f"{times[rival][threads]['mean'] / ms['mean']:.2f} with {threads} "
                    f"thread{'s' if threads != '1' else ''}"
                    for threads, ms in by_threads.items())
                print(f"{name}: times as fast as {rival}: {ratios}")


def main() -> None:
    arguments = read_arguments()
    logging: Any = transformers.utils.logging
    logging.disable_progress_bar()
    result = measure(arguments)
    if arguments.json:
        print(json.dumps(result, indent=1))
    else:
        show(result)


if __name__ == "__main__":
    main()
