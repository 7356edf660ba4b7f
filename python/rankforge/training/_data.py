"""Texts as token ids, and windows of them in an order that a seed decides."""

import json
import pathlib
from collections.abc import Sequence

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from rankforge.training._adapter_file import native_module
from rankforge.training._errors import TrainingError


def _ids_of_file(path: str) -> list[int]:
    """A JSON list, or safetensors with one tensor."""
    try:
        if path.endswith(".safetensors"):
            tensor = next(iter(load_file(path).values()))
            ids = tensor.flatten().tolist()
        else:
            ids = json.loads(pathlib.Path(path).read_text())
        for value in ids:
            if not isinstance(value, int) or value < 0:
                raise ValueError(f"{value!r} is none")
        return list(ids)
    except (OSError, ValueError, TypeError, StopIteration,
            SafetensorError) as error:
        raise TrainingError(f"{path}: holds no token ids ({error}); give a "
                            "JSON list or safetensors") from None


def _read(path: str) -> str:
    try:
        return pathlib.Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path}: cannot be read ({error}); give a text in "
                            "UTF-8") from None


def encode(model: str, text: str) -> list[int]:
    """Without a token for the beginning. By the runtime's own tokenizer where
    there is no tokenizer.json, which needs the native module."""
    folder = pathlib.Path(model)
    if (folder / "tokenizer.json").exists():
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        return list(tokenizer.encode(text, add_special_tokens=False).ids)
    if native_module() is None:
        raise TrainingError(f"{model}: has no tokenizer.json, and other "
                            "tokenizers need the native module; give --ids")
    import rankforge

    try:
        return list(rankforge.Model.load(model).encode(text))
    except rankforge.Error as error:
        raise TrainingError(f"{model}: cannot split a text ({error}); give "
                            "--ids") from None


class Windows:
    """Training windows (window,) and held-out ones, which nothing learns from.

    The held-out ones are the last of the first file; texts come before ids.
    """

    def __init__(self, files: Sequence[Sequence[int]], window: int,
                 held_out: int, vocab: int) -> None:
        self.window = window
        first = torch.tensor(files[0], dtype=torch.long)
        size = held_out * window
        if len(first) < size + 2 * window:
            raise TrainingError(
                f"text: its first file has {len(first)} tokens, {held_out} "
                f"held-out windows of {window} and two to learn from need "
                f"{size + 2 * window}; give more text, or less of --held-out "
                "or --window")
        self.held_out = first[len(first) - size :].view(held_out, window)
        self.train = torch.cat([first[: len(first) - size]] + [
            torch.tensor(ids, dtype=torch.long) for ids in files[1:]])
        largest = max(int(self.train.max()), int(first.max()))
        if largest >= vocab:
            raise TrainingError(f"text: has the token id {largest}, the model "
                                f"knows {vocab}; give ids of its tokenizer")

    def per_epoch(self) -> int:
        # One window less: epochs begin at different tokens.
        return len(self.train) // self.window - 1

    def batch(self, index: int, size: int, seed: int) -> Tensor:
        """(size, window): the windows from `index * size` on."""
        count = self.per_epoch()
        rows = []
        for place in range(index * size, (index + 1) * size):
            epoch = place // count
            generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
            order = torch.randperm(count, generator=generator)
            shift = int(torch.randint(self.window, (), generator=generator))
            begin = shift + int(order[place % count]) * self.window
            rows.append(self.train[begin : begin + self.window])
        return torch.stack(rows)


def load_windows(model: str, texts: Sequence[str], ids: Sequence[str],
                 window: int, held_out: int, vocab: int) -> Windows:
    if not texts and not ids:
        raise TrainingError("--text: give a text, or its tokens by --ids")
    files = [encode(model, _read(path)) for path in texts]
    files += [_ids_of_file(path) for path in ids]
    return Windows(files, window, held_out, vocab)
