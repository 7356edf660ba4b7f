"""The loop: AdamW, a cosine schedule with warm-up, gradient accumulation, early
stopping on held-out windows, and checkpoints from which a run goes on.

Everything random follows from the seed and the number of the step, so that a run
that goes on has the weights of one that was never stopped, bit for bit on a CPU.
"""

import json
import math
import os
import pathlib
import pickle
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from rankforge.training._data import Windows
from rankforge.training._errors import TrainingError


@dataclass(frozen=True)
class LoopSettings:
    """steps: of the optimiser; batch: windows of a pass; accumulate: passes of
    a step; warmup: share of the steps; eval_every: steps; patience: evaluations
    without a better score, after which it stops; max_seconds: of this process,
    after which it stops, too, and towards which the schedule runs; 0: none;
    dtype: of products."""

    steps: int = 200
    batch: int = 8
    accumulate: int = 1
    lr: float = 2e-4
    warmup: float = 0.05
    clip: float = 1.0
    eval_every: int = 20
    patience: int = 4
    max_seconds: float = 0.0
    seed: int = 0
    dtype: str = "f32"


class Task(Protocol):
    """What is trained."""

    name: str

    def parameters(self) -> dict[str, nn.Parameter]: ...
    def loss(self, ids: Tensor) -> "tuple[Tensor, dict[str, Tensor | float]]":
        """The loss of a batch, and figures for people."""
    def evaluate(self, held_out: Tensor) -> dict[str, float]:
        """Of windows; "score" decides, smaller is better."""
    def after_step(self) -> None: ...
    def state(self) -> dict[str, float]:
        """What the task knows beside its parameters."""
    def set_state(self, state: dict[str, float]) -> None: ...


def learning_rate(settings: LoopSettings, step: int,
                  seconds: float = 0.0) -> float:
    """Of the step with this number, from 0 on, after so many seconds."""
    warm = max(1, round(settings.warmup * settings.steps))
    if step < warm:
        return settings.lr * (step + 1) / warm
    share = (step - warm) / max(1, settings.steps - warm)
    if settings.max_seconds:
        share = min(1.0, max(share, seconds / settings.max_seconds))
    return settings.lr * 0.5 * (1 + math.cos(math.pi * share))


def autocast(device: torch.device, dtype: str) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bf16")


def _say(bar: Any, text: str) -> None:
    # Standard output is for what other programs read.
    bar.write(text, file=sys.stderr)


