"""The exception of this room, and what must be installed."""

import importlib.util

PACKAGES = ("torch", "transformers", "peft", "safetensors", "tqdm")


class TrainingError(Exception):
    """What was refused: the file, the field, its value and the next step."""


def require_packages() -> None:
    """Raises: TrainingError: a package of PACKAGES is not installed."""
    missing = [name for name in PACKAGES
               if importlib.util.find_spec(name) is None]
    if missing:
        raise TrainingError(
            f"{', '.join(missing)}: not installed, and training needs it; "
            "run pip install rankforge[training]")
