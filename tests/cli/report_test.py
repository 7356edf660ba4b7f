#!/usr/bin/env python3
"""`rankforge report` on a stored table: what the page holds, and with a browser
how it looks, light and dark.

report_test.py PROGRAM SOURCE_FOLDER OUTPUT_FOLDER [BROWSER]

The pages and screenshots stay in OUTPUT_FOLDER for whoever wants to look."""

import html.parser
import json
import pathlib
import re
import subprocess
import sys
import unittest
import xml.etree.ElementTree as xml

PROGRAM, SOURCE, OUTPUT = sys.argv[1], *map(pathlib.Path, sys.argv[2:4])
BROWSER = sys.argv[4] if len(sys.argv) > 4 else None
TABLE = SOURCE / "tests/cli/data/report_table.json"
PLOTS = ["bandwidth", "default", "speed_up", "winners"]


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


def report(tables, out, *more):
    return subprocess.run([PROGRAM, "report", *tables, "--out", out, *more],
                          check=True, capture_output=True, text=True)


class ReportTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        OUTPUT.mkdir(parents=True, exist_ok=True)
        cls.page_file = OUTPUT / "report.html"
        cls.result = json.loads(report([TABLE], cls.page_file, "--svg", OUTPUT,
                                       "--json").stdout)
        cls.text = cls.page_file.read_text(encoding="utf-8")
        cls.page = Page(cls.text)

    def test_all_plots_are_there_and_drawn(self):
        self.assertEqual(self.result["plots"],
                         [f"{name}.svg" for name in PLOTS])
        self.assertEqual(self.page.tags["svg"], len(PLOTS))
        self.assertGreater(self.page.tags["path"], 100)

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
        for name in PLOTS:
            root = xml.parse(OUTPUT / f"{name}.svg").getroot()
            self.assertEqual(root.tag, "{http://www.w3.org/2000/svg}svg")
            self.assertIn("prefers-color-scheme:dark",
                          (OUTPUT / f"{name}.svg").read_text("utf-8"))

    def test_the_same_table_gives_the_same_page(self):
        again = OUTPUT / "again.html"
        report([TABLE], again)
        self.assertEqual(again.read_text(encoding="utf-8"), self.text)
        again.unlink()

    def test_names_are_text_and_nothing_else(self):
        hostile = OUTPUT / "hostile.json"
        table = json.loads(TABLE.read_text(encoding="utf-8"))
        name = "</title><script>alert(1)</script>$x^2$ & \u0000 \\frac{"
        table["fingerprint"]["cpu"]["brand"] = name
        table["build"]["compiler"] = name
        table["entries"][0]["default"] = name
        table["entries"][0]["by_density"][0]["variant"] = name
        table["entries"][0]["by_density"][0]["runner_up"] = {
            "variant": "x", "ns": 1}
        hostile.write_text(json.dumps(table), encoding="utf-8")
        out = OUTPUT / "hostile.html"
        report([hostile], out)
        self.assertNotIn("<script", out.read_text(encoding="utf-8"))
        hostile.unlink()
        out.unlink()

    def test_several_tables_are_compared(self):
        out = OUTPUT / "two.html"
        other = OUTPUT / "other.json"
        table = json.loads(TABLE.read_text(encoding="utf-8"))
        for entry in table["entries"]:
            for bucket in entry["by_density"]:
                bucket["ns"]["median"] *= 0.8
                bucket["useful_gbps"] /= 0.8
        other.write_text(json.dumps(table), encoding="utf-8")
        plots = json.loads(report([TABLE, other], out, "--json").stdout)
        self.assertEqual(plots["tables"], [str(TABLE), str(other)])
        page = Page(out.read_text(encoding="utf-8"))
        self.assertEqual(page.tags["svg"], 2 * len(PLOTS) + 1)
        self.assertEqual(len(page.ids), len(set(page.ids)))
        other.unlink()


@unittest.skipUnless(BROWSER, "no browser was named: scripts/test_full.sh does")
class BrowserTest(unittest.TestCase):
    def browse(self, *words):
        # No network: whatever the page asked for from outside would fail, and
        # the log would name it.
        return subprocess.run(
            [BROWSER, "--headless", "--no-sandbox", "--disable-gpu",
             "--hide-scrollbars", "--host-resolver-rules=MAP * ~NOTFOUND",
             "--enable-logging=stderr", *words,
             (OUTPUT / "report.html").resolve().as_uri()],
            check=True, capture_output=True, text=True, timeout=120)

    def test_the_page_as_the_browser_sees_it(self):
        page = Page(self.browse("--dump-dom").stdout)
        self.assertEqual(page.tags["svg"], len(PLOTS))
        self.assertGreater(page.tags["path"], 100)

    def test_light_and_dark(self):
        from matplotlib import image
        brightness = {}
        for scheme, words in (("light", []), ("dark", ["--force-dark-mode"])):
            picture = OUTPUT / f"report-{scheme}.png"
            picture.unlink(missing_ok=True)
            log = self.browse(f"--screenshot={picture}",
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
