#!/usr/bin/env python3
"""Writes tests/model/data/families: tiny random checkpoints of each family with
what Hugging Face Transformers computes from them, and tokenizers with what the
tokenizers library makes of a text. It is run by hand when a family is added:

  pip install torch transformers tokenizers safetensors
  scripts/family_fixtures.py tests/model/data/families [NAME...]

With names, only those. Results are reproducible for one version of these packages (golden.json says
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
YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 1000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
}
# With every optional field. One position has more than beta_fast turns.
YARN_FIELDS_ROPE = {
    **YARN_ROPE,
    "beta_fast": 2.0,
    "beta_slow": 0.25,
    "mscale": 0.7,
    "mscale_all_dim": 1.0,
    "truncate": False,
}
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.75,
    "short_factor": [1.0, 1.25, 1.5],
    "long_factor": [1.0, 3.0, 9.0],
}
# The length from which the long factors of phi3 count, in its second config.
LONG_FROM = 16
GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
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
    ("llama_yarn", transformers.LlamaConfig,
     dict(num_key_value_heads=2, head_dim=16,
          rope_parameters=YARN_FIELDS_ROPE)),
    ("qwen3", transformers.Qwen3Config,
     dict(num_key_value_heads=2, head_dim=16, use_sliding_window=True,
          sliding_window=7, max_window_layers=1, rope_parameters=YARN_ROPE)),
    ("phi3", transformers.Phi3Config,
     dict(num_key_value_heads=2, pad_token_id=0,
          original_max_position_embeddings=48, rope_parameters=LONG_ROPE)),
    ("olmo2", transformers.Olmo2Config,
     dict(num_key_value_heads=2, rope_parameters=ROPE)),
    # Caps so low that they matter to random weights.
    ("gemma2", transformers.Gemma2Config,
     dict(num_key_value_heads=2, head_dim=16, sliding_window=7,
          query_pre_attn_scalar=20, attn_logit_softcapping=1.5,
          final_logit_softcapping=2.0, rope_parameters=ROPE)),
    ("gemma3", transformers.Gemma3TextConfig,
     dict(num_key_value_heads=1, head_dim=16, sliding_window=7,
          query_pre_attn_scalar=20, final_logit_softcapping=2.0,
          layer_types=["sliding_attention", "full_attention"],
          rope_parameters=GEMMA3_ROPE)),
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


def save_random(folder, config_class, options):
    """A checkpoint with random bf16 weights; returns its config."""
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
    return config


def write_model(folder, config_class, options):
    config = save_random(folder, config_class, options)
    # Loads the model again, so that no buffer (Gemma's scale) was rounded to bf16.
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager").eval()
    ids = torch.randint(3, SIZES["vocab_size"], (1, TOKENS))
    with torch.no_grad():
        out = model(ids, output_hidden_states=True)
    golden = {
        "input_ids": ids[0].to(torch.int32),
        "logits": out.logits[0].contiguous(),
        "hidden_states": torch.stack([h[0] for h in out.hidden_states]),
    }
    if config.model_type == "phi3":
        golden |= long_values(folder, ids)
    save_file(golden, folder / "golden.safetensors")


def long_values(folder, ids):
    """Of phi3 where its rotary factors change: logits of a sequence that is longer,
    and greedy tokens of one that becomes longer."""
    config = transformers.AutoConfig.from_pretrained(folder)
    config.original_max_position_embeddings = LONG_FROM
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=torch.float32,
        attn_implementation="eager").eval()
    with torch.no_grad():
        logits = model(ids).logits[0].contiguous()
        generated = model.generate(
            ids[:, : LONG_FROM - 4], max_new_tokens=12, min_new_tokens=12,
            do_sample=False)
    return {
        "long_logits": logits,
        "long_generated": generated[0, LONG_FROM - 4 :].to(torch.int32),
    }


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
        if sys.argv[2:] and name not in sys.argv[2:]:
            continue
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


if __name__ == "__main__":
    main()
