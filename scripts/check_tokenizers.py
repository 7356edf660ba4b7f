#!/usr/bin/env python3
"""Compares RankForge's tokenizers with the tokenizers library, text by text.

Small tokenizers of every kind that is read are trained here, and random texts
go through both programs: ids, decoded text, and text decoded id by id.

  pip install tokenizers
  cmake --build --preset release --target tokenizer_dump
  scripts/check_tokenizers.py build/release/tests/model/tokenizer_dump
  scripts/check_tokenizers.py --write tests/model/data/tokenizers
  scripts/check_tokenizers.py --unicode

--write stores reduced tokenizers and what the library makes of some texts, for
tokenizer_test. --unicode prints the table of
runtime/model/text/unicode_additions.cc; it needs an interpreter whose
unicodedata is older than the library's tables. Results are reproducible for one
version of the library; --seed gives other texts.
"""

import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import unicodedata

import tokenizers
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

ROOT = pathlib.Path(__file__).parent.parent
TRAINING_TEXT = ROOT / "examples/models/text/evaluation.txt"
TRAINED_BYTES = 40000
MARK = "\u2581"

# The patterns of real tokenizers.
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
WORDS = r"|[^\r\n\p{L}\p{N}]?\p{L}+"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTIONS + WORDS + r"|\p{N}{1,3}" + REST
QWEN2 = CONTRACTIONS + WORDS + r"|\p{N}" + REST
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{CONTRACTIONS}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{CONTRACTIONS}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
KIMI = (
    r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Each shows a difference between Oniguruma and PCRE2.
ODD_PATTERNS = [
    r"\s", r"\S+", r"[^\S\r\n]+", r"[\S\d]", r"\w+", r"\W+", r"[^\w\s]+",
    r"[\W\d]+", r"\h+", r"\H", r"\v", r"\d{2}+", r"\d{2}?", r"[a-c]{,3}",
    r"\s+$", r"^.", r"(?m)a.*", r"[[:punct:]]+", r"\p{Punct}+",
    r"[[:^space:]]+", r"[[:alpha:]]+", r"\p{Alnum}+", r"[a-z&&[^aeiou]]+",
    r"[^a-z&&[^aeiou]]+", r"[a[bc]]+", r"[^a[^bc]]", r"\bt", r"\Bt", r"x*", "",
    r"(?i)STRASSE|\u00e9", r"[\x{61}-\x{63}\u00e0-\u00ff]+", r"[\s\-.]", r"\-",
    r"(?<=a)b|(?<n>t)\k<n>", r"(?>a+)b", r"\p{Letter}\p{Nonspacing_Mark}*",
    r"\P{L}+", r"\p{^L}+", r"[\P{L}]+", r"{", r"a{1", r"[]a]", r"[\]\[^-]+",
    r"\R", r"\X", r"\O", r"\N+",
]  # fmt: skip

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
         "use_regex": False}  # fmt: skip
GPT2 = {**BYTES, "use_regex": True}
SPACED = {**GPT2, "add_prefix_space": True}
FALLBACK = {"type": "ByteFallback"}
FUSE = {"type": "Fuse"}


def sequence(field, *steps):
    return {"type": "Sequence", field: list(steps)}


def pre(*steps):
    return sequence("pretokenizers", *steps)


def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior,
            "invert": invert}  # fmt: skip


def replace(pattern, content, kind="String"):
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def metaspace(scheme, splits=True):
    return {"type": "Metaspace", "replacement": MARK, "prepend_scheme": scheme,
            "split": splits}  # fmt: skip


def added(content, special=True, **flags):
    return {"content": content, "special": special, "normalized": not special,
            "single_word": False, "lstrip": False, "rstrip": False,
            **flags}  # fmt: skip


PLAIN = [added("<s>"), added("</s>"), added("<unk>"), added("<|im_start|>"),
         added("<tool>", special=False)]  # fmt: skip
