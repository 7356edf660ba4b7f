#!/usr/bin/env python3
"""Writes tests/model/data/families: tiny random checkpoints of each family with
what Hugging Face Transformers computes from them, and tokenizers with what the
tokenizers library makes of a text. It is run by hand when a family is added:

  pip install torch transformers tokenizers safetensors
  scripts/family_fixtures.py tests/model/data/families

Results are reproducible for one version of these packages (golden.json says
which). Arithmetic is float32 on the CPU from the stored bf16 weights.
"""

import json
import pathlib
import sys

import tokenizers
import torch
import transformers
from safetensors.torch import save_file

TOKENS = 24
SIZES = dict(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    vocab_size=400,
    max_position_embeddings=64,
    bos_token_id=1,
    eos_token_id=2,
)
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
LLAMA3_ROPE = {
    # Of eight frequencies one stays, one is mixed, and six are divided.
    "rope_type": "llama3",
    "rope_theta": 1000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}

# Name of the folder, class of the config, and what differs from SIZES.
CASES = [
    ("llama3", transformers.LlamaConfig,
     dict(num_key_value_heads=2, head_dim=16, rope_parameters=LLAMA3_ROPE)),
    ("llama_biases", transformers.LlamaConfig,
     dict(num_key_value_heads=4, attention_bias=True, mlp_bias=True,
          rope_parameters=LINEAR_ROPE)),
    ("mistral", transformers.MistralConfig,
     dict(num_key_value_heads=2, head_dim=16, sliding_window=7,
          rope_parameters=ROPE)),
    ("qwen2", transformers.Qwen2Config,
     dict(num_key_value_heads=2, tie_word_embeddings=True,
          rope_parameters=ROPE)),
    ("gemma", transformers.GemmaConfig,
     dict(num_key_value_heads=1, head_dim=16, rope_parameters=ROPE)),
    ("gpt_neox", transformers.GPTNeoXConfig,
     dict(rope_parameters={**ROPE, "partial_rotary_factor": 0.5},
          use_parallel_residual=False)),
]  # fmt: skip

# The patterns of the real tokenizers.
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
WORDS = r"|[^\r\n\p{L}\p{N}]?\p{L}+"
TOKENIZERS = {
    "llama3": dict(pattern=CONTRACTIONS + WORDS + r"|\p{N}{1,3}" + REST,
                   composes=False, ignore_merges=True),
    "qwen2": dict(pattern=CONTRACTIONS + WORDS + r"|\p{N}" + REST,
                  composes=True, ignore_merges=False),
}  # fmt: skip
TRAINING_TEXT = "examples/models/text/evaluation.txt"
TEXT = (
    "Once upon a time there was a little girl. She'LL say: \"I'm here, aren't "
    "they?\"\r\n\r\n  Two  spaces,\ttabs\n\n and 12345678 numbers, 3.14159; "
    "na\u00efve caf\u00e9 cafe\u0301 \u00c5ngstr\u00f6m \u212b \u65e5\u672c\u8a9e "
    "\u0e44\u0e17\u0e22 \U0001f642\U0001f44d\U0001f3fd x\u00b2 \u00bd \u0661\u0662\u0663"
    "<|end|>after<|end|> \u00a0non-breaking   \n trailing  "
)


def write_model(folder, config_class, options):
    torch.manual_seed(1)
    config = config_class(**{**SIZES, **options}, dtype="bfloat16")
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Large enough that every part of the model matters to the logits.
            scale = 0.3 if parameter.dim() == 1 else 0.15
            offset = 1 if name.endswith("norm.weight") else 0
            parameter.copy_(offset + scale * torch.randn_like(parameter))
    model = model.to(torch.bfloat16)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)

    # Loads the model again, so that no buffer (Gemma's scale) was rounded to bf16.
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager").eval()
    ids = torch.randint(3, SIZES["vocab_size"], (1, TOKENS))
    with torch.no_grad():
        out = model(ids, output_hidden_states=True)
    save_file(
        {
            "input_ids": ids[0].to(torch.int32),
            "logits": out.logits[0].contiguous(),
            "hidden_states": torch.stack([h[0] for h in out.hidden_states]),
        },
        folder / "golden.safetensors",
    )


def write_tokenizer(folder, pattern, composes, ignore_merges):
    pre = tokenizers.pre_tokenizers
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE(ignore_merges=ignore_merges))
    if composes:
        tokenizer.normalizer = tokenizers.normalizers.NFC()
    tokenizer.pre_tokenizer = pre.Sequence([
        pre.Split(tokenizers.Regex(pattern), behavior="isolated"),
        pre.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.train(
        [TRAINING_TEXT],
        tokenizers.trainers.BpeTrainer(
            vocab_size=SIZES["vocab_size"],
            special_tokens=["<|begin|>", "<|end|>"],
            initial_alphabet=pre.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    encoded = tokenizer.encode(TEXT, add_special_tokens=False)
    return {
        "text": TEXT,
        "ids": encoded.ids,
        "decoded": tokenizer.decode(encoded.ids, skip_special_tokens=True),
    }


def main():
    out = pathlib.Path(sys.argv[1])
    for name, config_class, options in CASES:
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        write_model(folder, config_class, options)
        golden = {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }
        if name in TOKENIZERS:
            golden["tokenizers"] = tokenizers.__version__
            golden["tokenizer"] = write_tokenizer(folder, **TOKENIZERS[name])
        (folder / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")
        print(name)


main()
