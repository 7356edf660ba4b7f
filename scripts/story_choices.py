#!/usr/bin/env python3
"""Makes questions for `rankforge eval --choices` from a text of short stories.

    scripts/story_choices.py STORIES.txt > questions.jsonl

The context is the first sentences of a story, the choices are its next sentence
and the ones at that place in three other stories. Stories are separated by
<|endoftext|>, or begin with "Once", "One day" or "There was"."""

import argparse
import json
import random
import re
import sys

PARTED = re.compile(r"<\|endoftext\|>|\n(?=Once|One day|There was)")
SENTENCE = re.compile(r"[^.!?]+[.!?][\"”]?")


def beginnings(text, sentences):
    """[(context, next sentence)] of all stories that go on after those."""
    pairs = []
    for story in PARTED.split(text):
        found = SENTENCE.findall(" ".join(story.split()))
        if len(found) > sentences + 1:
            pairs.append(("".join(found[:sentences]).strip(),
                          " " + found[sentences].strip()))
    return pairs


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("stories")
    parser.add_argument("--sentences", type=int, default=4,
                        help="of the context (4)")
    parser.add_argument("--choices", type=int, default=4)
    parser.add_argument("--questions", type=int, default=600,
                        help="at most (600)")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with open(arguments.stories, encoding="utf-8") as file:
        pairs = beginnings(file.read(), arguments.sentences)
    if len(pairs) < arguments.choices:
        sys.exit(f"{arguments.stories}: has {len(pairs)} stories, "
                 f"{arguments.choices} choices need as many")
    random.seed(arguments.seed)
    for context, right in random.sample(
            pairs, min(arguments.questions, len(pairs))):
        others = [other for _, other in pairs if other != right]
        choices = random.sample(others, arguments.choices - 1)
        answer = random.randrange(arguments.choices)
        choices.insert(answer, right)
        print(json.dumps({"context": context, "choices": choices,
                          "answer": answer}))


if __name__ == "__main__":
    main()
