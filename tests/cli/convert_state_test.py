#!/usr/bin/env python3
"""scripts/convert_state.py on files that this test writes as the other projects
do, and `rankforge import` on what it makes of them.

convert_state_test.py PROGRAM SOURCE_FOLDER"""

import collections
import contextlib
import csv
import io
import json
import os
import pathlib
import pickle
import struct
import subprocess
import sys
import tempfile
import types
import unittest
import zipfile

import numpy

PROGRAM, SOURCE = sys.argv[1], pathlib.Path(sys.argv[2])
sys.dont_write_bytecode = True
sys.path.insert(0, str(SOURCE / "scripts"))
import convert_state  # noqa: E402
MODEL = SOURCE / "examples/models/llama-gqa-7m"
HIDDEN, MLP, LAYERS = 256, 704, 6


# torch.save without torch --------------------------------------------------------

def stand_in(module, name, made):
    made.__module__, made.__qualname__ = module, name
    made.__name__ = name
    sys.modules.setdefault(module, types.ModuleType(module))
    setattr(sys.modules[module], name, made)
    return made


FLOAT_STORAGE = stand_in("torch", "FloatStorage", type("FloatStorage", (), {}))
REBUILD = stand_in("torch._utils", "_rebuild_tensor_v2", lambda *_: None)


class StorageOf:
    def __init__(self, array):
        self.array = array


class TorchPickler(pickle.Pickler):
    """Pickles arrays as torch.save does tensors. `spoil` changes what is said
    of a tensor: (storage, offset, size, stride)."""

    def __init__(self, file, spoil):
        super().__init__(file, protocol=2)
        self.storages, self.spoil = [], spoil

    def persistent_id(self, value):
        if not isinstance(value, StorageOf):
            return None
        self.storages.append(value.array)
        return ("storage", FLOAT_STORAGE, str(len(self.storages) - 1), "cpu",
                value.array.size)

    def reducer_override(self, value):
        if not isinstance(value, numpy.ndarray):
            return NotImplemented
        array = numpy.ascontiguousarray(value, "<f4")
        stride = tuple(step // 4 for step in array.strides)
        said = self.spoil((StorageOf(array), 0, array.shape, stride))
        return REBUILD, (*said, False, collections.OrderedDict())


def torch_save(value, path, spoil=lambda said: said,
               compression=zipfile.ZIP_STORED):
    pickled = io.BytesIO()
    pickler = TorchPickler(pickled, spoil)
    pickler.dump(value)
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled.getvalue())
        for i, array in enumerate(pickler.storages):
            archive.writestr(f"archive/data/{i}", array.tobytes())
        archive.writestr("archive/version", "3\n")


def read_state(path):
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    method = header.pop("__metadata__")["method"]
    return method, {
        name: numpy.frombuffer(
            data[8 + size:][slice(*info["data_offsets"])], "<f4"
        ).reshape(info["shape"]) for name, info in header.items()}


