"""Adapter files of the runtime (runtime/model/format/adapter.h) as tensors.

Without the native module they are read as they are: whether the checkpoint is
the one that they were made for is checked where the module is.
"""

import json
import os
import pathlib
import struct
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rankforge.training._errors import TrainingError

_METADATA = "rankforge"
_FORMAT = "rankforge-adapter/1"
_FILE_HASH = "rankforge.file_hash"
_HASH_DIGITS = 32


@dataclass(frozen=True)
class Mask:
    """Channel j takes part iff |x_j| >= tau_j. gain: (channels,), bias: (rows,),
    or both None."""

    tau: Tensor
    gain: Tensor | None = None
    bias: Tensor | None = None


@dataclass(frozen=True)
class Rank:
    """y = A ((|z| >= tau) * z), z = B x; a (ranks, rows), b (ranks, cols)."""

    a: Tensor
    b: Tensor
    tau: Tensor


@dataclass(frozen=True)
class AdapterFile:
    """metadata: as the file has it; tensors: by name, f32, without the hash."""

    path: str
    metadata: dict[str, Any]
    tensors: dict[str, Tensor] = field(repr=False)

    def ranks(self) -> dict[str, Rank]:
        return {name: Rank(*(self._of(f"{name}.rank.{part}")
                             for part in ("A", "B", "tau")))
                for name in self.metadata["ranks"]}

    def masks(self) -> dict[str, Mask]:
        return {name: Mask(self._of(f"{name}.mask.tau"),
                           self.tensors.get(f"{name}.mask.gain"),
                           self.tensors.get(f"{name}.mask.bias"))
                for name in self.metadata["masks"]}

    def gates(self) -> dict[str, Mask]:
        return {name: Mask(self._of(f"{name}.gate.tau"))
                for name in self.metadata.get("gates", {})}

    def rotation_of(self, block: int) -> Tensor | None:
        """Q (hidden, hidden) of the group that the block is in, or None."""
        found = None
        for group in self.metadata.get("rotation", {}).get("groups", []):
            if group["first_block"] <= block:
                found = group
        if found is None or not found["rotated"]:
            return None
        return self._of(f"rotation.{found['first_block']}.Q")

    def _of(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise TrainingError(f"{self.path}: has no tensor '{name}', which "
                                "its metadata name; make the adapter again")
        return self.tensors[name]


def read_adapter(path: str | os.PathLike[str]) -> AdapterFile:
    """Raises: TrainingError: it is none, or damaged."""
    path = os.fspath(path)
    try:
        with safe_open(path, "pt") as file:
            metadata = json.loads((file.metadata() or {})[_METADATA])
            tensors = {name: file.get_tensor(name) for name in file.keys()
                       if name != _FILE_HASH}
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{path}: cannot be read ({error}); give a file "
                            "of rankforge adapt") from None
    except (KeyError, ValueError):
        raise TrainingError(f"{path}: '__metadata__' has no JSON in "
                            f"'{_METADATA}', this is no adapter file; give one "
                            "of rankforge adapt") from None
    if metadata.get("format") != _FORMAT:
        raise TrainingError(f"{path}: metadata field 'format' is "
                            f"{metadata.get('format')!r}, this build reads "
                            f"'{_FORMAT}'; make the adapter again")
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32:
            raise TrainingError(f"{path}: tensor '{name}' is {tensor.dtype}, "
                                "expected F32; make the adapter again")
        # Infinity drops a channel. NaN would drop it in silence.
        if torch.isnan(tensor).any():
            raise TrainingError(f"{path}: tensor '{name}' has NaN; make the "
                                "adapter again")
    return AdapterFile(path, metadata, tensors)


def check_adapter_of(adapter: AdapterFile, checkpoint: str) -> str | None:
    """None, or why it is not known that the adapter is of this checkpoint.

    Raises: TrainingError: it is of another one.
    """
    core = native_module()
    if core is None:
        return (f"{adapter.path}: whether it is of {checkpoint} is not checked "
                "without the native module")
    identity, full = core.checkpoint_hashes(checkpoint)
    stated = adapter.metadata["checkpoint"]
    if stated["identity"] == identity and stated["full_hash"] in ("", full):
        return None
    raise TrainingError(
        f"{adapter.path}: metadata field 'checkpoint.identity' is "
        f"{stated['identity']}, {checkpoint} is {identity}; give the "
        "checkpoint that the adapter was made for")


def native_module() -> Any:
    """rankforge._core, or None where it is not built."""
    try:
        from rankforge import _core
    except ImportError:
        return None
    return _core


def require_native(purpose: str) -> Any:
    core = native_module()
    if core is None:
        raise TrainingError(
            f"{purpose} needs the native module, which is not built here; "
            "build the package (docs/python.md) and run "
            "`python -m rankforge.training export` on the same folder")
    return core


def write_adapter(path: str | os.PathLike[str], metadata: dict[str, Any],
                  tensors: dict[str, Tensor], checkpoint: str) -> None:
    """Writes an adapter for `checkpoint`, whose hashes go into the metadata.

    The file appears whole or not at all.
    """
    core = require_native(f"{os.fspath(path)}: the identity of a checkpoint")
    identity, full = core.checkpoint_hashes(checkpoint)
    metadata = metadata | {
        "checkpoint": {"identity": identity, "full_hash": full}}
    text = json.dumps(metadata, sort_keys=True, ensure_ascii=False)
    header: dict[str, Any] = {"__metadata__": {_METADATA: text}}
    pieces, end = [], 0
    for name, tensor in tensors.items():
        data = tensor.detach().to("cpu", torch.float32).contiguous()
        pieces.append(data.numpy().tobytes())
        header[name] = {"dtype": "F32", "shape": list(data.shape),
                        "data_offsets": [end, end + len(pieces[-1])]}
        end += len(pieces[-1])
    header[_FILE_HASH] = {"dtype": "U8", "shape": [_HASH_DIGITS],
                          "data_offsets": [end, end + _HASH_DIGITS]}
    encoded = json.dumps(header, ensure_ascii=False).encode()
    encoded += b" " * (-len(encoded) % 8)
    digest = core.content_hash([encoded, *pieces]).encode()
    target = pathlib.Path(path)
    partial = target.with_name(f"{target.name}.partial")
    with open(partial, "wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for piece in pieces:
            file.write(piece)
        file.write(digest)
    os.replace(partial, target)
