"""Merges what was learned: a checkpoint of Hugging Face, and an adapter file."""

import json
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from rankforge.training._adapter_file import AdapterFile, write_adapter
from rankforge.training._errors import TrainingError
from rankforge.training._gates import THRESHOLD
from rankforge.training._stacked import STACKED

_DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
_DTYPE_NAMES = {"f32": "float32", "bf16": "bfloat16"}


def _weight_files(source: pathlib.Path) -> list[pathlib.Path]:
    files = sorted(source.glob("*.safetensors"))
    if not files:
        raise TrainingError(f"{source}: has no *.safetensors; give the folder "
                            "of a Hugging Face checkpoint")
    return files


def _name_in_file(layer: str, names: set[str]) -> str | None:
    """Checkpoints of a base model lack the first part of names."""
    weight = f"{layer}.weight"
    for name in (weight, weight.partition(".")[2]):
        if name in names:
            return name
    return None


def _check_finite(name: str, tensor: Tensor) -> None:
    if not torch.isfinite(tensor).all():
        raise TrainingError(f"{name}: has weights that are not finite after "
                            "the merge; lower --lr and train again")


def _merge_files(source: pathlib.Path, out: pathlib.Path,
                 deltas: dict[str, Tensor], dtype: str) -> set[str]:
    """Writes the weights; returns the layers whose deltas they have."""
    merged = set()
    for path in _weight_files(source):
        tensors = {}
        with safe_open(path, "pt") as file:
            names = set(file.keys())
            layer_of = {_name_in_file(layer, names): layer for layer in deltas}
            for name in file.keys():
                tensor = file.get_tensor(name)
                stored = _DTYPES.get(dtype, tensor.dtype)
                if name in layer_of:
                    layer = layer_of[name]
                    tensor = tensor.float() + deltas[layer]
                    _check_finite(name, tensor)
                    merged.add(layer)
                if tensor.is_floating_point():
                    tensor = tensor.to(stored)
                tensors[name] = tensor.contiguous()
        save_file(tensors, out / path.name, metadata={"format": "pt"})
    return merged


def _copy_settings(source: pathlib.Path, out: pathlib.Path,
                   dtype: str) -> None:
    for path in source.iterdir():
        weights = path.suffix in (".safetensors", ".bin", ".gguf")
        if path.is_file() and not weights:
            shutil.copyfile(path, out / path.name)
    if dtype in _DTYPES:
        path = out / "config.json"
        config = json.loads(path.read_text())
        config.pop("torch_dtype", None)
        config["dtype"] = _DTYPE_NAMES[dtype]
        path.write_text(json.dumps(config, indent=2) + "\n")


def _whole(out: pathlib.Path, fill: Callable[[pathlib.Path], None]) -> None:
    """The folder appears whole or not at all."""
    if out.exists():
        raise TrainingError(f"{out}: exists; remove it, or name another")
    partial = out.with_name(f"{out.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        fill(partial)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_checkpoint(source: str, out: pathlib.Path, deltas: dict[str, Tensor],
                     dtype: str) -> None:
    """A copy of the checkpoint with W + delta in place of W.

    dtype: "stored" (each tensor as the source has it), "f32" or "bf16".
    """
    def fill(folder: pathlib.Path) -> None:
        merged = _merge_files(pathlib.Path(source), folder, deltas, dtype)
        missing = sorted(set(deltas) - merged)
        if missing:
            raise TrainingError(f"{source}: has no weight for {missing[0]}, "
                                "which was trained; give the checkpoint that "
                                "was")
        _copy_settings(pathlib.Path(source), folder, dtype)

    _whole(out, fill)


def parts_by_name(module: str) -> list[str]:
    folder, _, last = module.rpartition(".")
    return [f"{folder}.{part}" for part in STACKED.get(last, (last,))]


def merge_ranks(adapter: AdapterFile, deltas: dict[str, Tensor]
                ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The adapter's tensors with A + dA, and the deltas that are of W."""
    tensors, rest = dict(adapter.tensors), dict(deltas)
    for module in adapter.metadata["ranks"]:
        found = [rest.pop(part, None) for part in parts_by_name(module)]
        if any(delta is None for delta in found):
            raise TrainingError(f"{adapter.path}: has {module}, for which "
                                "nothing was trained; give the adapter that "
                                "was trained with")
        # (rows, ranks) of the stacked layers; the file has A by ranks.
        added = torch.cat([delta for delta in found if delta is not None])
        a = tensors[f"{module}.rank.A"]
        if added.shape != (a.shape[1], a.shape[0]):
            raise TrainingError(f"{adapter.path}: {module} is of another shape "
                                "than was trained; give the adapter that was "
                                "trained with")
        merged = a + added.T
        _check_finite(module, merged)
        tensors[f"{module}.rank.A"] = merged
    return tensors, rest


def export_adapter(adapter: AdapterFile, tensors: dict[str, Tensor],
                   checkpoint: str, path: pathlib.Path,
                   trained: dict[str, str]) -> None:
    """The adapter again, for the merged checkpoint. Its densities stay those of
    calibration; `eval` counts anew."""
    metadata: dict[str, Any] = dict(adapter.metadata)
    metadata["parameters"] = dict(metadata["parameters"]) | trained
    write_adapter(path, metadata, tensors, checkpoint)


def export_skip(method: str, routers: dict[str, Tensor],
                layers: list[int], checkpoint: str, path: pathlib.Path,
                run: float, tokens: int, parameters: dict[str, str]) -> None:
    """An adapter that leaves out whole layers: by routers, or always `layers`.

    run: the share of layers that ran after prompts, on held-out windows.
    """
    metadata = {
        "format": "rankforge-adapter/1", "method": method, "keep": run,
        "linear_flops_ratio": run,
        "calibration": {"hash": "", "tokens": tokens},
        "parameters": parameters, "left_dense": {}, "ranks": {}, "masks": {},
        "gates": {},
        "layer_skip": {"threshold": THRESHOLD, "layers": layers}}
    write_adapter(path, metadata, routers, checkpoint)
