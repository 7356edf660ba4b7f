#!/usr/bin/env python3
"""Compares checkpoints with what Hugging Face Transformers makes of them. Run by
hand:

  pip install torch transformers safetensors
  scripts/check_transformers.py PROGRAM FOLDER... --ids FILE [--windows N]

Prints for each folder the log-loss of `PROGRAM eval` and that of Transformers on
the first N windows of FILE, and how far the logits that Transformers decodes token
by token with its cache are from those that it computes at once. Folders that `adapt
--method a3` wrote with sizes by layer bring their own modelling file
(trust_remote_code). Fails if log-losses differ by more than 1e-4 nats, or logits by
more than 1e-3.
"""

import argparse
import json
import subprocess
import sys

import torch
import transformers
from safetensors.torch import load_file

WINDOW = 256


def transformers_loss(model, ids, size=WINDOW):
    """Mean over the predictions of whole windows of `size` tokens, in nats."""
    loss = 0.0
    with torch.no_grad():
        for window in ids.split(size):
            logits = model(window[None]).logits[0, :-1].double()
            loss += torch.nn.functional.cross_entropy(
                logits, window[1:], reduction="sum").item()
    return loss / (len(ids) // size * (size - 1))


def decoding_difference(model, ids):
    with torch.no_grad():
        whole = model(ids[None]).logits[0]
        cache, largest = None, 0.0
        for i in range(len(ids)):
            out = model(ids[None, i : i + 1], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            largest = max(largest, (out.logits[0, 0] - whole[i]).abs().max().item())
    return largest


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--ids", required=True)
    parser.add_argument("--windows", type=int, default=8)
    arguments = parser.parse_args()
    ids = next(iter(load_file(arguments.ids).values())).flatten().long()
    ids = ids[: arguments.windows * WINDOW]
    failed = False
    for folder in arguments.folders:
        config = json.load(open(f"{folder}/config.json"))
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32,
            trust_remote_code="auto_map" in config).eval()
        ours = json.loads(subprocess.run(
            [arguments.program, "eval", "--model", folder, "--window", str(WINDOW),
             "--windows", str(arguments.windows), "--ids", arguments.ids,
             "--json"],
            capture_output=True, text=True, check=True).stdout)["loss"]
        theirs = transformers_loss(model, ids)
        decoded = decoding_difference(model, ids[:24])
        wrong = abs(ours - theirs) > 1e-4 or decoded > 1e-3
        failed |= wrong
        print(f"{folder}: {type(model).__name__}, log-loss {ours:.6f} here, "
              f"{theirs:.6f} there; decoding differs by {decoded:.1e}"
              f"{' WRONG' if wrong else ''}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