ODD = [
    added("<s>"), added("<l>", lstrip=True), added("<r>", rstrip=True),
    added("<lr>", lstrip=True, rstrip=True), added("<w>", single_word=True),
    added("word", special=False, single_word=True), added("aa"), added("aaab"),
    added("  ", special=False, normalized=False), added("\u00e9\u0301"),
    added("Caf\u00e9", special=False), added("NORM", special=False),
    added("low", special=False, normalized=False), added("\u65e5"),
    added("<both>", special=False, lstrip=True, rstrip=True),
]  # fmt: skip

SPM_DECODER = sequence(
    "decoders", replace(MARK, " "), FALLBACK, FUSE,
    {"type": "Strip", "content": " ", "start": 1, "stop": 0})  # fmt: skip
LLAMA2 = dict(
    normalizer=sequence("normalizers", {"type": "Prepend", "prepend": MARK},
                        replace(" ", MARK)),
    decoder=SPM_DECODER, model=dict(byte_fallback=True, fuse_unk=True),
    added=PLAIN)  # fmt: skip


def byte_level(pre_tokenizer, **options):
    return dict(pre_tokenizer=pre_tokenizer, decoder=GPT2, **options)


def kinds():
    """Every tokenizer by its name: steps, options of the model, added tokens."""
    result = {
        "gpt2": byte_level(GPT2, added=PLAIN),
        "gpt2_spaced": byte_level(SPACED, added=PLAIN),
        "gpt2_odd_tokens": byte_level(GPT2, added=ODD),
        "neox": byte_level(
            GPT2, normalizer={"type": "NFC"},
            added=[added("<|endoftext|>"), added("  ", special=False),
                   added("    ", special=False)]),
        "smollm2": byte_level(
            pre({"type": "Digits", "individual_digits": True}, GPT2),
            alphabet=False, added=PLAIN),
        "digits": byte_level(
            pre({"type": "Digits", "individual_digits": False}, BYTES)),
        "punctuation": byte_level(pre({"type": "Punctuation"}, BYTES)),
        "llama3": byte_level(pre(split(LLAMA3), BYTES), added=PLAIN,
                             model=dict(ignore_merges=True)),
        "llama3_removed": byte_level(
            pre(split(LLAMA3, "Removed", True), BYTES), added=PLAIN),
        "qwen2": byte_level(pre(split(QWEN2), BYTES), added=PLAIN,
                            normalizer={"type": "NFC"}),
        "cl100k": byte_level(pre(split(CL100K), BYTES)),
        "o200k": byte_level(pre(split(O200K), BYTES)),
        "deepseek": byte_level(pre(
            split(r"[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"),
            split("[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"),
            {"type": "Digits", "individual_digits": True}, BYTES)),
        "deepseek3": byte_level(pre(
            split(r"\p{N}{1,3}"), split("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"),
            split(DEEPSEEK3), BYTES)),
        "kimi": byte_level(pre(split(KIMI), BYTES)),
        "nfkc": byte_level(GPT2, normalizer={"type": "NFKC"}, added=ODD),
        "nfd": byte_level(GPT2, normalizer={"type": "NFD"}, added=ODD),
        "nfkd_lower": byte_level(
            GPT2, added=ODD, normalizer=sequence(
                "normalizers", {"type": "NFKD"}, {"type": "Lowercase"},
                {"type": "Strip", "strip_left": True, "strip_right": True})),
        "lower": byte_level(GPT2, normalizer={"type": "Lowercase"}, added=ODD),
        "replace": byte_level(
            GPT2, added=ODD, normalizer=sequence(
                "normalizers", replace(r"\s+", " ", "Regex"),
                replace("o", ""), replace("aa", "a"),
                {"type": "Prepend", "prepend": ">"})),
        "byte_normalizer": dict(normalizer={"type": "ByteLevel"}, decoder=GPT2,
                                pre_tokenizer=split("\u0120", "MergedWithNext",
                                                    kind="String")),
        "llama2": LLAMA2,
        "llama2_tokens": {**LLAMA2, "added": ODD},
        "gemma": dict(
            normalizer=replace(" ", MARK),
            pre_tokenizer=split(" ", "MergedWithPrevious", kind="String"),
            decoder=sequence("decoders", replace(MARK, " "), FALLBACK, FUSE),
            model=dict(byte_fallback=True, fuse_unk=True), added=PLAIN),
        "mistral": dict(
            pre_tokenizer=metaspace("first", False), decoder=SPM_DECODER,
            model=dict(byte_fallback=True, fuse_unk=True, ignore_merges=True),
            added=PLAIN),
        "unknown": dict(pre_tokenizer={"type": "Whitespace"},
                        model=dict(unk_token="<unk>"), added=PLAIN,
                        letters=True),
        "unknown_fused": dict(
            pre_tokenizer={"type": "WhitespaceSplit"}, letters=True,
            model=dict(unk_token="<unk>", fuse_unk=True), added=PLAIN),
        "dropped": dict(pre_tokenizer={"type": "BertPreTokenizer"},
                        decoder=FUSE, added=PLAIN, letters=True),
        "prefix_suffix": dict(
            pre_tokenizer={"type": "Whitespace"}, letters=True, added=PLAIN,
            decoder=sequence("decoders", replace("</w>", " "),
                             replace("##", "")),
            model=dict(unk_token="<unk>", continuing_subword_prefix="##",
                       end_of_word_suffix="</w>")),
        "prefix_bytes": dict(
            pre_tokenizer={"type": "Whitespace"}, letters=True, added=PLAIN,
            decoder=sequence("decoders", FALLBACK, FUSE),
            model=dict(unk_token="<unk>", continuing_subword_prefix="#",
                       byte_fallback=True)),
        "delimiter": byte_level(pre(
            {"type": "CharDelimiterSplit", "delimiter": "e"}, BYTES)),
        "fixed": byte_level(pre({"type": "FixedLength", "length": 5}, BYTES)),
    }  # fmt: skip
    for scheme in ("always", "first", "never"):
        for splits in (True, False):
            step = metaspace(scheme, splits)
            result[f"metaspace_{scheme}_{splits}"] = dict(
                pre_tokenizer=step, decoder=step, added=ODD,
                model=dict(byte_fallback=True))
    for behavior in ("Removed", "Isolated", "MergedWithPrevious",
                     "MergedWithNext", "Contiguous"):
        for invert in (True, False):
            result[f"string_{behavior}_{invert}"] = byte_level(
                pre(split("e", behavior, invert, "String"), BYTES))
            result[f"regex_{behavior}_{invert}"] = byte_level(
                pre(split(r"\s+|e*", behavior, invert), BYTES))
        result[f"punctuation_{behavior}"] = byte_level(
            pre({"type": "Punctuation", "behavior": behavior}, BYTES))
    for i, pattern in enumerate(ODD_PATTERNS):
        result[f"pattern_{i}"] = byte_level(pre(split(pattern), BYTES))
    return result


