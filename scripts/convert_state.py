#!/usr/bin/env python3
"""Writes what other projects publish as a state for `rankforge import`.

  scripts/convert_state.py teal FOLDER --sparsity 0.5 [--uniform] --out STATE
  scripts/convert_state.py rana FILE --out STATE
  scripts/convert_state.py cats FILE --out STATE

docs/import.md says what is read and what becomes of it. Files of torch.save are
read without torch. Their pickles may name tensors of plain numbers; anything else
is refused, not called.
"""
import argparse
import collections
import csv
import io
import json
import math
import os
import pickle
import re
import struct
import sys
import zipfile

import numpy

STORAGES = {"FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2",
            "BFloat16Storage": "bf16", "LongStorage": "<i8"}
SAFETENSORS = {"F32": "<f4", "F64": "<f8", "F16": "<f2", "BF16": "bf16"}
MOST_BYTES = 1 << 36  # of one file
MOST_HEADER = 100_000_000


class WrongInput(Exception):
    pass


def from_bytes(data, kind):
    """A vector of f32, or of integers."""
    if kind == "bf16":
        wide = numpy.frombuffer(data, "<u2").astype("<u4") << 16
        return wide.view("<f4")
    values = numpy.frombuffer(data, kind)
    return values if kind == "<i8" else values.astype("<f4")


# Files of torch.save -----------------------------------------------------------

class Storage:
    """A class of torch's storages, by name alone."""

    def __init__(self, kind):
        self.kind = kind


def rebuild_tensor(storage, offset, size, stride, *_):
    """What torch._utils._rebuild_tensor_v2 makes, checked against `storage`."""
    numbers = (offset, *size, *stride)
    if (not isinstance(storage, numpy.ndarray) or len(size) != len(stride) or
            not all(type(n) is int and n >= 0 for n in numbers)):
        raise WrongInput("holds a tensor that is none")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride))
    if 0 in size:
        return numpy.zeros(size, storage.dtype)
    if last >= storage.size or math.prod(size) > storage.size:
        raise WrongInput(f"holds a tensor of shape {size} with stride {stride} "
                         f"in a storage of {storage.size} values")
    step = storage.itemsize
    return numpy.lib.stride_tricks.as_strided(
        storage[offset:], size, [step * s for s in stride]).copy()


def rebuild_parameter(data, *_):
    return data


