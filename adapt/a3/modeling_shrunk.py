"""Models whose layers have inner sizes of their own, as `rankforge adapt --method
a3` writes them, for Transformers:

  AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True)

config.layer_dims lists, by layer, the elements of a head's query and key
(qk_head_dim) and value (v_head_dim), the MLP's channels (intermediate_size) and,
by key head, which of the model's rotary frequencies are left (rotary_pairs;
absent: all). The scale of attention is that of the original head_dim.
"""

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.gemma import modeling_gemma
from transformers.models.gpt_neox import modeling_gpt_neox
from transformers.models.llama import modeling_llama
from transformers.models.mistral import modeling_mistral
from transformers.models.qwen2 import modeling_qwen2


def resized(linear, inputs, outputs):
    return nn.Linear(
        inputs or linear.in_features,
        outputs or linear.out_features,
        bias=linear.bias is not None,
        dtype=linear.weight.dtype,
        device=linear.weight.device,
    )


def rotate(x, cos, sin):
    """Rotates the first elements of x (batch, heads, tokens, elements)."""
    n = cos.shape[-1]
    first, second = x[..., : n // 2], x[..., n // 2 : n]
    half = torch.cat((-second, first), dim=-1)
    return torch.cat((x[..., :n] * cos + half * sin, x[..., n:]), dim=-1)


class ShrunkAttention:
    """Takes the place of an attention's forward pass."""

    def resize(self, config, dims):
        self.heads = config.num_attention_heads
        self.kv_heads = getattr(config, "num_key_value_heads", None) or self.heads
        self.num_key_value_groups = self.heads // self.kv_heads
        self.qk = dims.get("qk_head_dim")
        self.vo = dims.get("v_head_dim")
        self.pairs = dims.get("rotary_pairs")

    def angles(self, values, group):
        """values (batch, tokens, rotary) for each head: (batch, heads, tokens,
        rotated)."""
        if self.pairs is None:
            return values.unsqueeze(1)
        pairs = torch.tensor(self.pairs, dtype=torch.long, device=values.device)
        kept = values[..., pairs].transpose(1, 2)  # (batch, kv heads, tokens, pairs)
        return torch.cat((kept, kept), dim=-1).repeat_interleave(group, dim=1)

    def forward(self, hidden_states, attention_mask=None, position_embeddings=None,
                past_key_values=None, layer_past=None, **kwargs):
        shape = hidden_states.shape[:-1]
        q, k, v = self.project(hidden_states, shape)
        cos, sin = position_embeddings
        group = self.num_key_value_groups
        q = rotate(q, self.angles(cos, group), self.angles(sin, group))
        k = rotate(k, self.angles(cos, 1), self.angles(sin, 1))
        past = layer_past if past_key_values is None else past_key_values
        if past is not None:
            k, v = past.update(k, v, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, self.eager)
        out, weights = attend(
            self, q, k, v, attention_mask, scaling=self.scaling,
            dropout=self.attention_dropout if self.training else 0.0, **kwargs)
        return self.output(out.reshape(*shape, -1).contiguous()), weights


class SeparateProjections(ShrunkAttention):
    """q, k and v have projections of their own."""

    def resize(self, config, dims):
        super().resize(config, dims)
        self.q_proj = resized(self.q_proj, None, self.heads * self.qk)
        self.k_proj = resized(self.k_proj, None, self.kv_heads * self.qk)
        self.v_proj = resized(self.v_proj, None, self.kv_heads * self.vo)
        self.o_proj = resized(self.o_proj, self.heads * self.vo, None)

    def project(self, x, shape):
        return (self.q_proj(x).view(*shape, self.heads, self.qk).transpose(1, 2),
                self.k_proj(x).view(*shape, self.kv_heads, self.qk).transpose(1, 2),
                self.v_proj(x).view(*shape, self.kv_heads, self.vo).transpose(1, 2))

    def output(self, x):
        return self.o_proj(x)


class FusedProjection(ShrunkAttention):
    """Rows q, k, v of each head follow each other."""

    def resize(self, config, dims):
        super().resize(config, dims)
        self.query_key_value = resized(
            self.query_key_value, None, self.heads * (2 * self.qk + self.vo))
        self.dense = resized(self.dense, self.heads * self.vo, None)

    def project(self, x, shape):
        qkv = self.query_key_value(x).view(*shape, self.heads, -1).transpose(1, 2)
        return qkv.split((self.qk, self.qk, self.vo), dim=-1)

    def output(self, x):
        return self.dense(x)


class ShrunkLlamaAttention(SeparateProjections, modeling_llama.LlamaAttention):
    eager = staticmethod(modeling_llama.eager_attention_forward)


class ShrunkMistralAttention(SeparateProjections, modeling_mistral.MistralAttention):
    eager = staticmethod(modeling_mistral.eager_attention_forward)


class ShrunkQwen2Attention(SeparateProjections, modeling_qwen2.Qwen2Attention):
    eager = staticmethod(modeling_qwen2.eager_attention_forward)


class ShrunkGemmaAttention(SeparateProjections, modeling_gemma.GemmaAttention):
    eager = staticmethod(modeling_gemma.eager_attention_forward)


class ShrunkGPTNeoXAttention(FusedProjection, modeling_gpt_neox.GPTNeoXAttention):
    eager = staticmethod(modeling_gpt_neox.eager_attention_forward)


def shrink(layers, config, attention_name, attention_class):
    for index, (layer, dims) in enumerate(zip(layers, config.layer_dims)):
        attention = attention_class(config, index)
        attention.resize(config, dims)
        setattr(layer, attention_name, attention)
        width = dims["intermediate_size"]
        for name, linear in list(layer.mlp.named_children()):
            if name in ("gate_proj", "up_proj", "dense_h_to_4h"):
                setattr(layer.mlp, name, resized(linear, None, width))
            if name in ("down_proj", "dense_4h_to_h"):
                setattr(layer.mlp, name, resized(linear, width, None))


class ShrunkLlamaForCausalLM(modeling_llama.LlamaForCausalLM):
    def __init__(self, config):
        super().__init__(config)
        shrink(self.model.layers, config, "self_attn", ShrunkLlamaAttention)
        self.post_init()


class ShrunkMistralForCausalLM(modeling_mistral.MistralForCausalLM):
    def __init__(self, config):
        super().__init__(config)
        shrink(self.model.layers, config, "self_attn", ShrunkMistralAttention)
        self.post_init()


class ShrunkQwen2ForCausalLM(modeling_qwen2.Qwen2ForCausalLM):
    def __init__(self, config):
        super().__init__(config)
        shrink(self.model.layers, config, "self_attn", ShrunkQwen2Attention)
        self.post_init()


class ShrunkGemmaForCausalLM(modeling_gemma.GemmaForCausalLM):
    def __init__(self, config):
        super().__init__(config)
        shrink(self.model.layers, config, "self_attn", ShrunkGemmaAttention)
        self.post_init()


class ShrunkGPTNeoXForCausalLM(modeling_gpt_neox.GPTNeoXForCausalLM):
    """Transformers 5 calls embed_out lm_head. It renames the checkpoint's tensor only
    for its own classes."""

    _tied_weights_keys = {"embed_out.weight": "gpt_neox.embed_in.weight"}

    def __init__(self, config):
        super().__init__(config)
        shrink(self.gpt_neox.layers, config, "attention", ShrunkGPTNeoXAttention)
        if "lm_head" in self._modules:
            self.embed_out = self._modules.pop("lm_head")
        self.post_init()

    @property
    def lm_head(self):
        return self.embed_out