def train(kind, vocab=600):
    """The vocabulary and the merges of a kind, from the repository's text."""
    text = TRAINING_TEXT.read_text()[:TRAINED_BYTES]
    text += " na\u00efve caf\u00e9 \u65e5\u672c\u8a9e 1234567 \u0661\u0662 ..., !?" * 9
    options = kind.get("model", {})
    affixes = {k: v for k, v in options.items() if k.startswith(("cont", "end"))}
    empty = build(kind, {}, [])
    shell = Tokenizer(models.BPE(**affixes))
    for part in ("normalizer", "pre_tokenizer"):
        if getattr(empty, part) is not None:
            setattr(shell, part, getattr(empty, part))
    alphabet = []
    if kind.get("decoder") == GPT2 and kind.get("alphabet", True):
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, show_progress=False, initial_alphabet=sorted(alphabet),
        max_token_length=16, limit_alphabet=300, **affixes)
    shell.train_from_iterator(text.splitlines(keepends=True), trainer)
    model = json.loads(shell.to_str())["model"]
    tokens, merges = model["vocab"], model["merges"]
    if options.get("byte_fallback"):
        for byte in range(256):
            tokens.setdefault(f"<0x{byte:02X}>", len(tokens))
    if "unk_token" in options:
        tokens.setdefault(options["unk_token"], len(tokens))
    return tokens, merges