class ConvertStateTest(unittest.TestCase):
    def setUp(self):
        self.scratch = tempfile.TemporaryDirectory()
        self.addCleanup(self.scratch.cleanup)
        self.folder = pathlib.Path(self.scratch.name)
        self.state = self.folder / "state.safetensors"

    def convert(self, *words):
        """The message with which it ends, or None."""
        sys.argv = ["convert_state.py", *map(str, words), "--out",
                    str(self.state)]
        try:
            with contextlib.redirect_stdout(io.StringIO()), \
                    contextlib.redirect_stderr(io.StringIO()):
                convert_state.main()
        except SystemExit as end:
            return end.code
        return None

    def converted(self, *words):
        self.assertIsNone(self.convert(*words))
        return read_state(self.state)

    def refused(self, *words, part):
        message = self.convert(*words)
        self.assertIsInstance(message, str)
        self.assertIn(part, message)
        self.assertEqual([f for f in os.listdir(self.folder)
                          if f.startswith("state.")], [])

    def imported(self):
        ids = self.folder / "ids.json"
        ids.write_text(json.dumps([7 * i % 4000 for i in range(300)]))
        adapter = self.folder / "adapter.safetensors"
        done = subprocess.run(
            [PROGRAM, "import", self.state, "--model", MODEL,
             "--calibration-ids", ids, "--window", "64", "--tokens", "256",
             "--threads", "1", "--out", adapter, "--json"],
            capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue(adapter.exists())
        return json.loads(done.stdout)

    # TEAL

    def write_teal(self, shares, width=1.0):
        """Histograms that are flat from -width to width, and a search with two
        lines, the second of which has `shares`."""
        bins = 401
        for layer in range(LAYERS):
            counts = numpy.ones(bins)
            centers = numpy.linspace(-width, width, bins)
            for part in ("self_attn", "mlp"):
                torch_save({"h1": counts, "h1_centers": centers, "h2": counts,
                            "h2_centers": centers * 2},
                           self.folder / f"teal/histograms/layer-{layer}/{part}/"
                           "histograms.pt")
            lines = self.folder / f"teal/lookup/layer-{layer}/results.csv"
            lines.parent.mkdir(parents=True, exist_ok=True)
            with open(lines, "w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["Effective Sparsity", "Activation Error",
                                 "Baseline Error", *shares])
                writer.writerow([0.1, 0, 0] + [0.0] * len(shares))
                writer.writerow([0.48, 0, 0, *shares.values()])
        return self.folder / "teal"

    SHARES = {"q": 0.6, "k": 0.3, "v": 0.5, "o": 0.25, "gate": 0.5, "up": 0.5,
              "down": 0.7}

    def test_teal_thresholds_of_the_search(self):
        folder = self.write_teal(self.SHARES)
        method, state = self.converted("teal", folder, "--sparsity", "0.5")
        self.assertEqual(method, "teal")
        self.assertEqual(len(state), 4 * LAYERS)
        # The value below which |x| lies with that share: the share itself,
        # within a bin; of the smallest where inputs are shared.
        for module, expected in (("self_attn.qkv", 0.3), ("mlp.gate_up", 0.5),
                                 ("self_attn.o_proj", 2 * 0.25),
                                 ("mlp.down_proj", 2 * 0.7)):
            t = state[f"model.layers.3.{module}.mask.t"]
            self.assertEqual(t.shape, (1,))
            self.assertAlmostEqual(float(t[0]), expected, delta=0.02)
        result = self.imported()
        self.assertEqual(result["method"], "teal")
        self.assertEqual(result["input_masks"], 4 * LAYERS)
        self.assertLess(result["linear_flops_ratio"], 1)

    def test_teal_uniform_needs_no_search(self):
        folder = self.write_teal(self.SHARES)
        for lines in folder.glob("lookup/*/results.csv"):
            lines.unlink()
        _, state = self.converted("teal", folder, "--sparsity", "0.4",
                                  "--uniform")
        t = float(state["model.layers.0.self_attn.qkv.mask.t"][0])
        self.assertAlmostEqual(t, 0.4, delta=0.01)
        self.refused_after_removal("teal", folder, "--sparsity", "0.4",
                                   part="results.csv")

    def refused_after_removal(self, *words, part):
        self.state.unlink()
        self.refused(*words, part=part)

    def test_teal_keeps_what_is_larger_than_the_threshold_alone(self):
        folder = self.write_teal(self.SHARES)
        centers = numpy.array([-2.0, -1.0, 1.0, 2.0])
        torch_save({"h1": numpy.array([1.0, 1, 1, 1]), "h1_centers": centers,
                    "h2": numpy.array([1.0, 1, 1, 1]), "h2_centers": centers},
                   folder / "histograms/layer-0/mlp/histograms.pt")
        _, state = self.converted("teal", folder, "--sparsity", "0.5",
                                  "--uniform")
        t = state["model.layers.0.mlp.gate_up.mask.t"][0]
        self.assertEqual(t, numpy.nextafter(numpy.float32(1), numpy.float32(2)))

    def test_teal_folders_that_are_none(self):
        sparsity = ("--sparsity", "0.5")
        self.refused("teal", self.folder / "none", *sparsity, part="none")
        folder = self.write_teal({**self.SHARES, "up": 7})
        self.refused("teal", folder, *sparsity, part="outside 0 to 1")
        folder = self.write_teal({"q": 0.5})
        self.refused("teal", folder, *sparsity, part="results.csv")
        folder = self.write_teal(self.SHARES)
        file = folder / "histograms/layer-2/mlp/histograms.pt"
        ones, centers = numpy.ones(9), numpy.linspace(-1, 1, 9)
        good = {"h1": ones, "h1_centers": centers, "h2": ones,
                "h2_centers": centers}
        for spoiled in ({"h1_centers": centers[::-1]}, {"h1": ones[:4]},
                        {"h1": 0 * ones}, {"h1": -ones},
                        {"h1": ones * numpy.nan}):
            torch_save(good | spoiled, file)
            self.refused("teal", folder, *sparsity, part="histogram")
        file.unlink()
        self.refused("teal", folder, *sparsity, part="layer-2")

    # Files of torch.save

    def test_pickles_run_nothing(self):
        marker = self.folder / "marker"

        class Evil:
            def __reduce__(self):
                return os.system, (f"touch {marker}",)

        file = self.folder / "state.pt"
        torch_save({"a.threshold": Evil()}, file)
        self.assertIn("system", self.convert("cats", file))
        self.assertFalse(marker.exists())

    def test_tensors_that_are_none(self):
        file = self.folder / "weights.pt"
        value = {"model.layers.0.mlp.down_proj.threshold": numpy.ones(4)}
        for spoil in (lambda s: (s[0], 0, (5,), s[3]),
                      lambda s: (s[0], 1, s[2], s[3]),
                      lambda s: (s[0], -1, s[2], s[3]),
                      lambda s: (s[0], 0, (1 << 40,), (0,)),
                      lambda s: (s[0], 0, (2, 2), (1,)),
                      lambda s: (7, 0, s[2], s[3])):
            torch_save(value, file, spoil)
            self.refused("cats", file, part="holds a tensor")
        torch_save(value, file, compression=zipfile.ZIP_DEFLATED)
        self.refused("cats", file, part="compressed")
        file.write_bytes(b"PK nothing")
        self.refused("cats", file, part="zip")
        weights = self.folder / "weights.safetensors"
        for data in (b"", struct.pack("<Q", 1 << 60), struct.pack("<Q", 2) + b"[]",
                     struct.pack("<Q", 2) + b"{"):
            weights.write_bytes(data)
            self.refused("cats", weights, part=str(weights))

    # CATS and RaNA

    def test_cats_masks_of_inputs(self):
        file = self.folder / "cats.pt"
        torch_save(collections.OrderedDict(
            {f"wrapped_model.model.layers.{i}.mlp.down_proj.threshold":
             numpy.full((), 0.25) for i in range(LAYERS)} |
            {"wrapped_model.model.norm.weight": numpy.ones(HIDDEN)}), file)
        method, state = self.converted("cats", file)
        self.assertEqual(method, "cats")
        self.assertEqual(state["model.layers.5.mlp.down_proj.mask.t"], 0.25)
        self.assertEqual(self.imported()["input_masks"], LAYERS)

    def test_cats_masks_by_the_gate(self):
        file = self.folder / "cats.pt"
        torch_save({f"model.layers.{i}.mlp.act_fn.threshold": numpy.full((), 0.1)
                    for i in range(LAYERS)}, file)
        _, state = self.converted("cats", file)
        self.assertEqual(sorted(state)[0], "model.layers.0.mlp.gate_up.gate.t")
        self.assertEqual(self.imported()["gate_masks"], LAYERS)

    def test_rana(self):
        random = numpy.random.default_rng(3)
        up, down = "model.layers.1.mlp.up_proj", "model.layers.1.mlp.down_proj"
        tensors = {f"{up}.A": random.normal(size=(MLP, 32)),
                   f"{up}.B": random.normal(size=(32, HIDDEN)),
                   f"{up}.t": numpy.full((), 0.5),
                   f"{down}.t": numpy.full((), 0.01),
                   f"{down}.norms": random.uniform(1, 2, MLP)}
        file = self.folder / "rana.pt"
        torch_save(tensors, file)
        _, state = self.converted("rana", file)
        self.assertEqual(sorted(state), [
            f"{down}.mask.norms", f"{down}.mask.t", f"{up}.rank.A",
            f"{up}.rank.B", f"{up}.rank.t"])
        numpy.testing.assert_array_equal(state[f"{up}.rank.A"],
                                         tensors[f"{up}.A"].astype("f4"))
        result = self.imported()
        self.assertEqual((result["rank_adapters"], result["input_masks"]), (1, 1))
        self.state.unlink()
        torch_save({f"{up}.Q": numpy.ones((2, 2))}, file)
        self.refused("rana", file, part=".norms")


if __name__ == "__main__":
    unittest.main(argv=[__file__])
