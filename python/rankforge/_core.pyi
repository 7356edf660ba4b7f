"""The native module. `rankforge` re-exports what users need of it."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, overload

import numpy
from numpy.typing import NDArray

from rankforge._types import Activations, Array, Operation, Path, WeightType

_Out = TypeVar("_Out", bound=Array)

def version() -> str: ...
def weight_types() -> tuple[str, ...]: ...
def explain(problem: Problem, table: Table | None = None) -> str:
    """Lines for people: which layout, threads and kernels the problem gets,
    from where, and what was measured."""

class Context:
    """Threads that run the work."""

    def __init__(self, threads: int = 0, *, openmp: bool = False) -> None:
        """threads: 0: as many as the CPUs and the CPU quota of this process
        keep busy; at most 4096. openmp: on threads of the OpenMP library that
        this process has loaded (libgomp, which torch brings), and not on
        threads of its own; threads=0 then means as many as OpenMP uses.

        Raises:
            Error: the threads cannot be started, or no libgomp is loaded.
        """
    @property
    def threads(self) -> int:
        """The threads that a run may use."""

class Problem:
    """What is to be computed: y (rows,) = w @ x (cols,)."""

    def __init__(
        self,
        operation: Operation,
        rows: int,
        cols: int,
        dtype: WeightType = "f32",
        *,
        granularity: int = 1,
        tokens: int = 1,
        threads: int = 0,
        density: float = 0.0,
        activations: Activations | None = None,
    ) -> None:
        """density: the share of channels that masks keep, which `tune` reads;
        0: 0.5, or 1 for "dense". activations: what inputs are rounded to; None:
        "i8" for integer weights, else "f32".

        Raises:
            Error: an unknown operation or dtype.
        """
    @property
    def operation(self) -> str: ...
    @property
    def rows(self) -> int: ...
    @property
    def cols(self) -> int: ...
    @property
    def dtype(self) -> str: ...
    @property
    def granularity(self) -> int: ...
    @property
    def tokens(self) -> int: ...
    @property
    def threads(self) -> int: ...
    @property
    def density(self) -> float: ...
    @property
    def activations(self) -> str | None: ...

class Table:
    """What tuning found, opened by `load_table`."""

    def __init__(self, path: str) -> None: ...
    @property
    def notes(self) -> str:
        """What could not be honoured, one sentence per line."""

class Source:
    """A matrix of the caller's, made by `blocks` or inside `pack`."""

    def __init__(self, data: Array, format: str = "", cols: int = 0) -> None: ...
    @property
    def rows(self) -> int: ...
    @property
    def cols(self) -> int: ...

class Weights:
    """A matrix in the order that kernels read. Plans share it."""

    @staticmethod
    def open(path: Path) -> Weights:
        """Maps a file of `save`, which must stay as it is until no plan uses
        the weights.

        Raises:
            Error: a damaged file, or one of a library that packs otherwise.
        """
    def save(self, path: Path) -> None:
        """Writes them to a file, which appears whole or not at all.

        Raises:
            Error: the file cannot be written, or the weights were adopted.
        """
    @property
    def rows(self) -> int: ...
    @property
    def cols(self) -> int: ...
    @property
    def dtype(self) -> str: ...
    @property
    def nbytes(self) -> int:
        """Bytes that kernels read, with padding."""
    @property
    def layout(self) -> str:
        """"out_in": rows, "in_out": columns, "rows16": interleaved rows, or
        panels of columns."""
    @property
    def adopted(self) -> bool:
        """Whether they are read where the caller has them."""
    @property
    def quantization_error(self) -> float:
        """Root of the sum of squared errors of rounding to integers, relative
        to that of the weights; 0 for other types."""

def pack(
    sources: list[Source],
    operation: str,
    dtype: str,
    granularity: int,
    tokens: int,
    threads: int,
    activations: str | None,
    table: Table | None,
    context: Context | None,
) -> Weights: ...
def adopt(
    source: Source,
    operation: str,
    granularity: int,
    tokens: int,
    threads: int,
    context: Context | None,
) -> Weights: ...

