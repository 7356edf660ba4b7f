#!/usr/bin/env python3
"""Compares every model family and every kind of rotary scaling with what Hugging
Face Transformers computes. Run by hand:

  pip install torch transformers safetensors
  scripts/check_families.py PROGRAM [NAME...] [--configs N]

Makes a tiny checkpoint with random weights for each (with names, for those), and
prints its log-loss in f32 by `PROGRAM eval` and by Transformers, and how many of the
first greedy tokens of `PROGRAM generate` are those of Transformers. Fails if
log-losses differ by more than 2e-4 nats, or if a token differs.

With --configs, it changes a few fields of config.json N times instead, at random.
What PROGRAM does not refuse must have the log-loss that Transformers has, where that
loads the config.
"""

import argparse
import collections
import itertools
import json
import pathlib
import random
import subprocess
import sys
import tempfile

import torch
import transformers
from check_transformers import transformers_loss
from family_fixtures import (CASES, LINEAR_ROPE, LLAMA3_ROPE, LONG_ROPE, ROPE, SIZES,
                             YARN_FIELDS_ROPE, YARN_ROPE, save_random)
from safetensors.torch import load_file, save_file

WINDOW = 40
WINDOWS = 4
PROMPT = 10
TOKENS = 16
EXACT = ["--dtype", "f32", "--lm-head-dtype", "f32", "--kv-dtype", "f32"]
BLOCK = 128  # of 8-bit floats
FLOAT8 = "8-bit floats"
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


LONG = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8,
        "original_max_position_embeddings": 16}
SOME_ROPES = [
    *ROPES.values(), {}, None,
    {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 16,
     "mscale": 0.7},
    {"rope_type": "yarn", "factor": 4.0, "beta_fast": 4, "beta_slow": 2,
     "original_max_position_embeddings": 8},
    {"type": "linear", "factor": 2.0},
    {"rope_type": "longrope", **LONG},
    {"type": "su", **LONG},
]
FULL, WINDOWED = "full_attention", "sliding_attention"
# What fields of config.json may become; ABSENT: they go.
ABSENT = object()
CHANGES = {
    "rope_scaling": SOME_ROPES,
    "rope_parameters": SOME_ROPES,
    "rope_theta": [500.0, 1e4, 1e6, None],
    "rope_local_base_freq": [100.0, 1e4],
    "rotary_emb_base": [500, 10000],
    "rotary_pct": [0.25, 0.5, 1.0],
    "partial_rotary_factor": [0.5, 0.75, 1.0, None],
    "original_max_position_embeddings": [8, 16, 64],
    "max_position_embeddings": [64],
    "layer_types": [[FULL, FULL], [FULL, WINDOWED], [WINDOWED, FULL],
                    [WINDOWED, WINDOWED], None],
    "sliding_window": [5, 9, 64, None],
    "sliding_window_pattern": [1, 2, 3],
    "use_sliding_window": [True, False],
    "max_window_layers": [0, 1, 2, 28],
    "query_pre_attn_scalar": [16, 20, 64],
    "attn_logit_softcapping": [1.0, 5.0, None],
    "final_logit_softcapping": [1.0, 3.0, None],
    "tie_word_embeddings": [True, False],
    "is_causal": [True, False],
    "use_bidirectional_attention": [True, False, None],
    "use_parallel_residual": [True, False],
    "hidden_act": ["silu", "swish", "gelu", "gelu_pytorch_tanh", "gelu_new",
                   "gelu_fast", "gelu_python", "relu"],
    "hidden_activation": ["silu", "gelu", "gelu_pytorch_tanh", None],
    "attention_bias": [True, False],
    "mlp_bias": [True, False],
    "rms_norm_eps": [1e-5, 1e-2],
    "layer_norm_eps": [1e-5, 1e-2],
    "num_key_value_heads": [1, 2, 4, None],
    "head_dim": [8, 16],
}


def attempt(program, command, folder, *words):
    return subprocess.run(
        [program, command, "--model", folder, *EXACT, "--json", *words],
        capture_output=True, text=True, check=False)


def run(program, command, folder, *words):
    done = attempt(program, command, folder, *words)
    if done.returncode != 0:
        raise SystemExit(f"{folder}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def load(folder, **options):
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager",
        **options).eval()


def check(program, name, config_class, options, folder):
    save_random(folder, config_class, options)
    model = load(folder)
    ids = torch.randint(3, SIZES["vocab_size"], (WINDOW * WINDOWS,))
    save_file({"ids": ids.to(torch.int32)}, folder / "ids.safetensors")
    ours = run(program, "eval", folder, "--ids", folder / "ids.safetensors",
               "--window", str(WINDOW), "--windows", str(WINDOWS))["loss"]
    theirs = transformers_loss(model, ids, WINDOW)
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


