"""What the loop trains: routers, or LoRA beside what is skipped."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rankforge.training._gates import Gates, Mode, Routers
from rankforge.training._losses import cross_entropy, divergence

# alpha follows the number of skipped layers: a step changes its logarithm by this
# share of the relative distance to the number asked for.
_PENALTY_RATE = 0.05
# And the price is alpha times exp of this share. Without it, routers lag so far
# behind that the number goes on swinging between 1.6 and 3 for 2 (llama-gqa-7m).
_PENALTY_NOW = 0.7
_SKIPPED_DECAY = 0.6
# Routers may skip this much more or less than asked.
_SKIP_WITHIN = 0.25
# What each further layer counts, in nats. More than any loss: else no router
# wins against one that skips nothing. LoRA moves what routers read, and where
# that costs a layer, it must not lose against no LoRA at all.
ROUTERS_MISS = 100.0
LORA_MISSES = 1.0
# Nats for each square of what rho has moved by. A layer at a distance of 0.1 from
# the threshold then holds against 0.1 nats.
_ANCHOR = 10.0

# Tensors stay on their device until a step is done.
Figures = dict[str, "Tensor | float"]
Teacher = Callable[[Tensor], Tensor]
"""ids (batch, tokens) to logits, without gradients."""
Anchor = Callable[[Tensor], Tensor]
"""ids (batch, tokens) to rho (routers, batch) of the dense model."""


@dataclass
class Penalty:
    """alpha * sum of rho. Where a number of layers to skip is asked for, alpha
    follows from it: it grows while fewer are skipped. `skipped` is a mean over
    the last steps."""

    alpha: float
    skip: float | None = None
    miss: float = ROUTERS_MISS
    skipped: float = 0.0

    def _error(self) -> float:
        """From -1, far too many, to 1, far too few."""
        if self.skip is None:
            return 0.0
        error = (self.skip - self.skipped) / max(self.skip, 1.0)
        return max(-1.0, min(1.0, error))

    def price(self) -> float:
        """Of the sum of rho, in the next step."""
        return self.alpha * math.exp(_PENALTY_NOW * self._error())

    def observe(self, skipped: float) -> None:
        self.skipped += (1 - _SKIPPED_DECAY) * (skipped - self.skipped)
        self.alpha *= math.exp(_PENALTY_RATE * self._error())

    def state(self) -> dict[str, float]:
        return {"alpha": self.alpha, "mean_skipped": self.skipped}

    def set_state(self, state: dict[str, float]) -> None:
        self.alpha, self.skipped = state["alpha"], state["mean_skipped"]

    def score(self, loss: float, skipped: float) -> float:
        """Smaller is better: the number of layers counts first."""
        if self.skip is None:
            return loss
        off = max(0.0, abs(skipped - self.skip) - _SKIP_WITHIN)
        return loss + self.miss * off


def _evaluated(model: nn.Module, gates: Gates | None, held_out: Tensor,
               batch: int, teacher: Teacher | None) -> dict[str, float]:
    """Means over the windows: "loss" and "divergence" with gates as they are at
    inference, and how many layers are skipped."""
    model.eval()
    mode: Mode | None = None
    if gates is not None:
        mode, gates.mode = gates.mode, "hard"
    prompt = 0 if gates is None else gates.prompt
    sums: dict[str, float] = {}
    for ids in held_out.split(batch):
        logits = model(input_ids=ids, use_cache=False).logits
        figures = {"loss": float(cross_entropy(logits, ids, prompt))}
        if teacher is not None:
            figures["divergence"] = float(
                divergence(logits, teacher(ids), prompt))
        if gates is not None:
            figures["skipped"] = float(gates.skipped().mean())
        for name, value in figures.items():
            share = value * len(ids) / len(held_out)
            sums[name] = sums.get(name, 0.0) + share
    if gates is not None and mode is not None:
        gates.mode = mode
    model.train()
    return sums


class RouterTask:
    """Phase 1 of FiRST: CE + decay * sum |w|^2 + alpha * sum rho."""

    name = "router"

    def __init__(self, model: nn.Module, routers: Routers, gates: Gates,
                 penalty: Penalty, decay: float, batch: int) -> None:
        self.model, self.routers, self.gates = model, routers, gates
        self.penalty, self.decay, self.batch = penalty, decay, batch
        self._skipped: Tensor | float = 0.0

    def parameters(self) -> dict[str, nn.Parameter]:
        return {"weight": self.routers.weight}

    def loss(self, ids: Tensor) -> tuple[Tensor, Figures]:
        logits = self.model(input_ids=ids, use_cache=False).logits
        loss = cross_entropy(logits, ids, self.gates.prompt)
        rho = torch.stack(self.gates.rhos).mean(dim=1).sum()
        decay = self.decay * self.routers.weight.square().sum()
        figures: Figures = {
            "ce": loss.detach(), "rho": rho.detach(),
            "alpha": self.penalty.alpha,
            "skipped": self.gates.skipped().mean()}
        self._skipped = figures["skipped"]
        return loss + decay + self.penalty.price() * rho, figures

    def evaluate(self, held_out: Tensor) -> dict[str, float]:
        found = _evaluated(self.model, self.gates, held_out, self.batch, None)
        # With alpha fixed, what is skipped has a price.
        skipped = found["skipped"]
        loss = found["loss"] - (0.0 if self.penalty.skip is not None
                                else self.penalty.alpha * skipped)
        return found | {"score": self.penalty.score(loss, skipped)}

    def after_step(self) -> None:
        self.penalty.observe(float(self._skipped))

    def state(self) -> dict[str, float]:
        return self.penalty.state()

    def set_state(self, state: dict[str, float]) -> None:
        self.penalty.set_state(state)


class LoraTask:
    """LoRA of a model that skips: by gates, masks, or because it is smaller.

    With a teacher, the loss is the divergence from its predictions, else the
    cross entropy. Where routers decide, alpha * sum rho is added; or, with
    `anchor` (the rho of each layer and window in the dense model), the squares
    of what rho has moved by: what LoRA makes of the states must not change
    which layers run. With alpha alone, hard gates led from 2 skipped layers to 20
    (SmolLM2-135M).
    """

    name = "lora"

    def __init__(self, model: nn.Module, gates: Gates | None,
                 penalty: Penalty | None, teacher: Teacher | None,
                 batch: int, anchor: Anchor | None = None) -> None:
        self.model, self.gates, self.teacher = model, gates, teacher
        self.penalty, self.batch, self.anchor = penalty, batch, anchor
        self._skipped: Tensor | float = 0.0

    def parameters(self) -> dict[str, nn.Parameter]:
        return {name: parameter for name, parameter
                in self.model.named_parameters() if parameter.requires_grad}

    def loss(self, ids: Tensor) -> tuple[Tensor, Figures]:
        prompt = 0 if self.gates is None else self.gates.prompt
        logits = self.model(input_ids=ids, use_cache=False).logits
        if self.teacher is None:
            loss = cross_entropy(logits, ids, prompt)
        else:
            loss = divergence(logits, self.teacher(ids), prompt)
        if self.gates is None or self.penalty is None:
            return loss, {}
        rhos = torch.stack(self.gates.rhos)
        figures: Figures = {
            "objective": loss.detach(), "rho": rhos.detach().mean(dim=1).sum(),
            "skipped": self.gates.skipped().mean()}
        self._skipped = figures["skipped"]
        if self.anchor is not None:
            moved = (rhos - self.anchor(ids)).square().mean(dim=1).sum()
            return loss + _ANCHOR * moved, figures
        return loss + self.penalty.price() * rhos.mean(dim=1).sum(), figures

    def evaluate(self, held_out: Tensor) -> dict[str, float]:
        found = _evaluated(self.model, self.gates, held_out, self.batch,
                           self.teacher)
        loss = found["loss" if self.teacher is None else "divergence"]
        if self.penalty is not None:
            loss = self.penalty.score(loss, found["skipped"])
        return found | {"score": loss}

    def after_step(self) -> None:
        if self.penalty is not None:
            self.penalty.observe(float(self._skipped))

    def state(self) -> dict[str, float]:
        return {} if self.penalty is None else self.penalty.state()

    def set_state(self, state: dict[str, float]) -> None:
        if self.penalty is not None:
            self.penalty.set_state(state)
