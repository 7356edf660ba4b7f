#!/usr/bin/env python3
"""Writes a hollow checkpoint of the Llama-2-7B shape and an adapter for it.

Their matrices are holes in the files. So they take megabytes on disk, and have all
that `tune` reads.

    scripts/hollow_model.py PROGRAM --out FOLDER
    PROGRAM tune --model FOLDER --adapter FOLDER/rank.safetensors --dtype bf16 ...

All 32 layers differ, as they do after calibration. d is around 0.75 of the width, in
multiples of 64. Earlier ranks are kept more often. Densities are spread over tokens.
The numbers are random, from a fixed seed.
"""

import argparse
import json
import pathlib
import random
import re
import struct
import subprocess

HIDDEN, MLP, LAYERS, VOCAB = 4096, 11008, 32, 32000
BYTES = {"BF16": 2, "F32": 4}


def write_hollow(path, tensors, metadata):
    """`tensors`: name to (dtype, shape). Everything reads as zeros."""
    header, offset = {"__metadata__": metadata}, 0
    for name, (dtype, shape) in sorted(tensors.items()):
        size = BYTES[dtype]
        for extent in shape:
            size *= extent
        header[name] = {"dtype": dtype, "shape": list(shape),
                        "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)


def write_checkpoint(folder):
    tensors = {"model.embed_tokens.weight": ("BF16", (VOCAB, HIDDEN)),
               "lm_head.weight": ("BF16", (VOCAB, HIDDEN)),
               "model.norm.weight": ("BF16", (HIDDEN,))}
    for layer in range(LAYERS):
        name = f"model.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{name}{norm}.weight"] = ("BF16", (HIDDEN,))
        for part in "qkvo":
            tensors[f"{name}self_attn.{part}_proj.weight"] = (
                "BF16", (HIDDEN, HIDDEN))
        for part, shape in (("gate", (MLP, HIDDEN)), ("up", (MLP, HIDDEN)),
                            ("down", (HIDDEN, MLP))):
            tensors[f"{name}mlp.{part}_proj.weight"] = ("BF16", shape)
    write_hollow(folder / "model.safetensors", tensors, {"format": "pt"})
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "hidden_size": HIDDEN, "intermediate_size": MLP,
        "num_hidden_layers": LAYERS, "num_attention_heads": 32,
        "num_key_value_heads": 32, "vocab_size": VOCAB, "hidden_act": "silu",
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "tie_word_embeddings": False,
        "torch_dtype": "bfloat16"}, indent=1))


def statistics(cols, channels, density, falling):
    frequency = [
        round(min(1, max(0, density * (1.8 - 1.6 * i / channels)
                         if falling else random.gauss(density, .1))), 4)
        for i in range(channels)]
    return {"cols": cols, "density": sum(frequency) / channels, "error": .1,
            "density_quantiles": {"0.05": max(.02, density - .08),
                                  "0.95": min(1, density + .08)},
            "keep_frequency": frequency}


def write_adapter(path, identity):
    random.seed(7)
    tensors, ranks, masks = {}, {}, {}
    for layer in range(LAYERS):
        name = f"model.layers.{layer}."
        for module, rows in ((".self_attn.qkv", 3 * HIDDEN),
                             (".mlp.gate_proj", MLP), (".mlp.up_proj", MLP)):
            module = name[:-1] + module
            d = 64 * round(random.gauss(3072, 256) / 64)
            ranks[module] = statistics(
                HIDDEN, d, min(.5, max(.15, random.gauss(.34, .06))), True)
            ranks[module].update(rows=rows, d=d)
            tensors[module + ".rank.A"] = ("F32", (d, rows))
            tensors[module + ".rank.B"] = ("F32", (d, HIDDEN))
            tensors[module + ".rank.tau"] = ("F32", (d,))
        module = name + "mlp.down_proj"
        masks[module] = statistics(MLP, MLP, random.gauss(.52, .05), False)
        tensors[module + ".mask.tau"] = ("F32", (MLP,))
    metadata = {"format": "rankforge-adapter/1", "method": "hollow",
                "keep": .56, "linear_flops_ratio": .56,
                "checkpoint": {"identity": identity, "full_hash": ""},
                "calibration": {"hash": "", "tokens": 0}, "parameters": {},
                "left_dense": {}, "ranks": ranks, "masks": masks}
    write_hollow(path, tensors, {"rankforge": json.dumps(metadata)})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    adapter = arguments.out / "rank.safetensors"
    write_checkpoint(arguments.out)
    # An adapter for no checkpoint: the message says what this one's identity is.
    write_adapter(adapter, "")
    result = subprocess.run(
        [arguments.program, "tune", "--model", str(arguments.out), "--adapter",
         str(adapter), "--out", str(arguments.out / "table.json")],
        stderr=subprocess.PIPE, text=True)
    found = re.search(r"this checkpoint is ([0-9a-f]{32})", result.stderr)
    if not found:
        raise SystemExit(f"no identity in: {result.stderr}")
    write_adapter(adapter, found.group(1))
    print(f"{arguments.out}: checkpoint and {adapter.name}")


if __name__ == "__main__":
    main()
