"""LoRA by peft: what is learned, and how it merges.

A file of LoRA has `<layer>.lora.A` (r, inputs) and `<layer>.lora.B` (outputs, r)
for each linear layer of the checkpoint: W + B A takes the place of W. Of a layer
that a rank adapter stands for, it takes the place of its rows of A.
"""

from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from rankforge.training._adapted import layer_of
from rankforge.training._modules import linear_names

_NAME = "default"


@dataclass(frozen=True)
class LoraSettings:
    rank: int = 8
    alpha: float = 32.0
    dropout: float = 0.1


def add_lora(model: nn.Module, settings: LoraSettings, seed: int) -> None:
    """Gives every linear layer of the blocks a LoRA, which changes nothing yet.
    Nothing else has gradients afterwards."""
    torch.manual_seed(seed)
    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha,  # type: ignore
        lora_dropout=settings.dropout, target_modules=linear_names(model),
        bias="none")
    # A CPU draws them, so that a seed means the same on every device.
    device = next(model.parameters()).device
    model.to("cpu")
    inject_adapter_in_model(config, model, adapter_name=_NAME)
    model.to(device)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)


def lora_layers(model: nn.Module) -> dict[str, Any]:
    """By the names of layers of the checkpoint."""
    return {layer_of(name): module for name, module in model.named_modules()
            if hasattr(module, "lora_A") and hasattr(module, "base_layer")}


def lora_tensors(model: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """What a file of LoRA has: the factor alpha / r is part of B."""
    tensors = {}
    for name, layer in lora_layers(model).items():
        a = layer.lora_A[_NAME].weight
        b = layer.lora_B[_NAME].weight * layer.scaling[_NAME]
        tensors[f"{name}.lora.A"] = a.detach().to("cpu", dtype).contiguous()
        tensors[f"{name}.lora.B"] = b.detach().to("cpu", dtype).contiguous()
    return tensors


def deltas_of(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """B A by layer, in f32."""
    names = [name.removesuffix(".lora.A") for name in tensors
             if name.endswith(".lora.A")]
    return {name: tensors[f"{name}.lora.B"].float()
            @ tensors[f"{name}.lora.A"].float() for name in names}
