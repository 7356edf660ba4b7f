#!/usr/bin/env python3
"""Continues a prompt with a checkpoint, and prints the text as it comes.

  examples/python/generate.py examples/models/llama-gqa-7m "Once upon a time"
"""

import sys

import rankforge


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit("usage: generate.py MODEL [PROMPT]")
    prompt = sys.argv[2] if len(sys.argv) > 2 else "Once upon a time"
    model = rankforge.Model.load(sys.argv[1], dtype="bf16")
    print(prompt, end="")
    stream = model.generate(prompt, max_tokens=40)
    for token in stream:
        print(token.text, end="", flush=True)
    print(f"\n({stream.ended})")


if __name__ == "__main__":
    main()
