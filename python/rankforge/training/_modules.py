"""Names: which linear layers of a model of Transformers a module of an adapter
file stands for, and which norm they read."""

from typing import Any

from torch import nn

from rankforge.training._errors import TrainingError
from rankforge.training._stacked import STACKED

# What reads the residual stream, and which norm of the block stands before it.
NORM_BEFORE = {
    "q_proj": "input_layernorm",
    "k_proj": "input_layernorm",
    "v_proj": "input_layernorm",
    "query_key_value": "input_layernorm",
    "qkv_proj": "input_layernorm",
    "gate_proj": "post_attention_layernorm",
    "up_proj": "post_attention_layernorm",
    "gate_up_proj": "post_attention_layernorm",
    "dense_h_to_4h": "post_attention_layernorm",
}


def blocks_of(model: nn.Module) -> Any:
    """The transformer layers, in order."""
    base = getattr(model, getattr(model, "base_model_prefix", ""), None)
    layers = getattr(base, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise TrainingError(f"model: {type(model).__name__} has no list of "
                            "layers; use a family that rankforge runs")
    return layers


def prefix_of_blocks(model: nn.Module) -> str:
    """"model.layers" of a Llama."""
    layers = blocks_of(model)
    return next(name for name, module in model.named_modules()
                if module is layers)


def linear_names(model: nn.Module) -> list[str]:
    """All linear layers inside the blocks: of attention and of MLPs."""
    prefix = prefix_of_blocks(model) + "."
    return [name for name, module in model.named_modules()
            if name.startswith(prefix) and isinstance(module, nn.Linear)]


def linear_of(model: nn.Module, name: str) -> nn.Linear:
    try:
        found = model.get_submodule(name)
    except AttributeError:
        found = None
    if not isinstance(found, nn.Linear):
        raise TrainingError(f"adapter: has {name}, which is no linear layer of "
                            "the model, or which two parts of it replace")
    return found


def parts_of(model: nn.Module, name: str) -> list[str]:
    """The linear layers that a module of an adapter stands for."""
    folder, _, last = name.rpartition(".")
    if last not in STACKED:
        linear_of(model, name)
        return [name]
    parts = [f"{folder}.{part}" for part in STACKED[last]]
    for part in parts:
        linear_of(model, part)
    return parts


def block_number(model: nn.Module, name: str) -> int:
    return int(name.removeprefix(prefix_of_blocks(model) + ".").split(".")[0])


def put(model: nn.Module, name: str, module: nn.Module) -> None:
    folder, _, last = name.rpartition(".")
    setattr(model.get_submodule(folder), last, module)
