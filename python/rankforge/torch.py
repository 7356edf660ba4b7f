"""Models of PyTorch and Transformers on our kernels.

    model = AutoModelForCausalLM.from_pretrained(folder)
    rankforge.torch.apply(model, dtype="bf16")
    model.generate(...)

`apply` puts modules that run plans in place of every torch.nn.Linear. One token
reads the weights once; a prompt reads them once for 16 tokens, with the same
masks and the same numbers. Inference on the CPU only: there are no gradients.

To torch.compile, a layer is one opaque call of the operator rankforge::run.
"""

import itertools
import os
import pathlib
import tempfile
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from rankforge import _core
from rankforge._adapter import Adapter, ChannelMask, RankAdapter, load_adapter
from rankforge._errors import Error, Status
from rankforge._types import Activations, Operation, Path, WeightType
from rankforge._weights import pack
from rankforge.training._stacked import STACKED

__all__ = [
    "GatedMlp",
    "MaskedLinear",
    "PackedLinear",
    "PackedMatrix",
    "PartOfRankLinear",
    "RankLinear",
    "apply",
    "set_context",
]

_AnyModule = TypeVar("_AnyModule", bound=nn.Module)
# Tokens that read the weights once, in a prompt: the most of one run.
_TOKENS = 16
_TYPE_OF: dict[torch.dtype, WeightType] = {
    torch.float32: "f32",
    torch.bfloat16: "bf16",
    torch.float16: "f16",
}
# What the operator knows layers by. A graph has only numbers.
_numbers = itertools.count()
_layers: "weakref.WeakValueDictionary[int, _Layer]" = (
    weakref.WeakValueDictionary())


# By number of threads; None: torch has no libgomp.
_contexts: dict[int, _core.Context | None] = {}


def _threads_of_torch() -> _core.Context | None:
    """As many threads as torch uses now, of its own; None: those of the process.

    Threads of torch wait busily after each of its operations. Others would
    have to wait for them.
    """
    threads = torch.get_num_threads()
    if threads not in _contexts:
        try:
            _contexts[threads] = _core.Context(threads, openmp=True)
        except Error:
            _contexts[threads] = None
    return _contexts[threads]


def _refused(message: str) -> Error:
    return Error(Status.ARGUMENT, message)


class Setup:
    """What all layers of a model share: threads, and what decides kernels."""

    def __init__(
        self,
        context: _core.Context | None = None,
        table: _core.Table | None = None,
        activations: Activations | None = None,
    ) -> None:
        self.context = context
        self.table = table
        self.activations = activations

    def threads(self) -> _core.Context | None:
        """What runs the work; None: the context of the process."""
        return self.context or _threads_of_torch()

    def __deepcopy__(self, memo: dict[int, object]) -> "Setup":
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Version 0.1 rounded no inputs, and wrote no activations.
        self.__dict__.update({"activations": "f32"} | state)


