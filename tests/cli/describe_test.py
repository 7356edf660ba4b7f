#!/usr/bin/env python3
"""What `rankforge describe` writes holds every command and option that --help
lists: in pages that man(1) formats without a warning, and in completions that bash
and zsh run.

describe_test.py PROGRAM"""

import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

PROGRAM = sys.argv[1]


def output_of(*words, **more):
    """What a command prints; it may not complain."""
    run = subprocess.run(words, capture_output=True, text=True, **more)
    if run.returncode != 0 or run.stderr:
        raise AssertionError(f"{words}: {run.returncode}: {run.stderr}")
    return run.stdout


class Command:
    """What --help says of a command and of those below it."""

    def __init__(self, words=()):
        self.words = words
        help_text = output_of(PROGRAM, *words, "--help")
        # "-h,--help", "--json" or "-n UINT"; groups indent further.
        rows = re.findall(r"^ +(--?[a-z0-9][a-z0-9-]*(?:,--?[a-z0-9-]+)*)",
                          help_text, re.MULTILINE)
        self.options = {name for row in rows for name in row.split(",")}
        _, _, rows = help_text.partition("Subcommands:\n")
        self.commands = [Command((*words, name)) for name in
                         re.findall(r"^  ([a-z]+) ", rows, re.MULTILINE)]

    def all(self):
        yield self
        for below in self.commands:
            yield from below.all()

    def expected(self):
        """Every word that may follow."""
        return self.options | {below.words[-1] for below in self.commands}


COMMANDS = list(Command().all())


class DescribeTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.scratch.cleanup)
        cls.share = pathlib.Path(cls.scratch.name) / "share"
        output_of(PROGRAM, "describe", "--out", cls.share)
        cls.bash = cls.share / "bash-completion/completions/rankforge"
        cls.zsh = cls.share / "zsh/site-functions/_rankforge"

    def test_there_is_something_to_compare(self):
        self.assertGreater(len(COMMANDS), 15)
        for command in COMMANDS:
            self.assertIn("--help", command.options, command.words)

    def test_a_page_for_each_command_names_its_options(self):
        pages = {path.name for path in (self.share / "man/man1").iterdir()}
        self.assertEqual(pages, {"-".join(("rankforge", *command.words)) + ".1"
                                 for command in COMMANDS})
        for command in COMMANDS:
            name = "-".join(("rankforge", *command.words))
            page = output_of(
                "man", "--warnings=w", "-E", "ascii", "-l",
                self.share / "man/man1" / f"{name}.1",
                env={"MANWIDTH": "400", "PATH": "/usr/bin:/bin", "LC_ALL": "C"})
            for part in ("NAME", "SYNOPSIS", "OPTIONS", f"{name} - "):
                self.assertIn(part, page)
            listed = re.findall(r"^ {5,}(--?[a-z0-9][a-z0-9-]*(?:, --?[a-z0-9-]+)*)",
                                page, re.MULTILINE)
            self.assertEqual({word for row in listed for word in row.split(", ")},
                             command.options, name)
            for below in command.commands:
                self.assertIn("-".join(("rankforge", *below.words)) + "(1)", page)

    def complete(self, *words):
        """What bash offers for the last of the words."""
        script = ('source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); '
                  'COMPREPLY=(); _rankforge; printf "%s\\n" "${COMPREPLY[@]}"')
        return set(output_of("bash", "-c", script, "bash", self.bash, "rankforge",
                             *words, cwd=self.share).split())

    def test_bash_offers_every_command_and_option(self):
        for command in COMMANDS:
            self.assertEqual(self.complete(*command.words, "-"), command.options)
            if command.commands:
                self.assertEqual(self.complete(*command.words, ""),
                                 command.expected())

    def test_bash_offers_values(self):
        self.assertIn("llama-2-7b", self.complete("synth", "--preset", "lla"))
        self.assertEqual(self.complete("tune", "--rigor", "e"), {"estimate"})
        self.assertEqual(self.complete("tune", "--rigor", "=", "e"), {"estimate"})
        self.assertEqual(self.complete("tune", "--rigor", "="),
                         self.complete("tune", "--rigor", ""))
        self.assertEqual(self.complete("generate", "--dtype", "sto"), {"stored"})
        self.assertEqual(self.complete("env", "--threads", ""), set())
        self.assertEqual(self.complete("table", "show", ""),
                         {"bash-completion", "man", "zsh"})
        self.assertEqual(self.complete("eval", "--model", "bash-completion/"),
                         {"bash-completion/completions"})
        # A value that is the name of a command is none.
        self.assertIn("--prompt", self.complete("generate", "--model", "tune", "--p"))

    def specifications(self, *words):
        """What zsh's function gives to _arguments for these words."""
        script = ('_arguments() { print -rl -- "$words[1]" "$CURRENT" "$@" }; '
                  'file=$1; shift; words=("$@"); CURRENT=$#; source $file')
        return output_of("zsh", "-f", "-c", script, "zsh", self.zsh, "rankforge",
                         *words).splitlines()

    def test_zsh_offers_every_command_and_option(self):
        output_of("zsh", "-f", "-n", self.zsh)
        for command in COMMANDS:
            first, current, *rest = self.specifications(*command.words, "-")
            self.assertEqual(first, ("rankforge", *command.words)[-1])
            self.assertEqual(current, "2")
            names = re.findall(r"^\*?(-[a-z0-9-]+)\[", "\n".join(rest), re.MULTILINE)
            self.assertEqual(set(names), command.options, command.words)
            listed = [line for line in rest if line.startswith("1:command:")]
            self.assertEqual(len(listed), len(command.commands) > 0)
            for below in command.commands:
                self.assertIn(f"{below.words[-1]}\\:", listed[0])

    def test_nothing_of_this_machine(self):
        """One build makes one text."""
        again = pathlib.Path(self.scratch.name) / "again"
        output_of("taskset", "1", PROGRAM, "describe", "--out", again)
        for path in self.share.rglob("*"):
            if path.is_file():
                self.assertEqual(path.read_bytes(), (
                    again / path.relative_to(self.share)).read_bytes(), path)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