def build(kind, vocab, merges):
    document = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [], "normalizer": kind.get("normalizer"),
        "pre_tokenizer": kind.get("pre_tokenizer"),
        "post_processor": kind.get("post_processor"),
        "decoder": kind.get("decoder"),
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None,
            "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            **(kind.get("model", {}) if vocab else {}),
            "vocab": vocab, "merges": merges},
    }  # fmt: skip
    if vocab:
        next_id = len(vocab)
        for token in kind.get("added", []):
            known = vocab.get(token["content"])
            document["added_tokens"].append(
                {"id": next_id if known is None else known, **token})
            next_id += known is None
    return Tokenizer.from_str(json.dumps(document))


SPACES = "\t\n\v\f\r \x1c\x85\u00a0\u1680\u180e\u2000\u2003\u2028\u2029\u202f\u205f\u3000"
PIECES = [
    " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n ", "'s", "'LL", "'re",
    "don't", "\u017fs'\u017f", "1", "12", "1234", "3.14", "\u0661\u0662",
    "\u00b2\u00bd", "\u216b", "the", " the", "The", "THE", "word", "words",
    "low", "NORM", "norm", "caf\u00e9", "Cafe\u0301", "\u00e9\u0301", "aaaa",
    "aaab", "\u65e5\u672c\u8a9e", "\uac00\u1100\u1161\u11a8", "\ufb01", "\uff21",
    "\u2460", "\u0130I\u0131\u00df\u1e9e", "\u03a3\u03c2", "e", "eee", "x", "o",
    "_", "-", "--", "...", "!?", "\u2014", "$", "<", ">", "<0x41>", "##", "</w>",
    MARK, MARK * 2, "\U0001f600", "\U0001f469\u200d\U0001f467", "\U0001f44d\U0001f3fd",
    "\u200b", "\u200d", "\ufeff", "\x00", "\x04", "\x7f", "\ufffd", "\u0301",
    "\u0327\u0301", "\u093f", "\u0e44\u0e17\u0e22", "\u1e9b\u0323", "\u0340",
    "\u2126", "\u212b", "\U0002f800", "\U00031350", "\U000e0001", "\u2f00",
]  # fmt: skip


def any_character(rng):
    while True:
        top = rng.choice((0x80, 0x250, 0x3000, 0x10000, 0x20000, 0x110000))
        code = rng.randrange(top)
        if not 0xD800 <= code <= 0xDFFF:
            return chr(code)


def random_text(rng, words, contents):
    parts = []
    for _ in range(rng.choice((1, 2, 3, 5, 8, 13))):
        source = rng.randrange(6)
        if source == 0:
            parts.append(any_character(rng))
        elif source == 1:
            parts.append(rng.choice(SPACES))
        elif source == 2 and contents:
            parts.append(rng.choice(contents))
        elif source == 3:
            parts.append(rng.choice(words))
        else:
            parts.append(rng.choice(PIECES))
        if rng.randrange(4) == 0:
            parts.append(" ")
    return "".join(parts)


def texts_of(kind, name, count, seed):
    rng = random.Random(f"{seed} {name}")
    words = TRAINING_TEXT.read_text()[:20000].split()
    contents = [token["content"] for token in kind.get("added", [])]
    texts = [random_text(rng, words, contents) for _ in range(count)]
    # One that is longer than what decoding id by id remembers.
    return ["", " ", "Once upon a time", "".join(texts[:30])] + texts


def answers(program, path, lines):
    """What tokenizer_dump says of the tokenizer, and of each line."""
    run = subprocess.run(
        [program, str(path)], check=False, capture_output=True, text=True,
        input="".join(json.dumps(line) + "\n" for line in lines))
    output = [json.loads(line) for line in run.stdout.splitlines()]
    if not output or "error" in output[0]:
        return (output or [{"error": run.stderr}])[0], []
    return output[0], output[1:]