class PackedMatrix(nn.Module):
    """Packed weights as the state of a module: a tensor of bytes."""

    def __init__(
        self,
        matrix: Tensor,
        operation: Operation,
        dtype: WeightType,
        setup: Setup,
    ) -> None:
        super().__init__()
        self.operation: Operation = operation
        self.setup = setup
        self.weights = pack(
            matrix.detach(), operation, dtype=dtype,
            activations=setup.activations, table=setup.table,
            context=setup.threads())

    def get_extra_state(self) -> Tensor:
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "weights")
            self.weights.save(path)
            return torch.frombuffer(
                bytearray(path.read_bytes()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Takes weights of the same shape, in any dtype and layout.

        Raises:
            Error: the bytes are damaged, or weights of another shape.
        """
        # Mapped: the pages stay when the file has lost its name.
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "weights")
            path.write_bytes(state.contiguous().numpy().tobytes())
            weights = _core.Weights.open(path)
        shape = (self.weights.rows, self.weights.cols)
        if (weights.rows, weights.cols) != shape:
            raise _refused(f"state: weights ({weights.rows}, {weights.cols}), "
                           f"expected {shape}")
        self.weights = weights

    def plan(self, tokens: int) -> _core.Plan:
        return _core.Plan.gemv(
            self.weights, self.operation, tokens=tokens,
            activations=self.setup.activations, table=self.setup.table,
            context=self.setup.threads())

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        state["weights"] = self.get_extra_state()
        state["shape"] = (self.weights.rows, self.weights.cols)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        weights = state.pop("weights")
        rows, cols = state.pop("shape")
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        # Zeros of the shape, until the bytes are read.
        self.weights = pack(torch.zeros(rows, cols), self.operation)
        self.set_extra_state(weights)


class _Layer(nn.Module):
    """A plan for one token and one for several, and the operator's way to them.

    Buffers are f32 on the CPU whatever becomes of the model: kernels read them
    where they lie.
    """

    in_features: int
    out_features: int

    def __init__(self, in_features: int, out_features: int,
                 bias: Tensor | None) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.bias: Tensor | None
        self.register_buffer(
            "bias", None if bias is None else _as_f32(bias))
        self._plans: list[_core.Plan] | None = None
        self._planned: list[_core.Weights] = []
        self._register()

    def _register(self) -> None:
        self.number = next(_numbers)
        _layers[self.number] = self

    # What kinds of layers differ in.
    def _matrices(self) -> list[PackedMatrix]:
        raise NotImplementedError

    def _make_plan(self, tokens: int) -> _core.Plan:
        raise NotImplementedError

    def _mask(self) -> _core.Mask | None:
        return None

    def forget_plans(self) -> None:
        """The next run makes them anew."""
        self._plans = None

    def _plan_for(self, tokens: int) -> _core.Plan:
        weights = [matrix.weights for matrix in self._matrices()]
        if self._plans is None or any(
            old is not new for old, new in zip(self._planned, weights)
        ):
            self._planned = weights
            self._plans = [self._make_plan(1), self._plan_of_several()]
        return self._plans[0 if tokens == 1 else 1]

    def _plan_of_several(self) -> _core.Plan:
        try:
            return self._make_plan(_TOKENS)
        except Error as error:
            # A table may choose a layout for one token alone.
            if error.status is not Status.UNSUPPORTED:
                raise
            return self._make_plan(1)

    def run(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features), in the type of x."""
        if x.shape[-1] != self.in_features:
            raise _refused(f"x: shape {tuple(x.shape)}, expected (..., "
                           f"{self.in_features})")
        if x.device.type != "cpu":
            raise _refused(f"x: lies on {x.device}, expected the CPU")
        lines = x.detach().to(torch.float32).contiguous()
        y = torch.empty(*x.shape[:-1], self.out_features, dtype=torch.float32)
        tokens = lines.numel() // self.in_features
        if tokens > 0:
            bias = 0 if self.bias is None else self.bias.data_ptr()
            self._plan_for(tokens).run_at(
                lines.data_ptr(), y.data_ptr(), tokens, self._mask(), bias)
        return y.to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling() or (
            x.requires_grad and torch.is_grad_enabled()
        ):
            y: Tensor = _run(x, self.number, self.out_features)
            return y
        return self.run(x)

    def _apply(self, fn: Callable[[Tensor], Tensor],
               recurse: bool = True) -> "_Layer":
        for buffer in self.buffers():
            device = fn(buffer).device
            if device.type != "cpu":
                raise _refused(f"device: is {device}; layers of rankforge run "
                               "on the CPU alone")
        return self

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        super()._load_from_state_dict(*arguments, **options)
        self.forget_plans()

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        state["_plans"] = None
        state["_planned"] = []
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._register()

    def extra_repr(self) -> str:
        types = "+".join(m.weights.dtype for m in self._matrices())
        return (f"in_features={self.in_features}, "
                f"out_features={self.out_features}, dtype={types}, "
                f"bias={self.bias is not None}")


@torch.library.custom_op("rankforge::run", mutates_args=())
def _run(x: Tensor, layer: int, out_features: int) -> Tensor:
    found = _layers.get(layer)
    if found is None or found.out_features != out_features:
        raise _refused(f"layer: {layer} is none with {out_features} outputs; a "
                       "compiled model needs the layers it was compiled with")
    return found.run(x)


@_run.register_fake
def _(x: Tensor, layer: int, out_features: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], out_features)


def _as_f32(values: Tensor) -> Tensor:
    return values.detach().to(torch.float32, copy=True).contiguous()


def _from_numpy(array: Any) -> Tensor:
    """A copy, which is aligned as PyTorch aligns."""
    return torch.tensor(array, dtype=torch.float32)


class PackedLinear(_Layer):
    """x @ w.T + bias."""

    def __init__(self, linear: nn.Linear, dtype: WeightType,
                 setup: Setup) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias)
        self.matrix = PackedMatrix(linear.weight, "dense", dtype, setup)

    def _matrices(self) -> list[PackedMatrix]:
        return [self.matrix]

    def _make_plan(self, tokens: int) -> _core.Plan:
        return self.matrix.plan(tokens)