class TensorUnpickler(pickle.Unpickler):
    """Knows tensors, dictionaries, lists and numbers, and nothing else."""

    KNOWN = {("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
             ("torch._utils", "_rebuild_parameter"): rebuild_parameter,
             ("collections", "OrderedDict"): collections.OrderedDict}

    def __init__(self, archive, root, file):
        super().__init__(file)
        self.archive, self.root = archive, root

    def find_class(self, module, name):
        if module == "torch" and name in STORAGES:
            return Storage(STORAGES[name])
        if (module, name) not in self.KNOWN:
            raise WrongInput(f"its pickle names {module}.{name}, which is no "
                             "tensor; save tensors alone")
        return self.KNOWN[module, name]

    def persistent_load(self, saved):
        if (not isinstance(saved, tuple) or len(saved) < 5 or
                saved[0] != "storage" or not isinstance(saved[1], Storage) or
                not isinstance(saved[2], str)):
            raise WrongInput("names a storage in an unknown way")
        data = read_member(self.archive, f"{self.root}/data/{saved[2]}")
        try:
            return from_bytes(data, saved[1].kind)
        except ValueError as error:
            raise WrongInput(f"storage {saved[2]}: {error}") from error


def read_member(archive, name):
    try:
        # torch.save does not compress, and a small file must not become a large one.
        info = archive.getinfo(name)
        if info.compress_type != zipfile.ZIP_STORED:
            raise WrongInput(f"member {name} is compressed")
        return archive.read(info)
    except KeyError as error:
        raise WrongInput(f"has no member {name}") from error


def load_torch(path):
    with zipfile.ZipFile(path) as archive:
        roots = [name[:-len("/data.pkl")] for name in archive.namelist()
                 if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise WrongInput("is no file of torch.save (of version 1.6 or later)")
        pickled = read_member(archive, roots[0] + "/data.pkl")
        return TensorUnpickler(archive, roots[0], io.BytesIO(pickled)).load()


# Files of safetensors ------------------------------------------------------------

def load_safetensors(path):
    with open(path, "rb") as file:
        data = file.read()
    size = struct.unpack("<Q", data[:8])[0] if len(data) >= 8 else -1
    if not 0 <= size <= min(len(data) - 8, MOST_HEADER):
        raise WrongInput("its header is longer than the file")
    tensors = {}
    for name, info in json.loads(data[8:8 + size]).items():
        if name == "__metadata__":
            continue
        begin, end = info["data_offsets"]
        if info["dtype"] not in SAFETENSORS:
            continue  # no weights: a counter, a mask
        values = data[8 + size:][begin:end]
        if not 0 <= begin <= end <= len(data) - 8 - size:
            raise WrongInput(f"tensor {name} lies outside")
        tensors[name] = from_bytes(
            values, SAFETENSORS[info["dtype"]]).reshape(info["shape"])
    return tensors


def load_state_dict(path):
    """{name: array} of a safetensors file or of what torch.save wrote."""
    loaded = (load_safetensors(path) if path.endswith(".safetensors") else
              load_torch(path))
    if not isinstance(loaded, dict):
        raise WrongInput("is no dictionary of tensors")
    return {name: value for name, value in loaded.items()
            if isinstance(name, str) and isinstance(value, numpy.ndarray)}


def save_state(path, tensors, method):
    """Writes the file whole or not at all."""
    header, offset = {"__metadata__": {"method": method}}, 0
    arrays = {name: numpy.ascontiguousarray(array, "<f4")
              for name, array in tensors.items()}
    for name, array in arrays.items():
        header[name] = {"dtype": "F32", "shape": list(array.shape),
                        "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    partial = f"{path}.{os.getpid()}.partial"
    try:
        with open(partial, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for array in arrays.values():
                file.write(array.tobytes())
        os.replace(partial, path)
    finally:
        if os.path.exists(partial):
            os.remove(partial)


def scalar(value, name):
    array = numpy.asarray(value, "<f4").reshape(-1)
    if array.size != 1 or not math.isfinite(array[0]) or array[0] < 0:
        raise WrongInput(f"{name} is no threshold: {array[:3]}")
    return array


def above(value):
    """The t for which x >= t says the same as x > value."""
    return numpy.nextafter(numpy.float32(value), numpy.float32(numpy.inf))


# TEAL ------------------------------------------------------------------------------

# Our module, the folder and the name of its input's histogram, and the projections
# that read this input.
TEAL = [("self_attn.qkv", "self_attn", "h1", ("q", "k", "v")),
        ("self_attn.o_proj", "self_attn", "h2", ("o",)),
        ("mlp.gate_up", "mlp", "h1", ("gate", "up")),
        ("mlp.down_proj", "mlp", "h2", ("down",))]


def quantile(counts, centers, share):
    """The |x| below which `share` of the values lie, for a distribution symmetric
    about zero: the value at 0.5 + share / 2 of the counts, interpolated between two
    centers."""
    total = numpy.cumsum(counts, dtype="f8")
    wanted = (0.5 + share / 2) * total[-1]
    i = int(numpy.searchsorted(total, wanted))
    if i == 0:
        return centers[0]
    if i >= len(centers):
        return centers[-1]
    fraction = (wanted - total[i - 1]) / (total[i] - total[i - 1])
    return centers[i - 1] + fraction * (centers[i] - centers[i - 1])


def histogram(path, kind):
    stored = load_state_dict(path)
    for name in (kind, f"{kind}_centers"):
        if name not in stored or stored[name].ndim != 1:
            raise WrongInput(f"{path}: has no vector '{name}'")
    counts, centers = stored[kind], stored[f"{kind}_centers"]
    if (len(counts) != len(centers) or len(counts) < 2 or
            not numpy.isfinite(counts).all() or (counts < 0).any() or
            counts.sum() <= 0 or not (numpy.diff(centers) >= 0).all()):
        raise WrongInput(f"{path}: '{kind}' is no histogram")
    return counts, centers


def sparsities(folder, layer, wanted, uniform):
    """{projection: share of inputs to drop}, from the line of the search whose
    effective sparsity is nearest to `wanted`."""
    projections = [name for row in TEAL for name in row[3]]
    if uniform:
        return dict.fromkeys(projections, wanted)
    path = os.path.join(folder, "lookup", f"layer-{layer}", "results.csv")
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    try:
        best = min(rows, key=lambda row: abs(float(row["Effective Sparsity"]) -
                                             wanted))
        shares = {name: float(best[name]) for name in projections}
    except (KeyError, TypeError, ValueError) as error:
        raise WrongInput(f"{path}: is not what TEAL's search writes "
                         f"({error})") from error
    # The steps of the search may add up to a little more than 1.
    if not all(0 <= share <= 1.5 for share in shares.values()):
        raise WrongInput(f"{path}: has a share outside 0 to 1: {shares}")
    return {name: min(share, 1.0) for name, share in shares.items()}


def convert_teal(arguments):
    histograms = os.path.join(arguments.input, "histograms")
    layers = sorted(int(name[len("layer-"):]) for name in os.listdir(histograms)
                    if re.fullmatch(r"layer-\d{1,4}", name))
    if layers != list(range(len(layers))) or not layers:
        raise WrongInput(f"{histograms}: layers {layers}, some are missing")
    tensors, merged = {}, 0
    for layer in layers:
        shares = sparsities(arguments.input, layer, arguments.sparsity,
                            arguments.uniform)
        for module, part, kind, projections in TEAL:
            wanted = [shares[name] for name in projections]
            merged += len(set(wanted)) > 1
            if min(wanted) == 0:
                continue  # one of them reads all: dense
            counts, centers = histogram(
                os.path.join(histograms, f"layer-{layer}", part,
                             "histograms.pt"), kind)
            t = max(quantile(counts, centers, min(wanted)), 0)
            tensors[f"model.layers.{layer}.{module}.mask.t"] = scalar(
                above(t), module)
    if merged:
        print(f"{merged} inputs are read by projections with different "
              "thresholds; each got the smallest, which drops less",
              file=sys.stderr)
    return tensors


# RaNA --------------------------------------------------------------------------------

def convert_rana(arguments):
    """The input names its tensors <module>.A, .B, .t and .norms."""
    state = load_state_dict(arguments.input)
    tensors = {}
    for name, value in state.items():
        module, _, kind = name.rpartition(".")
        if kind in ("A", "B"):
            if value.ndim != 2:
                raise WrongInput(f"{name} has shape {value.shape}, no matrix")
            tensors[f"{module}.rank.{kind}"] = value
        elif kind == "t":
            form = "rank" if f"{module}.A" in state else "mask"
            tensors[f"{module}.{form}.t"] = scalar(value, name)
        elif kind == "norms":
            tensors[f"{module}.mask.norms"] = value.reshape(-1)
        else:
            raise WrongInput(f"{name}: names end in .A, .B, .t or .norms")
    return tensors


# CATS --------------------------------------------------------------------------------

def convert_cats(arguments):
    """Thresholds on inputs of modules, and on act(gate)."""
    tensors = {}
    for name, value in load_state_dict(arguments.input).items():
        found = re.fullmatch(r"(?:.*\.)?(model\.layers\.\d+\.(.*))\.threshold",
                             name)
        if not found:
            continue  # weights
        if found[2] == "mlp.act_fn":
            module = found[1].removesuffix("act_fn") + "gate_up.gate.t"
        else:
            module = found[1] + ".mask.t"
        tensors[module] = scalar(value, name)
    if not tensors:
        raise WrongInput("has no threshold of a layer")
    return tensors


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("origin", choices=["teal", "rana", "cats"])
    parser.add_argument("input")
    parser.add_argument("--out", required=True)
    parser.add_argument("--sparsity", type=float)
    parser.add_argument("--uniform", action="store_true")
    arguments = parser.parse_args()
    if (arguments.origin == "teal") != (arguments.sparsity is not None):
        parser.error("--sparsity is needed for teal, and for nothing else")
    if arguments.sparsity is not None and not 0 < arguments.sparsity < 1:
        parser.error("--sparsity lies between 0 and 1")
    convert = {"teal": convert_teal, "rana": convert_rana, "cats": convert_cats}
    try:
        if (os.path.isfile(arguments.input) and
                os.path.getsize(arguments.input) > MOST_BYTES):
            raise WrongInput("is too large")
        tensors = convert[arguments.origin](arguments)
        save_state(arguments.out, tensors, arguments.origin)
    except (WrongInput, OSError, EOFError, AttributeError, IndexError, KeyError,
            RecursionError, TypeError, ValueError, MemoryError,
            zipfile.BadZipFile, pickle.UnpicklingError) as error:
        sys.exit(f"{arguments.input}: {str(error) or type(error).__name__}")
    print(f"{arguments.out}: {len(tensors)} tensors")


if __name__ == "__main__":
    main()
