#!/usr/bin/env python3
"""Fetches the stories that docs/rana.md and docs/a3.md measure on.

  scripts/fetch_stories.py FOLDER

writes FOLDER/calibration.txt, 1,910 stories of TinyStories' training split, and
FOLDER/evaluation.txt, the beginning of its validation split. Both come from public
repositories, at fixed commits, and are checked by their hashes. TinyStories (arXiv
2305.07759) has the licence CDLA-Sharing-1.0, which is why the texts are not part of
this project."""
import array
import hashlib
import os
import re
import sys
import urllib.request

SOURCE = "https://raw.githubusercontent.com/"
# File at its commit, and the SHA-256 of the text that comes of it.
VALIDATION = (
    "yuninxia/moe-routing-bench/bb9bb0bd461aa77cf6ab89423b758f586a6f75d1/"
    "data/tinystories_val.txt",
    "5fc1fb0113df62b567fb271806cd645ce8d75f59c58ca0b764c03d3b6ff34ca6")
# Token ids and the bytes of each token, by which they become a text.
TOKENS = ("Bellman281/esp32-tinyLLM/f497f50f840e07a86712e5507210ad5b89bae513/"
          "model/tinystories-v32768/")
CALIBRATION_HASH = (
    "f983e4f616b972c7bd3a8870a245922edb0431c813cf6a2af70b84adae8c431e")


def fetch(path):
    with urllib.request.urlopen(SOURCE + path) as answer:
        return answer.read()


def checked(name, data, sha256):
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise SystemExit(f"{name}: its SHA-256 is {found}, not {sha256}")
    return data.decode()


def numbers(header, name):
    """The elements of the C array `name`."""
    body = re.search(name + rb"\[\d+\] = \{(.*?)\}", header, re.DOTALL).group(1)
    return [int(number) for number in body.split(b",") if number.strip()]


def calibration():
    """Whole stories, with a line <|endoftext|> after each but the last."""
    header = fetch(TOKENS + "vocab.h")
    text_of = bytes(numbers(header, b"VOCAB_BLOB"))
    begin_of = numbers(header, b"VOCAB_OFF")
    ids = array.array("H", fetch(TOKENS + "val.bin"))
    if sys.byteorder == "big":
        ids.byteswap()
    stories = [b""]
    for token in ids:
        if token == 0:  # the end of a story
            stories.append(b"")
        else:
            stories[-1] += text_of[begin_of[token]:begin_of[token + 1]]
    # The first and the last are cut off.
    whole = [story.strip() + b"\n" for story in stories[1:-1]]
    return checked("the calibration text", b"<|endoftext|>\n".join(whole),
                   CALIBRATION_HASH)


def main():
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        raise SystemExit(__doc__)
    folder = sys.argv[1]
    os.makedirs(folder, exist_ok=True)
    path, sha256 = VALIDATION
    for name, text in (("calibration.txt", calibration()),
                       ("evaluation.txt", checked(path, fetch(path), sha256))):
        path = os.path.join(folder, name)
        with open(path, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        print(path)


if __name__ == "__main__":
    main()