class Mask:
    """Which channels take part: inputs of a column mask, outputs of a row mask.

    There are as many groups as cover the channels with `granularity` of them
    each. Arrays are kept and read in each run, never copied: whoever changes
    them changes the mask.
    """

    @staticmethod
    def threshold(
        tau: float | Array,
        *,
        score: Array | None = None,
        mu: Array | None = None,
        strict: bool = False,
        signed: bool = False,
    ) -> Mask:
        """Keeps channel j if |score_j - mu_j| >= tau_j; NaN drops it.

        Args:
            tau: a number, or float32 (channels,).
            score: float32 (channels,). None: the input itself, of each token;
                row masks need it.
            mu: float32 (channels,). None: 0.
            strict: > in place of >=.
            signed: without the absolute value.
        """
    @staticmethod
    def top_k(
        k: int,
        *,
        score: Array | None = None,
        mu: Array | None = None,
        signed: bool = False,
    ) -> Mask:
        """Keeps the k groups with the largest |score - mu|, of equal ones the
        first.

        Args:
            score, mu: as for `threshold`, but (groups,). None as score: the
                input itself, for granularity 1.
        """
    @staticmethod
    def bits(bits: Array) -> Mask:
        """uint64, a word for 64 groups: bit g % 64 of word g // 64."""
    @staticmethod
    def bytes(bytes: Array) -> Mask:
        """uint8 or bool (groups,): not 0 is kept."""
    @staticmethod
    def indices(indices: Array) -> Mask:
        """uint32, ascending: the groups that are kept."""
    def make_into(
        self,
        bits: Array,
        values: Array | None = None,
        count: int = 0,
        granularity: int = 1,
    ) -> int:
        """Writes the mask as bits, for several runs that share it.

        Args:
            bits: uint64, a word for 64 groups.
            values: float32 (channels,), in place of a score that is None.
            count: the number of channels, where there are no values.

        Returns:
            The number of groups that are kept.
        """

class Plan:
    """One layer, bound to its weights and to the kernels for every density.

    Threads may call one plan at the same time; the GIL is released while it
    runs.
    """

    @staticmethod
    def gemv(
        weights: Weights,
        operation: Operation | None = None,
        *,
        granularity: int | None = None,
        tokens: int | None = None,
        threads: int | None = None,
        activations: Activations | None = None,
        table: Table | None = None,
        context: Context | None = None,
    ) -> Plan:
        """y = w @ x, with the mask that a call brings unless it is "dense".

        What is None is as the weights were packed. Weights of several tokens
        serve one token, too.

        Raises:
            Error: the weights lie in a layout without such kernels.
        """
    @staticmethod
    def rank_adapter(
        b: Weights,
        a: Weights,
        rule: Mask,
        *,
        tokens: int = 1,
        threads: int = 0,
        activations: Activations | None = None,
        table: Table | None = None,
        context: Context | None = None,
    ) -> Plan:
        """y = A (m(z) * z), z = B x.

        Args:
            b: (ranks, cols), packed for "dense".
            a: (rows, ranks), packed for "column_mask".
            rule: m, a threshold over z without a score; its arrays are copied.
            activations: of the products that can have them. None: those that b
                and a were packed with.

        Raises:
            Error: no activations are given, and b and a were packed with
                different ones.
        """
    @staticmethod
    def gated_mlp(
        gate: Weights,
        down: Weights,
        up: Weights | None = None,
        *,
        activation: str = "silu",
        gate_a: Weights | None = None,
        gate_a_rule: Mask | None = None,
        up_a: Weights | None = None,
        up_a_rule: Mask | None = None,
        gate_rule: Mask | None = None,
        hidden_rule: Mask | None = None,
        tokens: int = 1,
        threads: int = 0,
        activations: Activations | None = None,
        table: Table | None = None,
        context: Context | None = None,
    ) -> Plan:
        """y = D (m(h) * h), h = act(G x) * (U x).

        Args:
            gate, up: G and U (hidden, cols), packed for "dense". Or B of a
                rank adapter, with its A (hidden, ranks), packed for
                "column_mask", in gate_a, up_a, and its rule over z. up of
                None: h = act(G x).
            down: D (rows, hidden), packed for "column_mask".
            activation: "silu", "gelu" or "gelu_tanh".
            gate_rule: a threshold over act(G x), which decides alone which
                rows of U and columns of D are read; then up is packed for
                "row_mask".
            hidden_rule: m, a threshold over h.
            activations: of the products that can have them. None: those that
                the weights were packed with.

        Raises:
            Error: no activations are given, and the weights were packed with
                different ones.
        """
    @overload
    def __call__(
        self,
        x: Array,
        *,
        mask: Mask | Sequence[Mask] | None = None,
        out: None = None,
        bias: Array | None = None,
        accumulate: bool = False,
        kept: Array | None = None,
    ) -> NDArray[numpy.float32]: ...
    @overload
    def __call__(
        self,
        x: Array,
        *,
        mask: Mask | Sequence[Mask] | None = None,
        out: _Out,
        bias: Array | None = None,
        accumulate: bool = False,
        kept: Array | None = None,
    ) -> _Out:
        """Runs the plan.

        Args:
            x: float32 (cols,) or (tokens, cols), rows contiguous.
            mask: for all tokens, or one for each.
            out: float32, x's dimensions with rows in place of cols; overlaps
                no input. None: a new NumPy array.
            bias: float32 (rows,), added to y of each token.
            accumulate: adds to what out has; without a bias.
            kept: uint64 (tokens,), gets what each token kept: groups of the
                mask, ranks of an adapter, columns of down of an MLP.

        Returns:
            out.

        Raises:
            Error: an array of another shape, type or order than said here.
                Nothing is copied.
        """
    def run_at(
        self,
        x: int,
        y: int,
        tokens: int,
        mask: Mask | Sequence[Mask] | None = None,
        bias: int = 0,
    ) -> None:
        """Runs the plan on arrays at these addresses, which nobody checks:
        x (tokens, cols), y (tokens, rows), bias (rows,) or 0; contiguous
        float32. `tokens` may be more than those of a run."""
    def explain(self) -> str:
        """Lines for people: the products of the plan and their kernels."""
    @property
    def rows(self) -> int: ...
    @property
    def cols(self) -> int: ...
    @property
    def tokens(self) -> int:
        """Most tokens of one run."""

