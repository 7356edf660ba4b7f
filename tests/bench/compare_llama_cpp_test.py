#!/usr/bin/env python3
"""scripts/compare_llama_cpp.py on programs that this test writes in the place of
llama-bench and `rankforge`, and on what the real `rankforge bench` prints.

compare_llama_cpp_test.py PROGRAM SOURCE_FOLDER"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

PROGRAM, SOURCE = sys.argv[1], pathlib.Path(sys.argv[2])
SCRIPT = SOURCE / "scripts/compare_llama_cpp.py"
MODEL = SOURCE / "examples/models/llama-gqa-7m"

# Notes its arguments in a file that all fakes share, and answers.
FAKE = """#!{python}
import json, sys
with open({log!r}, "a") as log:
    log.write(json.dumps(sys.argv) + "\\n")
print({answer!r})
sys.exit({status})
"""


def stages(*times):
    names = ("self_attn.qkv_proj", "lm_head", "between")
    return {name: {"ms_per_token": ms} for name, ms in zip(names, times)}


# The median of our tokens is far below their mean, as with one slow token.
OURS = {"method": "rana", "tokens": 16, "decode_ms_per_token": 1.0,
        "dense_ms_per_token": 1.0, "read_gbps": 20.0,
        "stages": stages(2.0, 1.5, 0.5), "dense_stages": stages(5.0, 2.0, 1.0)}
# Two decodes of four tokens: 8 and 24 ms per token.
LLAMA = [{"samples_ns": [32e6, 96e6], "n_gen": 4}]


class CompareTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.log = self.folder / "log"

    def fake(self, name, answer, status=0):
        path = self.folder / name
        path.write_text(FAKE.format(python=sys.executable, log=str(self.log),
                                    answer=answer, status=status))
        path.chmod(0o755)
        return str(path)

    def compare(self, llama, ours, *words):
        return subprocess.run(
            [sys.executable, SCRIPT, "--llama-bench", llama, "--rankforge", ours,
             "--gguf", "model.gguf", *words],
            capture_output=True, text=True, check=False)

    def calls(self):
        lines = self.log.read_text().splitlines()
        return [json.loads(line) for line in lines]

    def test_means_of_both_sides_are_compared(self):
        done = self.compare(self.fake("llama", json.dumps(LLAMA)),
                            self.fake("ours", json.dumps(OURS)))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("llama.cpp: 16.00 ms per token\n", done.stdout)
        self.assertIn("dense: 8.00 ms per token, 2.00 times as fast as llama.cpp",
                      done.stdout)
        self.assertIn(
            "adapted: 4.00 ms per token, 4.00 times as fast as llama.cpp",
            done.stdout)

    def test_a_dense_model_is_compared_once(self):
        answer = json.dumps({**OURS, "method": "dense"})
        done = self.compare(self.fake("llama", json.dumps(LLAMA)),
                            self.fake("ours", answer))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("dense: ", done.stdout)
        self.assertNotIn("adapted", done.stdout)

    def test_programs_take_turns_with_the_same_tokens(self):
        done = self.compare(
            self.fake("llama", json.dumps(LLAMA)),
            self.fake("ours", json.dumps({**OURS, "tokens": 7})), "--rounds",
            "2", "--tokens", "7", "--threads", "3", "--context", "5", "--", "--model", "m")
        self.assertEqual(done.returncode, 0, done.stderr)
        calls = self.calls()
        self.assertEqual([os.path.basename(call[0]) for call in calls],
                         ["llama", "ours", "llama", "ours"])
        llama, ours = (" ".join(call[1:]) for call in calls[:2])
        self.assertIn("-t 3 -p 0 -n 7 -d 5 -r 1", llama)
        self.assertEqual(
            ours, "bench --json --threads 3 -n 9 --context 5 --model m")

    def test_both_programs_read_one_file(self):
        done = self.compare(self.fake("llama", json.dumps(LLAMA)),
                            self.fake("ours", json.dumps({**OURS, "tokens": 7})),
                            "--rounds", "1", "--tokens", "7")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("--model model.gguf", " ".join(self.calls()[1]))

    def test_failures_are_one_line(self):
        llama = self.fake("llama", json.dumps(LLAMA))
        ours = self.fake("ours", json.dumps(OURS))
        for bad, says in (
                (self.fake("ends", "", 3), "ended with 3"),
                (self.fake("no_json", "hello"), "did not print JSON"),
                (self.fake("other", "[{}]"), "too old or too new")):
            done = self.compare(bad, ours)
            self.assertEqual(done.returncode, 1)
            self.assertIn(says, done.stderr)
            self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        done = self.compare(llama, ours, "--tokens", "8")
        self.assertIn("timed 16 tokens, not 8", done.stderr)
        done = self.compare(str(self.folder / "nowhere"), ours)
        self.assertEqual(done.returncode, 2)
        self.assertIn("llama-bench", done.stderr)
        done = self.compare(llama, str(self.folder / "nowhere"))
        self.assertEqual(done.returncode, 2)
        self.assertIn("cmake --build", done.stderr)

    def test_reads_what_rankforge_prints(self):
        # Ends with 1 if a small model comes quicker from a cache than memory
        # is read; what it prints is the same.
        done = subprocess.run(
            [PROGRAM, "bench", "--model", MODEL, "--json", "-n", "18",
             "--context", "3", "--threads", "1"],
            capture_output=True, text=True, check=False)
        self.assertIn(done.returncode, (0, 1), done.stderr)
        done = self.compare(self.fake("llama", json.dumps(LLAMA)),
                            self.fake("ours", done.stdout), "--rounds", "1")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(
            done.stdout, r"(?m)^dense: [0-9.]+ ms per token, [0-9.]+ times as")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
