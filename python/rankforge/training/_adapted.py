"""The modules of an adapter in PyTorch, with gradients.

A mask is a constant of the pass: thresholds do not change, and gradients flow
through what is kept alone. Each module has the nn.Linear that LoRA changes as a
child, in the basis of the checkpoint, so that what is learned merges exactly:
W + dW takes the place of W, and A + dA that of A.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from rankforge.training._adapter_file import AdapterFile, Mask, Rank
from rankforge.training._errors import TrainingError
from rankforge.training._modules import (
    NORM_BEFORE,
    block_number,
    blocks_of,
    linear_of,
    linear_names,
    parts_of,
    prefix_of_blocks,
    put,
)


def keep(values: Tensor, tau: Tensor) -> Tensor:
    """values where |values| >= tau, else 0."""
    # Compared in f32: a threshold rounded to bf16 would keep other channels.
    mask = values.detach().abs().float() >= tau
    return values * mask.to(values.dtype)


class Stream(nn.Module):
    """The residual stream of a rotated block, after a norm that only divides.

    x (..., hidden) is h / rms(h), or the same of h without its mean. Masks and
    rank adapters read Q^T x. W reads weight * x + bias, as after the norm of
    the checkpoint, whose weight and bias these are.
    """

    q: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, q: Tensor, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("q", q, persistent=False)
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    def turned(self, x: Tensor) -> Tensor:
        # In f32, as the runtime has it: masks compare these values.
        with torch.autocast(x.device.type, enabled=False):
            return x.float() @ self.q

    def back(self, turned: Tensor) -> Tensor:
        with torch.autocast(turned.device.type, enabled=False):
            return (turned @ self.q.T) * self.weight + self.bias

    def normed(self, x: Tensor) -> Tensor:
        return x * self.weight + self.bias


class DenseOfStream(nn.Module):
    """A layer of a rotated block that has no mask."""

    def __init__(self, linear: nn.Linear, stream: Stream) -> None:
        super().__init__()
        self.linear, self.stream = linear, stream

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(self.stream.normed(x))
        return y


class MaskedLinear(nn.Module):
    """linear(gain * m * x) + bias; in a rotated block m is of Q^T x."""

    tau: Tensor
    gain: Tensor | None
    bias: Tensor | None

    def __init__(self, linear: nn.Linear, mask: Mask, first: int,
                 stream: Stream | None) -> None:
        super().__init__()
        self.linear, self.stream = linear, stream
        bias = mask.bias
        if bias is not None:
            bias = bias[first : first + linear.out_features]
        self.register_buffer("tau", mask.tau, persistent=False)
        self.register_buffer("gain", mask.gain, persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        kept = keep(x if self.stream is None else self.stream.turned(x),
                    self.tau)
        if self.gain is not None:
            kept = kept * self.gain.to(kept.dtype)
        if self.stream is not None:
            kept = self.stream.back(kept)
        y: Tensor = self.linear(kept)
        return y if self.bias is None else y + self.bias.to(y.dtype)


class RankLinear(nn.Module):
    """linear(m * z), z = B x: the outputs of one of the layers that a rank
    adapter stands for. `linear` has these rows of A, and the layer's bias."""

    tau: Tensor
    b: Tensor

    def __init__(self, old: nn.Linear, rank: Rank, first: int,
                 stream: Stream | None) -> None:
        super().__init__()
        self.stream = stream
        self.linear = nn.Linear(len(rank.tau), old.out_features,
                                bias=old.bias is not None)
        with torch.no_grad():
            self.linear.weight.copy_(
                rank.a[:, first : first + old.out_features].T)
            if old.bias is not None:
                self.linear.bias.copy_(old.bias)
        self.register_buffer("tau", rank.tau, persistent=False)
        self.register_buffer("b", rank.b, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.stream is not None:
            x = self.stream.turned(x)
        z = nn.functional.linear(x, self.b)
        y: Tensor = self.linear(keep(z, self.tau))
        return y


class GatedMlp(nn.Module):
    """down(m * act(gate) * up), where |act(gate)| >= tau."""

    tau: Tensor

    def __init__(self, mlp: Any, activation: Any, mask: Mask) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = (
            mlp.gate_proj, mlp.up_proj, mlp.down_proj)
        self.act_fn = activation
        self.register_buffer("tau", mask.tau, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = keep(self.act_fn(self.gate_proj(x)), self.tau)
        y: Tensor = self.down_proj(gate * self.up_proj(x))
        return y


class _Adapting:
    """Puts the modules of one adapter into one model."""

    def __init__(self, model: nn.Module, adapter: AdapterFile) -> None:
        self.model = model
        self.adapter = adapter
        # By the names of norms: norms before rotated blocks.
        self.streams: dict[str, Stream] = {}

    def refuse(self, name: str, what: str) -> TrainingError:
        return TrainingError(f"{self.adapter.path}: {name} {what}; give the "
                             "checkpoint that the adapter was made for")

    def stream_of(self, name: str) -> Stream | None:
        """What a linear layer reads, where its block is rotated."""
        last = name.rpartition(".")[2]
        block = block_number(self.model, name)
        q = self.adapter.rotation_of(block)
        if q is None or last not in NORM_BEFORE:
            return None
        norm_name = (f"{prefix_of_blocks(self.model)}.{block}."
                     f"{NORM_BEFORE[last]}")
        if norm_name not in self.streams:
            norm = self.model.get_submodule(norm_name)
            self.streams[norm_name] = self._without_weight(norm, norm_name, q)
        return self.streams[norm_name]

    def _without_weight(self, norm: Any, name: str, q: Tensor) -> Stream:
        """Leaves the norm its division alone."""
        if q.shape[0] != len(norm.weight):
            raise self.refuse(name, f"has {len(norm.weight)} values, the "
                              f"rotation {q.shape[0]}")
        # Gemma multiplies by 1 + weight.
        offset = 1.0 if "Gemma" in type(norm).__name__ else 0.0
        with torch.no_grad():
            weight = norm.weight.detach().float() + offset
            bias = getattr(norm, "bias", None)
            bias = (torch.zeros_like(weight) if bias is None
                    else bias.detach().clone().float())
            norm.weight.fill_(1.0 - offset)
            if getattr(norm, "bias", None) is not None:
                norm.bias.zero_()
        return Stream(q, weight, bias)

    def mask(self, name: str, mask: Mask) -> None:
        first = 0
        parts = parts_of(self.model, name)
        rows = sum(linear_of(self.model, p).out_features for p in parts)
        if mask.bias is not None and len(mask.bias) != rows:
            raise self.refuse(name, f"has {len(mask.bias)} outputs, the model "
                              f"{rows}")
        for part in parts:
            linear = linear_of(self.model, part)
            if linear.in_features != len(mask.tau):
                raise self.refuse(name, f"has {len(mask.tau)} inputs, the "
                                  f"model {linear.in_features}")
            put(self.model, part,
                MaskedLinear(linear, mask, first, self.stream_of(part)))
            first += linear.out_features

    def rank(self, name: str, rank: Rank) -> None:
        parts = parts_of(self.model, name)
        olds = [linear_of(self.model, part) for part in parts]
        shape = (sum(old.out_features for old in olds), olds[0].in_features)
        if (rank.a.shape[1], rank.b.shape[1]) != shape:
            raise self.refuse(name, f"is ({rank.a.shape[1]}, "
                              f"{rank.b.shape[1]}), the model has {shape}")
        first = 0
        for part, old in zip(parts, olds):
            put(self.model, part,
                RankLinear(old, rank, first, self.stream_of(part)))
            first += old.out_features

    def gate(self, name: str, mask: Mask) -> None:
        folder = name.rpartition(".")[0]
        linear = linear_of(self.model, f"{folder}.gate_proj")
        if linear.out_features != len(mask.tau):
            raise self.refuse(name, f"has {len(mask.tau)} neurons, the model "
                              f"{linear.out_features}")
        mlp: Any = self.model.get_submodule(folder)
        config: Any = self.model.config
        act = getattr(mlp, "act_fn", None) or ACT2FN[config.hidden_act]
        put(self.model, folder, GatedMlp(mlp, act, mask))

    def rest_of_streams(self) -> None:
        """Layers without masks behind norms that lost their weights."""
        for block in range(len(blocks_of(self.model))):
            if self.adapter.rotation_of(block) is None:
                continue
            prefix = f"{prefix_of_blocks(self.model)}.{block}."
            for name in linear_names(self.model):
                # Children of the modules above are done.
                if name.startswith(prefix) and not name.endswith(".linear"):
                    stream = self.stream_of(name)
                    if stream is not None:
                        put(self.model, name, DenseOfStream(
                            linear_of(self.model, name), stream))


def adapt(model: nn.Module, adapter: AdapterFile) -> None:
    """Puts the adapter's modules in place of layers of the model.

    Raises: TrainingError: it does not fit the model.
    """
    adapting = _Adapting(model, adapter)
    for name, gate in adapter.gates().items():
        adapting.gate(name, gate)
    for name, rank in adapter.ranks().items():
        adapting.rank(name, rank)
    for name, mask in adapter.masks().items():
        adapting.mask(name, mask)
    adapting.rest_of_streams()


def layer_of(name: str) -> str:
    """The layer of the checkpoint whose child `linear` is, or itself."""
    return name.removesuffix(".linear")