def compare(program, name, kind, count, seed, folder):
    """The number of texts that differ; prints the first of them."""
    try:
        library = build(kind, *train(kind))
    except Exception as error:  # the library's own refusal
        print(f"{name}: the library refuses it ({error})")
        return 0
    path = folder / f"{name}.json"
    path.write_text(library.to_str())
    texts = texts_of(kind, name, count, seed)
    rng = random.Random(seed)
    size = library.get_vocab_size()
    ids = [[rng.randrange(size + 2) for _ in range(rng.randrange(12))]
           for _ in range(count // 4)]
    about, ours = answers(program, path, texts + ids)
    if "error" in about or len(ours) != len(texts) + len(ids):
        print(f"{name}: {about}, {len(ours)} answers")
        return len(texts)
    differences = 0
    for line, answer in zip(texts + ids, ours):
        expected = line if isinstance(line, list) else library.encode(
            line, add_special_tokens=False).ids
        decoded = library.decode(expected, skip_special_tokens=True)
        # Decoded id by id, bytes may have become a character before one came
        # that makes them invalid.
        streams = answer["streamed"] == decoded or "\ufffd" in decoded
        if (answer["ids"], answer["decoded"]) == (expected, decoded) and streams:
            continue
        differences += 1
        if differences <= 3:
            print(f"{name}: {line!a}\n  library {expected} {decoded!a}\n"
                  f"  ours    {answer['ids']} {answer['decoded']!a}\n"
                  f"  streamed {answer['streamed']!a}")
    if differences:
        print(f"{name}: {differences} of {len(texts) + len(ids)} differ")
    return differences


# What tokenizer_test reads: kinds that differ in what they need.
STORED = ["gpt2", "gpt2_spaced", "gpt2_odd_tokens", "smollm2", "llama3", "kimi",
          "cl100k", "nfkc", "nfkd_lower", "replace", "llama2", "llama2_tokens",
          "gemma", "metaspace_first_True", "unknown", "unknown_fused",
          "dropped", "prefix_suffix", "prefix_bytes", "string_Contiguous_True",
          "regex_MergedWithNext_False", "punctuation_MergedWithPrevious",
          "deepseek", "deepseek3"]  # fmt: skip


def write(folder, seed):
    folder.mkdir(parents=True, exist_ok=True)
    every = kinds()
    for name in STORED:
        kind = every[name]
        library = build(kind, *train(kind, vocab=330))
        cases = []
        for text in texts_of(kind, name, 60, seed):
            ids = library.encode(text, add_special_tokens=False).ids
            cases.append([text, ids, library.decode(ids)])
        document = {"tokenizers": tokenizers.__version__,
                    "tokenizer": json.loads(library.to_str()), "cases": cases}
        (folder / f"{name}.json").write_text(
            json.dumps(document, separators=(",", ":")) + "\n")


def print_unicode():
    characters = [chr(c) for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
    for category in ("Lu Ll Lm Lo Mn Mc Nd No Pc Pd Ps Pe Pi Pf Po "
                     "Sm Sc Sk So").split():
        cut = pre_tokenizers.Split(Regex(rf"\p{{{category}}}"), "removed")
        ranges = []
        for begin in range(0, len(characters), 2048):
            block = characters[begin:begin + 2048]
            left = set("".join(
                piece for piece, _ in cut.pre_tokenize_str("".join(block))))
            for c in block:
                if c in left or unicodedata.category(c) != "Cn":
                    continue
                if ranges and ranges[-1][1] == ord(c) - 1:
                    ranges[-1][1] = ord(c)
                else:
                    ranges.append([ord(c), ord(c)])
        for first, last in ranges:
            print(f'    {{"{category}", 0x{first:X}, 0x{last:X}}},')


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("program", nargs="?", help="tokenizer_dump")
    parser.add_argument("--count", type=int, default=300, help="texts per kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", action="append", help="only this kind")
    parser.add_argument("--write", type=pathlib.Path)
    parser.add_argument("--unicode", action="store_true")
    arguments = parser.parse_args()
    if arguments.unicode:
        return print_unicode()
    if arguments.write:
        return write(arguments.write, arguments.seed)
    if not arguments.program:
        parser.error("name the program tokenizer_dump")
    chosen = {name: kind for name, kind in kinds().items()
              if not arguments.kind or name in arguments.kind}
    with tempfile.TemporaryDirectory() as folder:
        differences = sum(
            compare(arguments.program, name, kind, arguments.count,
                    arguments.seed, pathlib.Path(folder))
            for name, kind in chosen.items())
    print(f"{len(chosen)} kinds, {arguments.count} texts each: "
          f"{differences} differences")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
