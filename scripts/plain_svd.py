#!/usr/bin/env python3
"""Writes a checkpoint whose linear layers are truncated singular value
decompositions of a model's. The rank is that at which the two factors have KEEP of
the layer's weights. scripts/compare_a3.py compares `adapt --method a3` with it.

  pip install torch safetensors
  scripts/plain_svd.py MODEL KEEP FOLDER

q, k, v and gate, up are decomposed stacked, as in adapters. The factors are
multiplied out: the checkpoint is as large as the model's, and only for evaluation.
"""

import pathlib
import shutil
import sys

import torch
from safetensors.torch import load_file, save_file

STACKS = (
    ("q_proj", "k_proj", "v_proj"),
    ("gate_proj", "up_proj"),
    ("o_proj",),
    ("down_proj",),
    ("query_key_value",),
    ("dense",),
    ("dense_h_to_4h",),
    ("dense_4h_to_h",),
)


def truncated(weights, keep):
    rows, cols = weights.shape
    rank = int(keep * rows * cols / (rows + cols))
    u, s, v = torch.linalg.svd(weights.double(), full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ v[:rank]


def main():
    model, keep, folder = pathlib.Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("golden"),
                    copy_function=shutil.copyfile)
    tensors = load_file(model / "model.safetensors")
    layers = {name.rsplit(".", 2)[0] for name in tensors if name.count(".") > 3}
    for layer in layers:
        for stack in STACKS:
            names = [f"{layer}.{name}.weight" for name in stack]
            if not all(name in tensors for name in names):
                continue
            parts = [tensors[name] for name in names]
            small = truncated(torch.cat(parts), keep)
            for name, part, new in zip(names, parts,
                                       small.split([len(p) for p in parts])):
                tensors[name] = new.to(part.dtype).contiguous()
    save_file(tensors, f"{folder}/model.safetensors", {"format": "pt"})


main()