def tune(
    problems: list[Problem],
    path: str,
    rigor: str,
    budget_seconds: float,
    seed: int,
    allow_noise: bool,
    journal: str,
    resume: bool,
    progress: Callable[[int, int, float, str], object] | None,
) -> None: ...
def load_adapter(path: str, checkpoint: str) -> dict[str, Any]: ...
def checkpoint_hashes(path: str) -> tuple[str, str]:
    """What an adapter's metadata say of this checkpoint: a hash of headers and
    samples, and one of every byte."""
def content_hash(pieces: list[bytes]) -> str:
    """The hash that the last tensor of an adapter file holds."""
def save_routers(
    path: str,
    checkpoint: str,
    routers: dict[int, list[float]],
    threshold: float,
    method: str,
    parameters: dict[str, str],
    base: str,
) -> None: ...

class Model:
    @property
    def has_tokenizer(self) -> bool: ...
    @property
    def notes(self) -> list[str]: ...
    @property
    def family(self) -> str: ...
    @property
    def vocab(self) -> int: ...
    @property
    def max_positions(self) -> int: ...
    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: list[int]) -> str: ...
    def logits(self, ids: list[int]) -> NDArray[numpy.float32]: ...

class TokenStream:
    def __init__(
        self,
        model: Model,
        prompt: list[int],
        count: int,
        temperature: float,
        top_k: int,
        top_p: float,
        min_p: float,
        repetition_penalty: float,
        seed: int,
        lookup: int,
        stops: list[str],
    ) -> None: ...
    def next(self) -> tuple[int, str] | None: ...
    @property
    def ended(self) -> str: ...
    @property
    def layers(self) -> tuple[list[int], dict[int, float], int] | None: ...
    @property
    def drafts(self) -> tuple[int, int, int, int, int]: ...

def load_model(
    path: str,
    dtype: str,
    lm_head_dtype: str,
    kv_dtype: str,
    activations: str,
    adapter: str,
    table: str,
    pack: str,
    threads: int,
    tau_scale: float,
    skip_layers: list[int],
    skip_threshold: float | None,
    max_skip: int | None,
    always_on: tuple[int, int] | None,
) -> Model: ...
