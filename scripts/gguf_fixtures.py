#!/usr/bin/env python3
"""Writes tests/model/data/gguf: blocks of every type with what the gguf package
makes of them, and tiny random models of each architecture with what Hugging Face
Transformers computes from them. It is run by hand when one of them is added:

  pip install torch transformers gguf safetensors
  scripts/gguf_fixtures.py tests/model/data/gguf

Names, orders of rows and metadata are those that converters of llama.cpp write.
Results are reproducible for one version of these packages.
"""

import pathlib
import sys

import family_fixtures
import gguf
import numpy as np
import torch
import transformers
from family_fixtures import GEMMA3_ROPE, LINEAR_ROPE, LLAMA3_ROPE, ROPE
from gguf import GGMLQuantizationType as Type
from safetensors.torch import save_file

TOKENS = 12
WINDOWED = ("llama", "phi3", "gemma2", "gemma3")  # architectures
SIZES = {
    **family_fixtures.SIZES,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "vocab_size": 64,
}

BLOCK_TYPES = [
    Type.F32, Type.F16, Type.BF16, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1,
    Type.Q8_0, Type.Q2_K, Type.Q3_K, Type.Q4_K, Type.Q5_K, Type.Q6_K, Type.IQ4_NL,
]  # fmt: skip
# Places of f16 scales in a block, whose random bits must be finite.
SCALES = {
    Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2],
    Type.Q8_0: [0], Type.Q2_K: [80, 82], Type.Q3_K: [108], Type.Q4_K: [0, 2],
    Type.Q5_K: [0, 2], Type.Q6_K: [208], Type.IQ4_NL: [0], Type.F16: [0],
}  # fmt: skip


