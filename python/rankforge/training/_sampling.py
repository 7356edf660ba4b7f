"""Text that the dense model makes itself: more of what a divergence from it can
be learned on, where there is little text.

Every line begins with some tokens of the training windows, so that it stays near
them, and goes on with tokens drawn from the model's predictions.
"""

from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from rankforge.training._data import Windows


def sample(model: Any, windows: Windows, lines: int, prompt: int, batch: int,
           seed: int) -> Tensor:
    """(lines, window) token ids, on the CPU; the first `prompt` are of a text."""
    model.eval()
    # The end of a text is a token like others here.
    model.generation_config.eos_token_id = None
    found = []
    for index in tqdm(range((lines + batch - 1) // batch), desc="sample"):
        torch.manual_seed(seed * 1_000_003 + index)
        begun = windows.batch(index, batch, seed)[:, :prompt]
        with torch.no_grad():
            ids = model.generate(
                begun.to(model.device), do_sample=True, temperature=1.0,
                top_k=0, top_p=1.0, attention_mask=torch.ones_like(begun).to(
                    model.device), pad_token_id=0,
                max_new_tokens=windows.window - prompt,
                min_new_tokens=windows.window - prompt)
        found.append(ids.cpu())
    return torch.cat(found)[:lines]