def as_float8(folder):
    """Makes the projections of a checkpoint 8-bit floats with a scale per block."""
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.endswith("proj.weight")]:
        weight = tensors[name].float()
        scales = torch.empty([-(-size // BLOCK) for size in weight.shape])
        for i, j in itertools.product(*map(range, scales.shape)):
            block = weight[i * BLOCK : (i + 1) * BLOCK, j * BLOCK : (j + 1) * BLOCK]
            scales[i, j] = block.abs().max() / 448
            block /= scales[i, j]
        tensors[name] = weight.to(torch.float8_e4m3fn)
        tensors[f"{name}_scale_inv"] = scales
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8",
                                     "activation_scheme": "dynamic",
                                     "weight_block_size": [BLOCK, BLOCK]}
    (folder / "config.json").write_text(json.dumps(config))


def check_float8(program, folder):
    save_random(folder, transformers.Qwen3Config,
                {**HEADS, "head_dim": BLOCK, "hidden_size": 2 * BLOCK,
                 "intermediate_size": 3 * BLOCK})  # Transformers takes whole blocks
    as_float8(folder)
    ids = torch.randint(3, SIZES["vocab_size"], (WINDOW,))
    save_file({"ids": ids.to(torch.int32)}, folder / "ids.safetensors")
    ours = run(program, "eval", folder, "--ids", folder / "ids.safetensors",
               "--window", str(WINDOW), "--windows", "1")["loss"]
    config = transformers.FineGrainedFP8Config(dequantize=True)
    theirs = transformers_loss(load(folder, quantization_config=config), ids,
                               WINDOW)
    wrong = abs(ours - theirs) > 2e-4
    print(f"{FLOAT8}: log-loss {ours:.6f} here, {theirs:.6f} there"
          f"{' WRONG' if wrong else ''}")
    return wrong


def check_config(program, folder, config, ids):
    """What came of a changed config: "same", "WRONG", or who refuses it."""
    for name in random.sample(list(CHANGES), random.randint(1, 3)):
        value = random.choice([*CHANGES[name], ABSENT])
        if value is ABSENT:
            config.pop(name, None)
        else:
            config[name] = value
    (folder / "config.json").write_text(json.dumps(config))
    done = attempt(program, "eval", folder, "--ids", folder / "ids.safetensors",
                   "--window", str(WINDOW), "--windows", "1")
    if done.returncode not in (0, 1, 2):
        return f"WRONG, exit status {done.returncode}"
    if done.returncode != 0:
        return "refused"
    ours = json.loads(done.stdout)["loss"]
    try:
        theirs = transformers_loss(load(folder), ids[:WINDOW], WINDOW)
    except Exception:  # whatever a config makes it raise
        return "refused by Transformers"
    if abs(ours - theirs) <= 2e-4:
        return "same"
    return f"WRONG, log-loss {ours:.6f} here, {theirs:.6f} there"


def check_configs(program, count):
    random.seed(1)
    outcomes = collections.Counter()
    with tempfile.TemporaryDirectory() as place:
        folders = []
        for name, config_class, options in CASES:
            folder = pathlib.Path(place) / name
            save_random(folder, config_class, options)
            ids = torch.randint(3, SIZES["vocab_size"], (WINDOW,))
            save_file({"ids": ids.to(torch.int32)}, folder / "ids.safetensors")
            folders.append((folder, (folder / "config.json").read_text(), ids))
        for _ in range(count):
            folder, text, ids = random.choice(folders)
            outcome = check_config(program, folder, json.loads(text), ids)
            if outcome.startswith("WRONG"):
                print(f"{outcome}: {(folder / 'config.json').read_text()}")
                outcome = "WRONG"
            outcomes[outcome] += 1
    print(", ".join(f"{count} {outcome}" for outcome, count in outcomes.items()))
    return outcomes["WRONG"] > 0


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--configs", type=int, metavar="N")
    arguments = parser.parse_args()
    program, names = arguments.program, arguments.names
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if arguments.configs:
        sys.exit(check_configs(program, arguments.configs))
    failed = False
    for name, config_class, options in all_cases():
        if names and name not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            failed |= check(program, name, config_class, options,
                            pathlib.Path(folder))
    if not names or FLOAT8 in names:
        with tempfile.TemporaryDirectory() as folder:
            failed |= check_float8(program, pathlib.Path(folder))
    sys.exit(failed)


main()