class Loop:
    """One phase of a run, whose unfinished work is OUT/<task>.state.pt."""

    def __init__(self, task: Task, windows: Windows, settings: LoopSettings,
                 device: torch.device, out: pathlib.Path) -> None:
        self.task = task
        self.windows = windows
        self.settings = settings
        self.device = device
        self.path = out / f"{task.name}.state.pt"
        self.held_out = windows.held_out.to(device)
        self.trained = task.parameters()
        self.optimizer = torch.optim.AdamW(
            self.trained.values(), lr=settings.lr, weight_decay=0.0)
        self.step = 0
        self.begun = time.monotonic()
        self.history: list[dict[str, float]] = []
        self.best_score = math.inf
        self.best = self._copy()
        self.worse = 0

    def run(self) -> list[dict[str, float]]:
        """Trains, and leaves the parameters with the best score."""
        bar = tqdm(total=self.settings.steps, initial=self.step,
                   desc=self.task.name, mininterval=1.0)
        if not self.history:
            self._evaluate(bar)
        self.begun, why = time.monotonic(), ""
        while self.step < self.settings.steps and not why:
            figures = self._one_step()
            self.step += 1
            bar.update()
            bar.set_postfix({name: f"{value:.4g}"
                             for name, value in figures.items()},
                            refresh=False)
            limit = self.settings.max_seconds
            if limit and time.monotonic() - self.begun > limit:
                why = f"it took more than {limit:g} s"
            last = self.step == self.settings.steps or bool(why)
            if last or self.step % self.settings.eval_every == 0:
                self._evaluate(bar, figures)
                self.save()
            if self.worse >= self.settings.patience:
                why = f"{self.worse} evaluations without a better score"
        if self.step < self.settings.steps:
            _say(bar, f"{self.task.name}: stopped at step {self.step}: {why}")
        bar.close()
        self._restore(self.best)
        return self.history

    def _one_step(self) -> dict[str, float]:
        settings = self.settings
        rate = learning_rate(settings, self.step,
                             time.monotonic() - self.begun)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor | float] = {}
        for part in range(settings.accumulate):
            index = self.step * settings.accumulate + part
            # Dropout of a step does not depend on those before.
            torch.manual_seed(settings.seed * 1_000_003 + index)
            ids = self.windows.batch(index, settings.batch, settings.seed)
            with autocast(self.device, settings.dtype):
                loss, figures = self.task.loss(ids.to(self.device))
            (loss / settings.accumulate).backward()
            for name, value in ({"loss": loss.detach(), **figures}).items():
                sums[name] = sums.get(name, 0.0) + value / settings.accumulate
        nn.utils.clip_grad_norm_(self.trained.values(), settings.clip)
        self.optimizer.step()
        means = {name: float(value) for name, value in sums.items()}
        if not math.isfinite(means["loss"]):
            raise TrainingError(f"{self.task.name}: the loss of step "
                                f"{self.step} is {means['loss']}; lower --lr")
        self.task.after_step()
        return means

    def _evaluate(self, bar: Any,
                  figures: dict[str, float] | None = None) -> None:
        with torch.no_grad(), autocast(self.device, self.settings.dtype):
            found = self.task.evaluate(self.held_out)
        entry = {"step": float(self.step), "seconds": round(time.time(), 1)}
        entry |= {f"train_{name}": value
                  for name, value in (figures or {}).items()}
        entry |= found
        self.history.append(entry)
        shown = ", ".join(f"{name} {value:.4f}" for name, value
                          in (found | self.task.state()).items())
        _say(bar, f"{self.task.name}: step {self.step}: {shown}")
        if found["score"] < self.best_score:
            self.best_score, self.best = found["score"], self._copy()
            self.worse = 0
        else:
            self.worse += 1

    def _copy(self) -> dict[str, Tensor]:
        return {name: value.detach().to("cpu", copy=True)
                for name, value in self.trained.items()}

    def _restore(self, values: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(values[name])

    def save(self) -> None:
        partial = self.path.with_suffix(".partial")
        torch.save({
            "settings": json.dumps(asdict(self.settings)),
            "step": self.step, "worse": self.worse,
            "best_score": self.best_score, "best": self.best,
            "history": json.dumps(self.history),
            "parameters": self._copy(), "task": self.task.state(),
            "optimizer": self.optimizer.state_dict()}, partial)
        os.replace(partial, self.path)

    def resume(self) -> bool:
        """Goes on where `save` was called; False: there is nothing.

        Raises: TrainingError: it is of other settings, or damaged.
        """
        if not self.path.exists():
            return False
        try:
            saved = torch.load(self.path, weights_only=True,
                               map_location=self.device)
            before = json.loads(saved["settings"])
            self._check(before)
            self._restore(saved["parameters"])
            self.optimizer.load_state_dict(saved["optimizer"])
        except (OSError, RuntimeError, KeyError, ValueError, EOFError,
                pickle.UnpicklingError) as error:
            raise TrainingError(f"{self.path}: is no state of this run "
                                f"({str(error):.80}); remove it to begin anew") from None
        self.step, self.worse = saved["step"], saved["worse"]
        self.best_score = saved["best_score"]
        self.best = {name: value.cpu() for name, value
                     in saved["best"].items()}
        self.history = json.loads(saved["history"])
        self.task.set_state(saved["task"])
        return True

    def _check(self, before: dict[str, Any]) -> None:
        for name, value in asdict(self.settings).items():
            if before.get(name) != value:
                raise TrainingError(
                    f"{self.path}: '{name}' was {before.get(name)}, is {value} "
                    "now; give the same settings, or remove it to begin anew")