def _with_gains(linear: nn.Linear, mask: ChannelMask,
                first: int) -> tuple[Tensor, Tensor | None]:
    """Weight and bias with what was learned for the mask. The outputs of the
    layer are those of the mask from `first` on."""
    if mask.gain is None or mask.bias is None:
        return linear.weight, linear.bias
    bias = _from_numpy(mask.bias[first : first + linear.out_features])
    if linear.bias is not None:
        bias += _as_f32(linear.bias)
    return _as_f32(linear.weight) * _from_numpy(mask.gain), bias


class MaskedLinear(_Layer):
    """The same where inputs take part if |x_j| >= tau_j."""

    tau: Tensor

    def __init__(self, linear: nn.Linear, mask: ChannelMask, dtype: WeightType,
                 setup: Setup, first: int = 0) -> None:
        weight, bias = _with_gains(linear, mask, first)
        super().__init__(linear.in_features, linear.out_features, bias)
        self.register_buffer("tau", _from_numpy(mask.tau))
        self.matrix = PackedMatrix(weight, "column_mask", dtype, setup)

    def _matrices(self) -> list[PackedMatrix]:
        return [self.matrix]

    def _make_plan(self, tokens: int) -> _core.Plan:
        return self.matrix.plan(tokens)

    def _mask(self) -> _core.Mask:
        return _core.Mask.threshold(self.tau.numpy())


class RankLinear(_Layer):
    """A (m(z) * z) + bias, z = B x, in place of one linear layer or several."""

    tau: Tensor

    def __init__(self, rank: RankAdapter, bias: Tensor | None,
                 dtype: WeightType, setup: Setup) -> None:
        super().__init__(rank.b.shape[1], rank.a.shape[0], bias)
        self.register_buffer("tau", _from_numpy(rank.tau))
        self.b = PackedMatrix(
            torch.tensor(rank.b), "dense", dtype, setup)
        self.a = PackedMatrix(
            torch.tensor(rank.a), "column_mask", dtype, setup)

    def _matrices(self) -> list[PackedMatrix]:
        return [self.b, self.a]

    def _make_plan(self, tokens: int) -> _core.Plan:
        setup = self.b.setup
        return _core.Plan.rank_adapter(
            self.b.weights, self.a.weights,
            _core.Mask.threshold(self.tau.numpy()), tokens=tokens,
            activations=setup.activations, table=setup.table,
            context=setup.threads())


class PartOfRankLinear(nn.Module):
    """Some outputs of a RankLinear that stands for q, k and v together.

    They are asked for one after the other, with one input: the first computes
    all of them.
    """

    def __init__(self, whole: RankLinear, first: int, size: int,
                 owns: bool) -> None:
        super().__init__()
        # One of the parts has it as a child, so that its state is saved once.
        if owns:
            self.whole = whole
        self._whole = (whole,)
        self.in_features = whole.in_features
        self.out_features = size
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        whole, last = self._whole[0], self.first + self.out_features
        if torch.compiler.is_compiling():
            y: Tensor = _part_in_graph(x, whole.number, self.first, last)
            return y
        return _whole_output(whole, x, whole)[..., self.first : last]

    def extra_repr(self) -> str:
        return f"outputs {self.first} to {self.first + self.out_features}"


# The last input and output of a RankLinear of several parts.
_Kept = tuple["weakref.ref[Tensor]", int, Tensor]
_kept: "weakref.WeakKeyDictionary[RankLinear, _Kept]" = (
    weakref.WeakKeyDictionary())


def _whole_output(whole: RankLinear, x: Tensor,
                  compute: Callable[[Tensor], Tensor]) -> Tensor:
    """What `compute` makes of x; of an x that has not changed, once."""
    kept = _kept.get(whole)
    version = 0 if x.is_inference() else x._version
    if kept is not None and kept[0]() is x and kept[1] == version:
        return kept[2]
    y = compute(x)
    _kept[whole] = (weakref.ref(x), version, y)
    return y


@torch.compiler.allow_in_graph
def _part_in_graph(x: Tensor, layer: int, first: int, last: int) -> Tensor:
    """Outputs of a whole RankLinear. Dynamo does not look inside, and what
    traces its graph runs this with one tensor for each x of the graph: the parts
    of one x become slices of one call."""
    whole = _layers.get(layer)
    if not isinstance(whole, RankLinear):
        raise _refused(f"layer: {layer} is no adapter; a compiled model needs "
                       "the layers it was compiled with")

    def call(given: Tensor) -> Tensor:
        y: Tensor = _run(given, layer, whole.out_features)
        return y

    return _whole_output(whole, x, call)[..., first:last]


