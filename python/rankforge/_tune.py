"""Measuring which kernels are fastest on this machine."""

import os
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

from rankforge import _core
from rankforge._types import Path

Progress: TypeAlias = Callable[[int, int, float, str], object]


def tune(
    problems: Sequence[_core.Problem],
    path: Path,
    *,
    rigor: Literal["measure", "estimate", "patient"] = "measure",
    budget_seconds: float = 90,
    seed: int = 0,
    allow_noise: bool = False,
    journal: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> None:
    """Measures the kernels of `problems`, and writes a table to `path`.

    Runs for `budget_seconds` and more, without the GIL, and cannot be
    interrupted. The table appears whole or not at all; see `load_table`.

    Args:
        problems: with `density`, the share of channels that masks keep. What
            their `activations` say is measured, and nothing else.
        rigor: "estimate" measures less, in seconds; "patient" everything.
        budget_seconds: a soft limit.
        allow_noise: measures on a machine with other work, too.
        journal: file of all trials. `resume` goes on from it.
        progress: is called with (done, total, seconds left, message).

    Raises:
        Error: with Status.ENVIRONMENT where this machine is too busy for
            timings to mean anything. What `progress` raises is raised at the
            end.
    """
    _core.tune(
        list(problems),
        os.fspath(path),
        rigor,
        budget_seconds,
        seed,
        allow_noise,
        "" if journal is None else os.fspath(journal),
        resume,
        progress,
    )
