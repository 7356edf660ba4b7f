"""What the tests share: random numbers, checkpoints, the program."""

import json
import os
import pathlib
import struct
import subprocess

import numpy
import pytest

import rankforge

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODELS = ROOT / "examples" / "models"


@pytest.fixture
def random() -> numpy.random.Generator:
    return numpy.random.default_rng(7)


@pytest.fixture(params=["llama-gqa-7m", "gemma-6m", "neox-7m"])
def checkpoint(request: pytest.FixtureRequest) -> pathlib.Path:
    """Each of the example checkpoints."""
    folder: pathlib.Path = MODELS / request.param
    if not (folder / "model.safetensors").exists():
        pytest.skip(f"{folder} is not there")
    return folder


@pytest.fixture(scope="session")
def llama() -> pathlib.Path:
    folder = MODELS / "llama-gqa-7m"
    if not (folder / "model.safetensors").exists():
        pytest.skip(f"{folder} is not there")
    return folder


@pytest.fixture(scope="session")
def smollm2() -> pathlib.Path:
    """The file of scripts/fetch_smollm2.sh, as RANKFORGE_SMOLLM2 names it."""
    named = os.environ.get("RANKFORGE_SMOLLM2")
    if not named:
        pytest.skip("RANKFORGE_SMOLLM2 names no file: see "
                    "scripts/fetch_smollm2.sh")
    return pathlib.Path(named)


@pytest.fixture(scope="session")
def program() -> str:
    """The program `rankforge`: RANKFORGE_PROGRAM, or that of a build here."""
    named = os.environ.get("RANKFORGE_PROGRAM")
    found = sorted(ROOT.glob("build/*/rankforge"))
    if named is None and not found:
        pytest.skip("no program: build it, or set RANKFORGE_PROGRAM")
    return named or str(found[0])


# Of one small problem, which is quick to measure.
TUNED = rankforge.Problem("column_mask", 64, 96, "f32", density=0.5)


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A table of TUNED."""
    path = tmp_path_factory.mktemp("table") / "table.json"
    rankforge.tune([TUNED], path, rigor="estimate", budget_seconds=60,
                   allow_noise=True)
    return path


@pytest.fixture(scope="session")
def adapter(
    llama: pathlib.Path, program: str, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    """An adapter for `llama`, of two windows of text: the method that is
    quickest to make rank adapters and masks."""
    folder = tmp_path_factory.mktemp("adapter")
    out = folder / "rana.safetensors"
    text = folder / "text.txt"
    calibration = (MODELS / "text" / "calibration.txt").read_text()
    text.write_text(calibration[:20000])
    subprocess.run(
        [program, "adapt", "--model", str(llama), "--calibration", str(text),
         "--keep", "0.6", "--method", "rana-paper", "--tokens", "512",
         "--split-tokens", "256", "--out", str(out)],
        check=True, capture_output=True)
    return out


@pytest.fixture(scope="session")
def gains(
    llama: pathlib.Path, program: str, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    """An adapter for `llama` with masks alone, which have random gains and
    biases, as if they had been learned."""
    folder = tmp_path_factory.mktemp("gains")
    masks, out = folder / "teal.safetensors", folder / "gains.safetensors"
    subprocess.run(
        [program, "adapt", "--model", str(llama), "--calibration",
         str(MODELS / "text" / "calibration.txt"), "--keep", "0.6", "--method",
         "teal", "--tokens", "512", "--out", str(masks)],
        check=True, capture_output=True)
    config = json.loads((llama / "config.json").read_text())
    head = config["hidden_size"] // config["num_attention_heads"]
    rows = {"qkv": config["hidden_size"] + 2 * head
            * config["num_key_value_heads"],
            "gate_up": 2 * config["intermediate_size"]}
    contents = masks.read_bytes()
    size, = struct.unpack("<Q", contents[:8])
    header = json.loads(contents[8 : 8 + size])
    header.pop("rankforge.file_hash")  # of other bytes
    data = contents[8 + size :]
    end = max(info["data_offsets"][1] for name, info in header.items()
              if name != "__metadata__")
    data, random = data[:end], numpy.random.default_rng(3)
    for name in [name for name in header if name.endswith(".mask.tau")]:
        module = name.removesuffix(".mask.tau")
        added = {
            "gain": 1 + 0.2 * random.normal(size=header[name]["shape"]),
            "bias": 0.1 * random.normal(
                size=rows.get(module.rpartition(".")[2],
                              config["hidden_size"]))}
        for kind, values in added.items():
            values = values.astype(numpy.float32)
            header[f"{module}.mask.{kind}"] = {
                "dtype": "F32", "shape": list(values.shape),
                "data_offsets": [len(data), len(data) + values.nbytes]}
            data += values.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    out.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return out
