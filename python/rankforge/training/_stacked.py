"""Names of an adapter that stand for several linear layers with one input."""

STACKED = {
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "gate_up": ("gate_proj", "up_proj"),
}
