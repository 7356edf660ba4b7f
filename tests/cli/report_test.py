#!/usr/bin/env python3
"""`rankforge report` on a stored table and on results of models: what the pages
hold, and with a browser how they look, light and dark.

report_test.py PROGRAM SOURCE_FOLDER OUTPUT_FOLDER [BROWSER]

The pages and screenshots stay in OUTPUT_FOLDER for whoever wants to look."""

import html.parser
import json
import math
import pathlib
import re
import subprocess
import sys
import unittest
import xml.etree.ElementTree as xml

PROGRAM, SOURCE, OUTPUT = sys.argv[1], *map(pathlib.Path, sys.argv[2:4])
BROWSER = sys.argv[4] if len(sys.argv) > 4 else None
TABLE = SOURCE / "tests/cli/data/report_table.json"
HOSTILE_NAME = "</title><script>alert(1)</script>$x^2$ & \u0000 \\frac{"


class Page(html.parser.HTMLParser):
    """Counts tags, collects ids, links and text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.links, self.words = {}, [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags[tag] = self.tags.get(tag, 0) + 1
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "data", "action"):
                self.links.append(value)

    def handle_data(self, data):
        self.words.append(data)


def report(inputs, out, *more):
    return subprocess.run([PROGRAM, "report", *inputs, "--out", out, *more],
                          check=True, capture_output=True, text=True)


class AnyPage:
    """What holds for every page. `inputs` and `plots` are its own."""

    @classmethod
    def setUpClass(cls):
        cls.folder = OUTPUT / cls.__name__
        cls.folder.mkdir(parents=True, exist_ok=True)
        cls.page_file = cls.folder / "report.html"
        cls.result = json.loads(report(cls.inputs(), cls.page_file, "--svg",
                                       cls.folder, "--json").stdout)
        cls.text = cls.page_file.read_text(encoding="utf-8")
        cls.page = Page(cls.text)

    def test_all_plots_are_there_and_drawn(self):
        self.assertEqual(self.result["plots"],
                         [f"{name}.svg" for name in self.plots])
        self.assertEqual(self.page.tags["svg"], len(self.plots))
        self.assertGreater(self.page.tags["path"], 100)

    def test_nothing_comes_from_outside(self):
        for link in self.page.links:
            self.assertTrue(link.startswith("#"), link)
        addresses = set(re.findall(r"[a-z]+://[^\s\"'<)]+", self.text))
        # Names of XML namespaces, which nobody fetches.
        self.assertLessEqual(addresses, {"http://www.w3.org/2000/svg",
                                         "http://www.w3.org/1999/xlink"})
        self.assertNotIn("@import", self.text)
        self.assertNotIn("<script", self.text)

    def test_references_reach_their_ids(self):
        self.assertEqual(len(self.page.ids), len(set(self.page.ids)))
        used = re.findall(r"url\(#([^)]*)\)", self.text)
        used += [link[1:] for link in self.page.links]
        self.assertLessEqual(set(used), set(self.page.ids))
        self.assertGreater(len(used), 0)

    def test_every_colour_follows_the_scheme(self):
        self.assertNotRegex(self.text, r"#0000[a-c][0-9]")
        for name in ("ink", "paper", "series0"):
            self.assertIn(f"var(--{name})", self.text)
            self.assertEqual(self.text.count(f"--{name}:"), 2, name)

    def test_plots_stand_alone(self):
        for name in self.plots:
            root = xml.parse(self.folder / f"{name}.svg").getroot()
            self.assertEqual(root.tag, "{http://www.w3.org/2000/svg}svg")
            self.assertIn("prefers-color-scheme:dark",
                          (self.folder / f"{name}.svg").read_text("utf-8"))


class TablesTest(AnyPage, unittest.TestCase):
    plots = ["bandwidth", "default", "speed_up", "winners"]

    @classmethod
    def inputs(cls):
        return [TABLE]

    def test_says_what_was_measured_where(self):
        words = " ".join(self.page.words)
        table = json.loads(TABLE.read_text(encoding="utf-8"))
        self.assertIn(table["fingerprint"]["cpu"]["brand"], words)
        for gbps in table["environment"]["read_gbps"].values():
            self.assertIn(f"{gbps:.1f} GB/s", words)
        self.assertIn(table["environment"]["confidence"], words)
        for entry in table["entries"]:
            for bucket in entry["by_density"]:
                if bucket["ns"]["n"] > 0:
                    self.assertIn(bucket["variant"], words)

    def test_names_are_text_and_nothing_else(self):
        hostile = self.folder / "hostile.json"
        table = json.loads(TABLE.read_text(encoding="utf-8"))
        table["fingerprint"]["cpu"]["brand"] = HOSTILE_NAME
        table["build"]["compiler"] = HOSTILE_NAME
        table["entries"][0]["default"] = HOSTILE_NAME
        table["entries"][0]["by_density"][0]["variant"] = HOSTILE_NAME
        table["entries"][0]["by_density"][0]["runner_up"] = {
            "variant": "x", "ns": 1}
        hostile.write_text(json.dumps(table), encoding="utf-8")
        out = self.folder / "hostile.html"
        report([hostile], out)
        self.assertNotIn("<script", out.read_text(encoding="utf-8"))
        hostile.unlink()
        out.unlink()

    def test_several_tables_are_compared(self):
        out = self.folder / "two.html"
        other = self.folder / "other.json"
        table = json.loads(TABLE.read_text(encoding="utf-8"))
        for entry in table["entries"]:
            for bucket in entry["by_density"]:
                bucket["ns"]["median"] *= 0.8
                bucket["useful_gbps"] /= 0.8
        other.write_text(json.dumps(table), encoding="utf-8")
        plots = json.loads(report([TABLE, other], out, "--json").stdout)
        self.assertEqual(plots["tables"], [str(TABLE), str(other)])
        page = Page(out.read_text(encoding="utf-8"))
        self.assertEqual(page.tags["svg"], 2 * len(self.plots) + 1)
        self.assertEqual(len(page.ids), len(set(page.ids)))
        other.unlink()


def run_of(model, method, keep, dtype):
    adapter = None if method == "dense" else f"{method}-{keep}.safetensors"
    return {"model": model, "adapter": adapter, "method": method, "keep": keep,
            "dtype": dtype}


def evaluation(method, keep, perplexity, model="tiny", dtype="f32"):
    """As `eval --layers --json` prints it; a dense result has no layers."""
    result = run_of(model, method, keep, dtype) | {
        "tau_scale": 1.0, "linear_flops_ratio": keep, "bytes_per_token": 1e6,
        "perplexity": perplexity, "loss": math.log(perplexity), "density": {},
        "density_quantiles": {}}
    if method == "dense":
        return result
    layers = {}
    for layer in range(3):
        rank = f"model.layers.{layer}.mlp.up_proj"
        down = f"model.layers.{layer}.mlp.down_proj"
        for module in (rank, down):
            result["density"][module] = 0.4 + 0.1 * layer
            result["density_quantiles"][module] = {"0.05": 0.3, "0.5": 0.5,
                                                   "0.95": 0.7}
        layers[f"model.layers.{layer}.mlp"] = {"error": 0.1 / (1 + layer)}
        layers[down] = {"error": 0.02, "keep_frequency": [0.9, 0.4, 0.2]}
        layers[rank] = {"error": 0.03, "keep_frequency": [0.9, 0.4, 0.2]}
        if method == "rana":
            layers[rank]["contributions"] = {
                "lowest": -4, "bin_width": 2, "ranks": [0.2, 0.5, 0.2, 0.1],
                "kept": [0, 0.2, 0.2, 0.1], "energy": [0, 0.1, 0.2, 0.7]}
    return result | {"layers": layers}


def bench(method, keep, ms, model="tiny", dtype="f32"):
    """As `bench --context 1,500 --json` prints it."""
    return run_of(model, method, keep, dtype) | {
        "decode_ms_per_token": ms, "dense_ms_per_token": 4.0,
        "synthetic": False,
        "by_context": [{"context": context, "decode_ms_per_token": ms * factor,
                        "dense_ms_per_token": 4.0 * factor}
                       for context, factor in ((1, 1), (500, 1.5))]}


RESULTS = [evaluation("dense", 1.0, 10.0), evaluation("rana", 0.7, 10.1),
           evaluation("rana", 0.56, 10.5), evaluation("wina", 0.56, 10.75),
           bench("rana", 0.7, 3.125), bench("rana", 0.56, 2.5),
           bench("wina", 0.56, 2.625)]


class ModelsTest(AnyPage, unittest.TestCase):
    plots = ["context", "contributions-1", "densities", "errors", "flops",
             "kept-1", "time"]

    @classmethod
    def write(cls, name, documents, indent=None):
        file = cls.folder / name
        file.write_text("\n".join(json.dumps(document, indent=indent)
                                  for document in documents), encoding="utf-8")
        return file

    @classmethod
    def inputs(cls):
        # As lines, and as the commands print them.
        return ["--models", cls.write("eval.jsonl", RESULTS[:4]),
                cls.write("bench.jsonl", RESULTS[4:], indent=2)]

    def test_the_same_input_gives_the_same_page(self):
        again = self.folder / "again.html"
        report(self.inputs(), again)
        self.assertEqual(again.read_text(encoding="utf-8"), self.text)
        again.unlink()

    def test_says_what_was_measured(self):
        words = " ".join(self.page.words)
        for part in ("tiny", "rana .56", "10.500", "2.625", ".0488", "1.60"):
            self.assertIn(part, words)  # 1.60: dense 4.0 over 2.5

    def test_shows_the_adapter_nearest_to_the_budget(self):
        words = " ".join(self.page.words)
        self.assertIn("Contributions of ranks: rana .56", words)
        self.assertNotIn("Contributions of ranks: rana .70", words)

    def test_evaluations_alone_and_several_models(self):
        out = self.folder / "two.html"
        file = self.write("two.jsonl", [
            evaluation("dense", 1.0, 9.0), evaluation("wina", 0.5, 11.0),
            evaluation("dense", 1.0, 9.0, "other"), bench("wina", 0.5, 3, "b")])
        plots = json.loads(report(["--models", file], out, "--json").stdout)
        self.assertEqual(plots["plots"], [
            "context-m3.svg", "densities-m1.svg", "errors-m1.svg",
            "flops-m1.svg"])
        page = Page(out.read_text(encoding="utf-8"))
        self.assertEqual(len(page.ids), len(set(page.ids)))

    def test_other_activations_are_other_weights(self):
        exact = {"activations": {"f32": 1.0}}
        rounded = {"activations": {"f32": 0.2, "i8": 0.8}}
        out = self.folder / "rounded.html"
        file = self.write("rounded.jsonl", [
            evaluation("dense", 1.0, 10.0, dtype="i8") | exact,
            evaluation("dense", 1.0, 10.25, dtype="i8") | rounded,
            evaluation("rana", 0.56, 11.0, dtype="i8") | rounded,
            bench("rana", 0.56, 2.5, dtype="i8") | rounded])
        report(["--models", file], out)
        words = Page(out.read_text(encoding="utf-8")).words
        self.assertEqual(words.count("i8, i8 activations"), 2)
        self.assertEqual(words.count("i8"), 1)
        # The time of the dense model is that of one of them.
        self.assertEqual(words.count("4.000"), 1)

    def test_names_are_text_and_nothing_else(self):
        result = evaluation("rana", 0.56, 11.0)
        result |= {"model": HOSTILE_NAME, "method": HOSTILE_NAME,
                   "dtype": HOSTILE_NAME}
        for key in ("density", "density_quantiles", "layers"):
            for module in list(result[key]):
                result[key][HOSTILE_NAME + module] = result[key].pop(module)
        out = self.folder / "hostile.html"
        report(["--models", self.write("hostile.json", [result])], out)
        self.assertNotIn("<script", out.read_text(encoding="utf-8"))

    def test_results_that_are_none_are_refused(self):
        def refused(text, *parts):
            file = self.folder / "wrong.json"
            file.write_text(text, encoding="utf-8")
            out = self.folder / "wrong.html"
            done = subprocess.run([PROGRAM, "report", "--models", file, "--out",
                                   out], capture_output=True, text=True)
            self.assertEqual(done.returncode, 1, text)
            for part in (str(file), *parts):
                self.assertIn(part, done.stderr)
            self.assertFalse(out.exists())

        good = json.dumps(RESULTS[1])
        refused("", "empty")
        refused("[1, 2]", "document 1", "perplexity")
        refused(good + "{", "document 2")
        refused("[" * 100000, "document 1")
        refused(json.dumps({"perplexity": 1}), "'model'")
        for field, value, wanted in (
                ("perplexity", "10", "a number"), ("perplexity", 0, "above 0"),
                ("keep", -1, "0 or more"), ("model", 7, "a string"),
                ("density", [1], "an object"),
                ("density", {"a": {}}, "'density.a'"),
                ("layers", {"a": {"error": None}}, "'layers.a.error'"),
                ("layers", {"a": {"error": 1, "keep_frequency": []}},
                 "keep_frequency")):
            refused(json.dumps(RESULTS[1] | {field: value}), field, wanted)
        uneven = json.loads(good)
        uneven["layers"]["model.layers.0.mlp.up_proj"]["contributions"][
            "kept"].append(0)
        refused(json.dumps(uneven), "different lengths")
        refused(json.dumps(RESULTS[4] | {"by_context": []}), "by_context")


@unittest.skipUnless(BROWSER, "no browser was named: scripts/test_full.sh does")
class BrowserTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        # Their pages: unittest runs classes by name, so this one comes first.
        for test in (TablesTest, ModelsTest):
            test.setUpClass()

    def browse(self, test, *words):
        # No network: whatever the page asked for from outside would fail, and
        # the log would name it.
        return subprocess.run(
            [BROWSER, "--headless", "--no-sandbox", "--disable-gpu",
             "--hide-scrollbars", "--host-resolver-rules=MAP * ~NOTFOUND",
             "--enable-logging=stderr", *words,
             (OUTPUT / test.__name__ / "report.html").resolve().as_uri()],
            check=True, capture_output=True, text=True, timeout=120)

    def test_the_pages_as_the_browser_sees_them(self):
        for test in (TablesTest, ModelsTest):
            page = Page(self.browse(test, "--dump-dom").stdout)
            self.assertEqual(page.tags["svg"], len(test.plots))
            self.assertGreater(page.tags["path"], 100)

    def test_light_and_dark(self):
        for test in (TablesTest, ModelsTest):
            self.check_light_and_dark(test)

    def check_light_and_dark(self, test):
        from matplotlib import image
        brightness = {}
        for scheme, words in (("light", []), ("dark", ["--force-dark-mode"])):
            picture = OUTPUT / test.__name__ / f"report-{scheme}.png"
            picture.unlink(missing_ok=True)
            log = self.browse(test, f"--screenshot={picture}",
                              "--window-size=1200,2700", *words).stderr
            self.assertNotIn("ERR_", log)
            pixels = image.imread(picture)[:, :, :3].mean(axis=2)
            brightness[scheme] = pixels[0, 0]
            # Each plot's part of the page has something on it.
            for top in range(0, 2400, 400):
                self.assertGreater(pixels[top:top + 400].std(), 0.02, scheme)
        self.assertGreater(brightness["light"], 0.95)
        self.assertLess(brightness["dark"], 0.2)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