def write_blocks(path):
    random = np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, "none")
    for kind in BLOCK_TYPES:
        weights, size = gguf.GGML_QUANT_SIZES[kind]
        rows, cols = 2, 256
        data = random.integers(0, 256, (rows, cols // weights, size), np.uint8)
        for at in SCALES.get(kind, []):
            data[:, :, at + 1] &= 0xBF  # of exponents below 16
        # A block of zeros whose scale is negative: -0 stays -0.
        data[0, 0] = 0
        for at in SCALES.get(kind, []):
            data[0, 0, at + 1] = 0x80
        data = data.reshape(rows, -1)
        if kind == Type.F32:
            data = random.standard_normal((rows, cols), np.float32).view(np.uint8)
        if kind == Type.BF16:
            data[:, 1::2] &= 0xBF
        widened = gguf.quants.dequantize(data, kind).astype(np.float32)
        assert np.isfinite(widened).all(), kind
        writer.add_tensor(kind.name, data, raw_dtype=kind)
        writer.add_tensor(kind.name + ".widened", widened)
    write(writer)


def write(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def halves_to_neighbours(weights, heads):
    """Rows of q or k: the two halves of each head become neighbours."""
    parts = weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
    return parts.swapaxes(1, 2).reshape(weights.shape)


def heads_to_kinds(weights, heads):
    """Rows of GPT-NeoX's q, k and v: from by head to by kind."""
    parts = weights.reshape(heads, 3, weights.shape[0] // heads // 3, *weights.shape[1:])
    return parts.swapaxes(0, 1).reshape(weights.shape)


def names_of(architecture, layers):
    """The package's map from names of Transformers to those of the file."""
    arch = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items()
                if name == architecture)
    names = gguf.get_tensor_name_map(arch, layers)
    return lambda name: names.get_name(name, try_suffixes=(".weight", ".bias"))


def rope_divisors(rope, head_dim):
    """What llama.cpp's converter stores of Llama 3.1's scaling."""
    frequencies = 1 / rope["rope_theta"] ** (np.arange(0, head_dim, 2) / head_dim)
    low = rope["original_max_position_embeddings"] / rope["low_freq_factor"]
    high = rope["original_max_position_embeddings"] / rope["high_freq_factor"]
    divisors = []
    for length in 2 * np.pi / frequencies:
        if length < high:
            divisors.append(1)
        elif length > low:
            divisors.append(rope["factor"])
        else:
            share = (rope["original_max_position_embeddings"] / length
                     - rope["low_freq_factor"]) / (
                         rope["high_freq_factor"] - rope["low_freq_factor"])
            divisors.append(1 / ((1 - share) / rope["factor"] + share))
    return np.array(divisors, np.float32)


def random_model(config_class, options, kind):
    """A model whose matrices are exactly blocks of `kind`."""
    torch.manual_seed(1)
    config = config_class(**{**SIZES, **options}, dtype="float32")
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Large enough that every part of the model matters to the logits.
            scale = 0.3 if parameter.dim() == 1 else 0.15
            offset = 1 if name.endswith("norm.weight") else 0
            parameter.copy_(offset + scale * torch.randn_like(parameter))
            if parameter.dim() == 2:
                blocks = gguf.quants.quantize(parameter.numpy(), kind)
                parameter.copy_(torch.from_numpy(
                    gguf.quants.dequantize(blocks, kind).copy()))
    return config, model


def write_model(path, architecture, config_class, options, kind):
    config, model = random_model(config_class, options, kind)
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", heads)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    rope = config.rope_parameters
    rope = rope.get("full_attention", rope)  # of Gemma 3
    gguf_name = names_of(architecture, config.num_hidden_layers)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    if architecture == "gptneox":
        writer.add_layer_norm_eps(config.layer_norm_eps)
        writer.add_parallel_residual(config.use_parallel_residual)
        writer.add_rope_dimension_count(int(head_dim * rope["partial_rotary_factor"]))
    else:
        writer.add_head_count_kv(kv_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
        writer.add_rope_freq_base(rope["rope_theta"])
    if getattr(config, "sliding_window", None) and architecture in WINDOWED:
        writer.add_sliding_window(config.sliding_window)
    if getattr(config, "attn_logit_softcapping", None):
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    if getattr(config, "final_logit_softcapping", None):
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", rope_divisors(rope, head_dim))
    for name, value in model.named_parameters():
        weights = value.detach().numpy()
        if architecture == "llama" and ".q_proj." in name:
            weights = halves_to_neighbours(weights, heads)
        if architecture == "llama" and ".k_proj." in name:
            weights = halves_to_neighbours(weights, kv_heads)
        if ".query_key_value." in name:
            weights = heads_to_kinds(weights, heads)
        if architecture.startswith("gemma") and name.endswith("norm.weight"):
            weights = weights + 1
        if weights.ndim == 2:
            # The same blocks: what they widen to is exactly representable.
            blocks = gguf.quants.quantize(weights, kind)
            assert np.array_equal(gguf.quants.dequantize(blocks, kind), weights), name
            writer.add_tensor(gguf_name(name), blocks, raw_dtype=kind)
        else:
            writer.add_tensor(gguf_name(name), weights.astype(np.float32))
    write(writer)

    ids = torch.randint(3, SIZES["vocab_size"], (1, TOKENS))
    with torch.no_grad():
        logits = model(ids).logits[0].contiguous()
    save_file({"input_ids": ids[0].to(torch.int32), "logits": logits},
              path.with_suffix(".safetensors"))


# Name, architecture, class of the config, what differs from SIZES, type.
CASES = [
    ("llama3", "llama", transformers.LlamaConfig,
     dict(num_hidden_layers=2, num_key_value_heads=2, head_dim=16,
          rope_parameters=LLAMA3_ROPE), Type.Q8_0),
    ("llama_biases", "llama", transformers.LlamaConfig,
     dict(num_key_value_heads=4, attention_bias=True, mlp_bias=True,
          rope_parameters=LINEAR_ROPE), Type.F16),
    ("mistral", "llama", transformers.MistralConfig,
     dict(num_key_value_heads=2, head_dim=16, sliding_window=5,
          rope_parameters=ROPE), Type.Q5_1),
    ("qwen2", "qwen2", transformers.Qwen2Config,
     dict(num_key_value_heads=2, tie_word_embeddings=True, rope_parameters=ROPE),
     Type.Q4_0),
    ("qwen3", "qwen3", transformers.Qwen3Config,
     dict(num_key_value_heads=2, head_dim=16, rope_parameters=ROPE), Type.Q8_0),
    ("phi3", "phi3", transformers.Phi3Config,
     dict(num_key_value_heads=2, pad_token_id=0, sliding_window=5,
          rope_parameters={**ROPE, "partial_rotary_factor": 1.0}), Type.Q5_1),
    ("gemma", "gemma", transformers.GemmaConfig,
     dict(num_key_value_heads=1, head_dim=16, rope_parameters=ROPE), Type.Q5_0),
    # The scalar of queries is no metadata: it is the size of a head.
    ("gemma2", "gemma2", transformers.Gemma2Config,
     dict(num_hidden_layers=2, num_key_value_heads=2, head_dim=16,
          query_pre_attn_scalar=16, sliding_window=5, attn_logit_softcapping=1.5,
          final_logit_softcapping=2.0, rope_parameters=ROPE), Type.Q8_0),
    # As many layers as the pattern of windows has.
    ("gemma3", "gemma3", transformers.Gemma3TextConfig,
     dict(num_hidden_layers=6, num_key_value_heads=1, head_dim=16,
          query_pre_attn_scalar=16, sliding_window=5, final_logit_softcapping=2.0,
          rope_parameters=GEMMA3_ROPE), Type.Q4_0),
    ("olmo2", "olmo2", transformers.Olmo2Config,
     dict(num_key_value_heads=2, rope_parameters=ROPE), Type.Q5_0),
    ("gpt_neox", "gptneox", transformers.GPTNeoXConfig,
     dict(rope_parameters={**ROPE, "partial_rotary_factor": 0.5},
          use_parallel_residual=False), Type.Q4_1),
]  # fmt: skip


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    write_blocks(folder / "blocks.gguf")
    for name, architecture, config_class, options, kind in CASES:
        write_model(folder / f"{name}.gguf", architecture, config_class, options, kind)


if __name__ == "__main__":
    main()
