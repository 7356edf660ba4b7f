"""What the scripts that run `rankforge` share: its answers, its lists of names, and
the model and the texts that they measure when none is named."""

import json
import os
import re
import subprocess
import sys

MODELS = os.path.join(os.path.dirname(__file__), "..", "examples", "models")
DEFAULT_MODEL = os.path.normpath(os.path.join(MODELS, "llama-gqa-7m"))
TEXTS = os.path.normpath(os.path.join(MODELS, "text"))


class Refused(Exception):
    """The program cannot do what it is asked for: exit status 2."""


def answer(*words):
    """What the command prints as JSON."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        raise SystemExit(f"{words[0]}: {error.strerror}; build it with `cmake "
                         "--preset release && cmake --build --preset release`"
                         ) from None
    if done.returncode == 2:
        raise Refused(done.stderr.strip())
    # bench prints its result before it fails on a roofline above 1. A small model
    # has that: it lies in a cache, from which it is read faster than from memory.
    if done.returncode != 0 and not (words[1] == "bench" and done.stdout):
        raise SystemExit(f"{' '.join(words)}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def choices(program, command, option):
    """The names that an option takes, in the order of the program's own list, which
    its --help shows as {A,B,...}."""
    text = subprocess.run([program, command, "--help"], capture_output=True,
                          text=True, check=False).stdout
    found = re.search(rf"^ +{re.escape(option)} [A-Z]+:\{{([^}}]+)\}}", text,
                      re.MULTILINE)
    if not found:
        raise SystemExit(f"{program} {command} --help lists no names for {option}")
    return found.group(1).split(",")


def add_texts(parser):
    """Options of what to calibrate and to evaluate on."""
    parser.add_argument("--calibration", metavar="FILE",
                        default=os.path.join(TEXTS, "calibration.txt"),
                        help="(%(default)s)")
    parser.add_argument("--text", metavar="FILE",
                        default=os.path.join(TEXTS, "evaluation.txt"),
                        help="to evaluate on (%(default)s)")
    parser.add_argument("--windows", type=int, default=0, metavar="N",
                        help="evaluate the first N windows of the text; 0: all")


def check_texts(arguments):
    """Ends the script if a text is missing; says what the default ones are."""
    for path in (arguments.calibration, arguments.text):
        if not os.path.exists(path):
            raise SystemExit(f"{path} is not there: scripts/fetch_stories.py FOLDER "
                             "writes calibration.txt and evaluation.txt")
    if os.path.dirname(arguments.text) == TEXTS:
        print(f"{arguments.text} was sampled from llama-gqa-7m: it shows that "
              "things work, not what a method is worth; scripts/fetch_stories.py "
              "makes the texts of the documents", file=sys.stderr)
