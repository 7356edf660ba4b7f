"""Losses over the predictions of a window, in f32."""

from torch import Tensor, nn


def predictions(logits: Tensor, prompt: int) -> Tensor:
    """(batch, tokens, vocab): those of tokens after the prompt, the first of
    which the prompt predicts, as `rankforge eval --decode-from` counts them."""
    return logits[:, _first(prompt) : -1].float()


def _first(prompt: int) -> int:
    return max(0, prompt - 1)


def cross_entropy(logits: Tensor, ids: Tensor, prompt: int) -> Tensor:
    """Mean over predictions, in nats."""
    rows = predictions(logits, prompt)
    return nn.functional.cross_entropy(
        rows.flatten(0, 1), ids[:, _first(prompt) + 1 :].flatten())


def divergence(logits: Tensor, teacher: Tensor, prompt: int) -> Tensor:
    """Mean Kullback-Leibler divergence from the teacher's predictions."""
    student = predictions(logits, prompt).log_softmax(-1).flatten(0, 1)
    expected = predictions(teacher, prompt).log_softmax(-1).flatten(0, 1)
    return nn.functional.kl_div(
        student, expected, reduction="batchmean", log_target=True)
