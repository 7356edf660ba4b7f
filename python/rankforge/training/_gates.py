"""Gates of whole layers: h + g (layer(h) - h), with g from a router or a set.

A router reads the residual stream before its layer. FiRST (arXiv 2410.12513):
rho = mean over tokens of sigmoid(w . h), and the layer runs if rho >= 0.5. The
printed equation cancels rho; what its text describes is h + rho (layer(h) - h).

The first `prompt` tokens of a window run all layers, as a prefill does, and
routers read them alone. With 0 the routers read the whole window and gates hold
for all of it, as in the paper's training.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rankforge.training._errors import TrainingError
from rankforge.training._modules import blocks_of

THRESHOLD = 0.5
# Of the mean second moment of a state's elements.
_START_RIDGE = 1e-3
Mode = Literal["soft", "hard"]


class Routers(nn.Module):
    """weight (blocks, hidden), f32. Zeros: rho is 0.5 everywhere.

    The first and the last `always` layers have none, and always run, as in the
    runtime (`--always-on`).
    """

    def __init__(self, blocks: int, hidden: int,
                 always: tuple[int, int] = (1, 1)) -> None:
        super().__init__()
        if sum(always) >= blocks:
            raise TrainingError(f"--always-on: {always[0]},{always[1]} leaves "
                                f"no layer of {blocks} to route")
        self.weight = nn.Parameter(torch.zeros(blocks, hidden))
        self.routed = range(always[0], blocks - always[1])

    def rho(self, block: int, states: Tensor) -> Tensor:
        """states (batch, tokens, hidden): (batch,)."""
        with torch.autocast(states.device.type, enabled=False):
            scores = states.float() @ self.weight[block]
            return torch.sigmoid(scores).mean(dim=1)

    def start(self, states: list[Tensor], rho: float) -> None:
        """Makes rho what every token says, as nearly as a linear function of
        its state can: states (batch, tokens, hidden) before each layer.

        From zeros, rho is at the threshold, where a step decides for all
        layers at once. And half of every layer costs a model with norms
        little, so that nothing drives rho up again.
        """
        wanted = math.log(rho / (1 - rho))
        with torch.no_grad():
            for block in self.routed:
                rows = states[block].flatten(0, 1).double()
                moments = rows.T @ rows / len(rows)
                # Few tokens leave directions open. This closes them.
                ridge = _START_RIDGE * moments.diagonal().mean()
                moments.diagonal().add_(ridge)
                found = torch.linalg.solve(moments, rows.mean(dim=0))
                self.weight[block] = (wanted * found).float()

    def tensors(self) -> dict[str, Tensor]:
        """As adapter files have them."""
        weight = self.weight.detach().to("cpu", torch.float32)
        return {f"router.{block}.weight": weight[block].clone()
                for block in self.routed}

    def load(self, tensors: dict[str, Tensor], path: str) -> None:
        """Raises: TrainingError: a router is missing or of another size."""
        with torch.no_grad():
            for block in self.routed:
                name, row = f"router.{block}.weight", self.weight[block]
                given = tensors.get(name)
                if given is None or given.shape != row.shape:
                    raise TrainingError(
                        f"{path}: tensor '{name}' is "
                        f"{None if given is None else tuple(given.shape)}, "
                        f"expected {tuple(row.shape)}; give the routers of "
                        "this model")
                row.copy_(given)


class Gates:
    """Hooks behind the layers of one model. `rhos` is of the last pass: one
    (batch,) for each layer that has a gate."""

    def __init__(self, model: nn.Module, source: "Routers | Tensor",
                 mode: Mode, prompt: int) -> None:
        """source: routers, or for each layer whether it runs."""
        self.source = source
        self.mode: Mode = mode
        self.prompt = prompt
        self.rhos: list[Tensor] = []
        layers = blocks_of(model)
        count = len(source if isinstance(source, Tensor) else source.weight)
        if len(layers) != count:
            raise TrainingError(f"gates: are {count}, the model has "
                                f"{len(layers)} layers")
        self._hooks = [
            layer.register_forward_hook(self._hook(block), with_kwargs=True)
            for block, layer in enumerate(layers)]

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def skipped(self) -> Tensor:
        """(batch,): how many layers the last pass did not need."""
        ran = torch.stack([rho.detach() >= THRESHOLD for rho in self.rhos])
        return (~ran).sum(dim=0).float()

    def _gated(self, block: int) -> bool:
        return isinstance(self.source, Tensor) or block in self.source.routed

    def _learns(self) -> bool:
        return (not isinstance(self.source, Tensor)
                and self.source.weight.requires_grad)

    def _rho(self, block: int, states: Tensor) -> Tensor:
        if isinstance(self.source, Tensor):
            return self.source[block].to(states.device).float().expand(
                states.shape[0])
        read = states[:, : self.prompt] if self.prompt else states
        return self.source.rho(block, read)

    def rhos_of(self, states: list[Tensor]) -> Tensor:
        """(routers, batch): what the routers say of `states` before each layer."""
        return torch.stack([self._rho(block, read)
                            for block, read in enumerate(states)
                            if self._gated(block)])

    def _gate(self, rho: Tensor, states: Tensor) -> Tensor:
        """(batch, tokens, 1)."""
        gate = rho
        if self.mode == "hard":
            # Forward as at inference. Where routers learn, backward as rho
            # (straight-through). LoRA would use that gradient to let more
            # layers run: to it, a gate is a constant.
            gate = (rho >= THRESHOLD).float()
            if self._learns():
                gate = gate + rho - rho.detach()
        gate = gate[:, None, None].expand(-1, states.shape[1], 1)
        if self.prompt:
            first = torch.arange(states.shape[1], device=states.device)
            gate = torch.where((first < self.prompt)[None, :, None], 1.0, gate)
        return gate

    def _hook(self, block: int) -> Any:
        def gated(module: nn.Module, args: tuple[Any, ...],
                  kwargs: dict[str, Any], output: Any) -> Any:
            states: Tensor = args[0] if args else kwargs["hidden_states"]
            if block == 0:
                self.rhos = []
            if not self._gated(block):
                return output
            rho = self._rho(block, states)
            self.rhos.append(rho)
            gate = self._gate(rho, states).to(states.dtype)
            whole = output[0] if isinstance(output, tuple) else output
            # Not h + g (out - h): this has the bits of either for 0 and 1.
            mixed = gate * whole + (1 - gate) * states
            if isinstance(output, tuple):
                return (mixed, *output[1:])
            return mixed

        return gated


def states_before(model: nn.Module, ids: Tensor) -> list[Tensor]:
    """What each layer of the model reads, (batch, tokens, hidden)."""
    states: list[Tensor] = []

    def seen(module: nn.Module, args: tuple[Any, ...],
             kwargs: dict[str, Any]) -> None:
        states.append(args[0] if args else kwargs["hidden_states"])

    hooks = [layer.register_forward_pre_hook(seen, with_kwargs=True)
             for layer in blocks_of(model)]
    with torch.no_grad():
        model(input_ids=ids, use_cache=False)
    for hook in hooks:
        hook.remove()
    return states


def unified_set(blocks: int, skip: int) -> list[int]:
    """The layers that Unified Layer Skipping (arXiv 2404.06954) leaves out: the
    first and the last run, and every interval-th between them until enough do.
    Where few are left out, the interval is 1 and these lie next to the end."""
    keep = blocks - skip
    interval = max(1, blocks // max(1, keep - 2 + 1))
    between = [i * interval for i in range(1, keep - 1)]
    kept = {0, blocks - 1, *between}
    return [block for block in range(blocks) if block not in kept]


def even_set(blocks: int, skip: int) -> list[int]:
    """As far from each other, and from both ends, as they can be."""
    return [round((i + 1) * (blocks - 1) / (skip + 1)) for i in range(skip)]


def random_set(blocks: int, skip: int, seed: int) -> list[int]:
    """Any but the first and the last."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(blocks - 2, generator=generator)[:skip] + 1
    return sorted(order.tolist())


def runs(blocks: int, skipped: list[int]) -> Tensor:
    """(blocks,): whether each runs."""
    gates = torch.ones(blocks)
    for block in skipped:
        if not 0 <= block < blocks:
            raise TrainingError(f"--layers: has {block}, the model has layers "
                                f"0 to {blocks - 1}")
        gates[block] = 0
    return gates