class GatedMlp(_Layer):
    """down(m * act(gate) * up), where |act(gate)| >= tau decides which rows of
    up and columns of down are read."""

    tau: Tensor

    def __init__(self, mlp: nn.Module, activation: str, mask: ChannelMask,
                 dtype: WeightType, setup: Setup) -> None:
        gate, up, down = (_linear(mlp, name) for name in
                          ("gate_proj", "up_proj", "down_proj"))
        for linear in (gate, up, down):
            if linear.bias is not None:
                raise _refused(f"{mask.module}: a layer of the MLP has a bias, "
                               "which its gate mask does not know")
        super().__init__(gate.in_features, down.out_features, None)
        self.activation = activation
        self.register_buffer("tau", _from_numpy(mask.tau))
        self.gate = PackedMatrix(gate.weight, "dense", dtype, setup)
        self.up = PackedMatrix(up.weight, "row_mask", dtype, setup)
        self.down = PackedMatrix(down.weight, "column_mask", dtype, setup)

    def _matrices(self) -> list[PackedMatrix]:
        return [self.gate, self.up, self.down]

    def _make_plan(self, tokens: int) -> _core.Plan:
        setup = self.gate.setup
        return _core.Plan.gated_mlp(
            self.gate.weights, self.down.weights, self.up.weights,
            activation=self.activation,
            gate_rule=_core.Mask.threshold(self.tau.numpy()), tokens=tokens,
            activations=setup.activations, table=setup.table,
            context=setup.threads())


# Activations by Transformers' names.
_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}


def _linear(parent: nn.Module, name: str) -> nn.Linear:
    found = getattr(parent, name, None)
    if not isinstance(found, nn.Linear):
        raise _refused(f"{type(parent).__name__}.{name}: is no torch.nn.Linear")
    return found


class _Replacing:
    """Puts modules in place of the linear layers of a model."""

    def __init__(self, model: nn.Module, dtype: WeightType | None,
                 setup: Setup) -> None:
        self.model = model
        self.dtype = dtype
        self.setup = setup

    def type_of(self, linear: nn.Linear) -> WeightType:
        if self.dtype is not None:
            return self.dtype
        found = _TYPE_OF.get(linear.weight.dtype)
        if found is None:
            raise _refused(f"dtype: a weight is of {linear.weight.dtype}; name "
                           "the type to store it in")
        return found

    def parent_of(self, name: str) -> nn.Module:
        try:
            return self.model.get_submodule(name.rpartition(".")[0])
        except AttributeError:
            raise _refused(f"adapter: has {name}, which the model has not"
                           ) from None

    def put(self, name: str, module: nn.Module) -> None:
        setattr(self.parent_of(name), name.rpartition(".")[2], module)

    def parts(self, name: str) -> list[tuple[str, nn.Linear]]:
        """The linear layers that a name of the adapter stands for."""
        parent, (folder, _, last) = self.parent_of(name), name.rpartition(".")
        if isinstance(getattr(parent, last, None), nn.Linear):
            return [(name, _linear(parent, last))]
        if last not in STACKED:
            raise _refused(f"adapter: has {name}, which the model has not, or "
                           "two parts of the adapter replace it")
        return [(f"{folder}.{part}", _linear(parent, part))
                for part in STACKED[last]]

    def mask(self, name: str, mask: ChannelMask) -> None:
        parts = self.parts(name)
        rows = sum(linear.out_features for _, linear in parts)
        if mask.bias is not None and len(mask.bias) != rows:
            raise _refused(f"adapter: {name} has {len(mask.bias)} outputs, the "
                           f"model has {rows}")
        first = 0
        for part, linear in parts:
            if linear.in_features != len(mask.tau):
                raise _refused(f"adapter: {name} has {len(mask.tau)} inputs, "
                               f"{part} has {linear.in_features}")
            self.put(part, MaskedLinear(linear, mask, self.type_of(linear),
                                        self.setup, first))
            first += linear.out_features

    def rank(self, name: str, rank: RankAdapter) -> None:
        parts = self.parts(name)
        rows = sum(linear.out_features for _, linear in parts)
        cols = parts[0][1].in_features
        if (rank.a.shape[0], rank.b.shape[1]) != (rows, cols):
            raise _refused(f"adapter: {name} is ({rank.a.shape[0]}, "
                           f"{rank.b.shape[1]}), the model has ({rows}, {cols})")
        biases = [linear.bias for _, linear in parts]
        bias = None
        if biases[0] is not None:
            bias = torch.cat([_as_f32(one) for one in biases])
        whole = RankLinear(rank, bias, self.type_of(parts[0][1]), self.setup)
        if len(parts) == 1:
            return self.put(name, whole)
        first = 0
        for part, linear in parts:
            self.put(part, PartOfRankLinear(
                whole, first, linear.out_features, owns=first == 0))
            first += linear.out_features

    def gate(self, name: str, mask: ChannelMask) -> None:
        folder = name.rpartition(".")[0]
        act = getattr(getattr(self.model, "config", None), "hidden_act", None)
        act = act or getattr(
            getattr(self.model, "config", None), "hidden_activation", None)
        if act not in _ACTIVATIONS:
            raise _refused(f"adapter: {name} is a gate mask, for which the "
                           f"activation '{act}' is not known")
        mlp = self.parent_of(name)
        self.put(folder, GatedMlp(
            mlp, _ACTIVATIONS[act], mask,
            self.type_of(_linear(mlp, "gate_proj")), self.setup))

    def rest(self) -> None:
        for name, module in list(self.model.named_modules()):
            if type(module) is nn.Linear:
                self.put(name, PackedLinear(module, self.type_of(module),
                                            self.setup))


