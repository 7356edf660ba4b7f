"""Checkpoints that run."""

import os
import warnings
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy
from numpy.typing import NDArray

from rankforge import _core
from rankforge._errors import Notice
from rankforge._types import Activations, Path, TokenIds, WeightType


class Token(NamedTuple):
    """A generated token, and what it adds to the text.

    The texts add up to the generated text: a character of several tokens comes
    with the last of them, and so does what might have begun a stop text.
    """

    id: int
    text: str


class Layers(NamedTuple):
    """What a prompt decided about the layers of its sequence.

    skipped: those that it does without; rho: the mean sigmoid of each router;
    freed_bytes: of keys and values that went back to the system.
    """

    skipped: list[int]
    rho: dict[int, float]
    freed_bytes: int


class Drafts(NamedTuple):
    """What drafts were worth so far.

    passes: through the model, after the prompt's; decoded: tokens that came of
    them; drafted: tokens that ran as part of a draft; accepted: of those, how
    many came out; failed: drafts that overflowed, whose passes ran again
    without.
    """

    passes: int
    decoded: int
    drafted: int
    accepted: int
    failed: int


class Generation(Iterator[Token]):
    """The tokens of `Model.generate`, each computed when it is asked for.

    One whose text depends on the next is given out when that is known.
    """

    def __init__(self, stream: _core.TokenStream) -> None:
        self._stream = stream

    def __next__(self) -> Token:
        token = self._stream.next()
        if token is None:
            raise StopIteration
        return Token(*token)

    @property
    def ended(self) -> str | None:
        """Why it ended: "eos", "stop", "length" or "context". None: it has
        not."""
        return self._stream.ended or None

    @property
    def layers(self) -> Layers | None:
        """What the prompt decided. None: no token has been computed, or the
        model never leaves out layers."""
        layers = self._stream.layers
        return None if layers is None else Layers(*layers)

    @property
    def drafts(self) -> Drafts:
        """What `lookup` of `Model.generate` was worth."""
        return Drafts(*self._stream.drafts)

    def text(self) -> str:
        """The text of all tokens that are left. A character that lacks a
        token at the end becomes U+FFFD."""
        return "".join(token.text for token in self)


class Model:
    """A checkpoint on our kernels. One thread at a time runs it; others wait.

    Made by `Model.load`.
    """

    def __init__(self, core: _core.Model) -> None:
        self._core = core

    @classmethod
    def load(
        cls,
        path: Path,
        dtype: WeightType | Literal["stored"] = "f32",
        *,
        adapter: Path | None = None,
        table: Path | None = None,
        pack: Path | None = None,
        threads: int = 0,
        lm_head_dtype: WeightType | Literal["stored"] | None = None,
        kv_dtype: WeightType | None = None,
        activations: Activations | None = None,
        tau_scale: float = 1.0,
        skip_layers: Sequence[int] = (),
        skip_threshold: float | None = None,
        max_skip: int | None = None,
        always_on: tuple[int, int] | None = None,
    ) -> "Model":
        """Reads a Hugging Face folder or a GGUF file, and packs its weights.

        What of the files is not honoured is a warning of class Notice.

        Args:
            dtype: how weights are kept. "stored": each tensor in what loses
                least of it as the checkpoint has it.
            adapter: file of `rankforge adapt`, made for this checkpoint.
            table: file of `rankforge tune`. None: the one that the variable
                RANKFORGE_TABLE names, else the shipped one.
            pack: file of `rankforge pack`, made for this checkpoint, adapter,
                table and these types: loading packs nothing.
            threads: 0: all that this process can keep busy.
            lm_head_dtype: None: as dtype.
            kv_dtype: of the KV cache, "f32", "bf16", "f16" or "i8". None: what
                `rankforge generate` takes for the dtype.
            activations: what products round their inputs to: "f32" nothing,
                "i8" for integer weights, "bf16" for bf16 weights. None: "i8"
                for integer weights, else "f32".
            tau_scale: multiplies every threshold of the adapter.
            skip_layers: layers that `generate` leaves out once the prompt has
                run, whatever the adapter says; the first is 0.
            skip_threshold: it leaves out layers whose rho is below this. None:
                what the adapter's routers were trained for.
            max_skip: of them, at most so many, those of the smallest rho.
            always_on: so many layers at the start and at the end always run.
                None: one each.

        Raises:
            Error: a file that is missing, damaged or of a kind not supported.
        """
        core = _core.load_model(
            os.fspath(path),
            dtype,
            lm_head_dtype or "",
            kv_dtype or "",
            activations or "",
            "" if adapter is None else os.fspath(adapter),
            "" if table is None else os.fspath(table),
            "" if pack is None else os.fspath(pack),
            threads,
            tau_scale,
            list(skip_layers),
            skip_threshold,
            max_skip,
            always_on,
        )
        for note in core.notes:
            warnings.warn(note, Notice, stacklevel=2)
        return cls(core)

    @property
    def family(self) -> str:
        """The model_type of its config.json."""
        return self._core.family

    @property
    def vocab(self) -> int:
        """The number of logits."""
        return self._core.vocab

    @property
    def max_positions(self) -> int:
        """The most tokens of a sequence."""
        return self._core.max_positions

    def encode(self, text: str) -> list[int]:
        """The ids of a text from its start, with BOS where the tokenizer does.

        Raises:
            Error: the checkpoint has no tokenizer that can be read.
        """
        return self._core.encode(text)

    def decode(self, ids: TokenIds) -> str:
        """The text of ids; special tokens stand for none."""
        return self._core.decode(list(ids))

    def logits(self, ids: TokenIds) -> NDArray[numpy.float32]:
        """float32 (len(ids), vocab): after each of `ids`, run as one sequence.

        All layers run: a sequence of its own is a prompt.
        """
        return self._core.logits(list(ids))

    def generate(
        self,
        prompt: str | TokenIds,
        max_tokens: int = 128,
        *,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int = 0,
        lookup: int = 0,
        stop: str | Sequence[str] = (),
    ) -> Generation:
        """Continues a prompt, token by token, up to an end of text.

            for token in model.generate("Once upon a time"):
                print(token.text, end="", flush=True)

        Args:
            prompt: a text, or token ids (at least one).
            max_tokens: the context may end before.
            temperature: 0: always the likeliest token.
            top_k: of so many of the likeliest tokens; 0: all.
            top_p: of the likeliest tokens whose probabilities add up to this.
            min_p: of tokens with at least this share of the likeliest one's
                probability.
            repetition_penalty: divides logits of tokens of the text so far
                (multiplies negative ones).
            lookup: drafts up to so many tokens, at most 15, from what followed
                the last ones before, and checks them in one pass: the same
                tokens, sooner where a text repeats. 0: no drafts.
            stop: text that ends the generated text, or several: it ends before
                the first of them. The tokens of it are given out, too.

        Raises:
            Error: an option out of range, or a prompt that fills the context.
        """
        ids = self.encode(prompt) if isinstance(prompt, str) else list(prompt)
        return Generation(
            _core.TokenStream(
                self._core, ids, max_tokens, temperature, top_k, top_p, min_p,
                repetition_penalty, seed, lookup,
                [stop] if isinstance(stop, str) else list(stop),
            )
        )
