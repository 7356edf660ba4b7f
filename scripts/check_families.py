#!/usr/bin/env python3
"""Compares every model family and every kind of rotary scaling with what Hugging
Face Transformers computes. Run by hand:

  pip install torch transformers safetensors
  scripts/check_families.py PROGRAM [NAME...]

Makes a tiny checkpoint with random weights for each (with names, for those), and
prints its log-loss in f32 by `PROGRAM eval` and by Transformers, and how many of the
first greedy tokens of `PROGRAM generate` are those of Transformers. Fails if
log-losses differ by more than 2e-4 nats, or if a token differs.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import torch
import transformers
from family_fixtures import (CASES, LINEAR_ROPE, LLAMA3_ROPE, LONG_ROPE, ROPE, SIZES,
                             YARN_FIELDS_ROPE, YARN_ROPE, save_random)
from safetensors.torch import save_file

WINDOW = 40
WINDOWS = 4
PROMPT = 10
TOKENS = 16
EXACT = ["--dtype", "f32", "--lm-head-dtype", "f32", "--kv-dtype", "f32"]
HEADS = dict(num_key_value_heads=2, head_dim=16)
ROPES = {
    "default": ROPE,
    "linear": LINEAR_ROPE,
    "dynamic": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
    "llama3": LLAMA3_ROPE,
    "yarn": YARN_ROPE,
    "yarn with every field": YARN_FIELDS_ROPE,
    # Some windows are longer, and the greedy tokens begin below.
    "yarn without a length": {"rope_type": "yarn", "rope_theta": 1e3, "factor": 4.0},
}
PHI3_LONG = dict(num_key_value_heads=2, pad_token_id=0,
                 original_max_position_embeddings=16, rope_parameters=LONG_ROPE)


def all_cases():
    yield from CASES
    for name, rope in ROPES.items():
        yield (f"rope {name}", transformers.LlamaConfig,
               {**HEADS, "rope_parameters": rope})
    yield "rope longrope beyond its length", transformers.Phi3Config, PHI3_LONG
    yield ("rope yarn beside the object", transformers.LlamaConfig,
           {**HEADS, "original_max_position_embeddings": 16,
            "rope_parameters": {"rope_type": "yarn", "rope_theta": 1e3,
                                "factor": 4.0}})


def run(program, command, folder, *words):
    done = subprocess.run(
        [program, command, "--model", folder, *EXACT, "--json", *words],
        capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{folder}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def log_loss(model, ids):
    loss = 0.0
    with torch.no_grad():
        for window in ids.split(WINDOW):
            logits = model(window[None]).logits[0, :-1].double()
            loss += torch.nn.functional.cross_entropy(
                logits, window[1:], reduction="sum").item()
    return loss / (WINDOWS * (WINDOW - 1))


def check(program, name, config_class, options, folder):
    save_random(folder, config_class, options)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager").eval()
    ids = torch.randint(3, SIZES["vocab_size"], (WINDOW * WINDOWS,))
    save_file({"ids": ids.to(torch.int32)}, folder / "ids.safetensors")
    ours = run(program, "eval", folder, "--ids", folder / "ids.safetensors",
               "--window", str(WINDOW), "--windows", str(WINDOWS))["loss"]
    theirs = log_loss(model, ids)
    prompt = ids[None, :PROMPT]
    expected = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False,
        max_new_tokens=TOKENS, pad_token_id=0)[0, PROMPT:].tolist()
    if expected and expected[-1] == SIZES["eos_token_id"]:
        expected.pop()
    tokens = run(program, "generate", folder, "-n", str(TOKENS), "--prompt-ids",
                 ",".join(map(str, prompt[0].tolist())))["ids"]
    wrong = abs(ours - theirs) > 2e-4 or tokens != expected
    same = next((i for i, pair in enumerate(zip(tokens, expected))
                 if pair[0] != pair[1]), min(len(tokens), len(expected)))
    print(f"{name}: log-loss {ours:.6f} here, {theirs:.6f} there; {same} of "
          f"{len(expected)} tokens{' WRONG' if wrong else ''}", flush=True)
    return wrong


def main():
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    program, names = sys.argv[1], sys.argv[2:]
    failed = False
    for name, config_class, options in all_cases():
        if names and name not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            failed |= check(program, name, config_class, options,
                            pathlib.Path(folder))
    sys.exit(failed)


main()