def _adapter_of(model: nn.Module, adapter: Adapter | Path,
                checkpoint: Path | None) -> Adapter:
    if isinstance(adapter, Adapter):
        return adapter
    folder = checkpoint or getattr(
        getattr(model, "config", None), "name_or_path", "")
    if not folder or not os.path.exists(folder):
        raise _refused("checkpoint: is not known; name the folder that the "
                       "adapter was made for")
    return load_adapter(adapter, folder)


def apply(
    model: _AnyModule,
    *,
    dtype: WeightType | None = None,
    table: _core.Table | None = None,
    adapter: Adapter | Path | None = None,
    checkpoint: Path | None = None,
    context: _core.Context | None = None,
    activations: Activations | None = None,
) -> _AnyModule:
    """Replaces every torch.nn.Linear of the model by a layer on our kernels.

    In place. The weights of the layers are packed and let go one by one;
    embeddings, norms and attention stay as they are. The state of the layers is
    part of `state_dict`, and loads into a model of the same checkpoint shape
    and adapter after `apply`.

    Args:
        model: of Transformers (Llama, Mistral, Qwen2, Gemma, GPT-NeoX and
            others), or any other module, on the CPU.
        dtype: how weights are stored. None: each as the model has it.
        table: see `rankforge.load_table`.
        adapter: a file of `rankforge adapt`, or what `load_adapter` made of
            it. What it has for layers that the model lacks is an Error.
        checkpoint: the folder that the adapter belongs to. None: where the
            model was loaded from.
        context: threads. None: those of torch, as many as it has when a layer
            runs for the first time.
        activations: what layers round their inputs to: "f32" nothing, "i8" for
            integer weights, "bf16" for bf16 weights. None: "i8" for integer
            weights, else "f32". Rounded, each token of a prompt reads the
            weights for itself.

    Returns:
        model.

    Raises:
        Error: an adapter of another model. Layers that were replaced before
            stay replaced.
    """
    model.eval()
    replacing = _Replacing(model, dtype, Setup(context, table, activations))
    if adapter is not None:
        loaded = _adapter_of(model, adapter, checkpoint)
        if loaded.routers or loaded.skip_layers:
            raise _refused("adapter: leaves out layers after a prompt, which "
                           "models of PyTorch do not; run it by rankforge.Model")
        for name, gate in loaded.gates.items():
            replacing.gate(name, gate)
        for name, rank in loaded.ranks.items():
            replacing.rank(name, rank)
        for name, mask in loaded.masks.items():
            replacing.mask(name, mask)
    replacing.rest()
    return model


def set_context(model: nn.Module, context: _core.Context | None) -> None:
    """Gives the layers that `apply` made for a model other threads.

    Their weights and their numbers stay. Of two models that share layers or were
    copied from each other, both change. None: those of torch, as many as it has
    when a layer runs next.
    """
    for module in model.modules():
        if isinstance(module, PackedMatrix):
            module.setup.context = context
        elif isinstance(module, _Layer):
            module.forget_plans()
