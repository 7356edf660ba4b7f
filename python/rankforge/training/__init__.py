"""Training beside RankForge: routers and LoRA that make up for what is skipped.

    python -m rankforge.training first   --model FOLDER --text FILE --out DIR
    python -m rankforge.training fixed   --model FOLDER --text FILE --out DIR
    python -m rankforge.training recover --model FOLDER --text FILE --out DIR
    python -m rankforge.training export  --out DIR

PyTorch computes, on the CPU or on one GPU. What comes out is a checkpoint of
Hugging Face and an adapter file, which the runtime loads. Needs
`pip install rankforge[training]`. Nothing here but the export needs the native
module, so that the folder also runs where that is not built.
"""

from rankforge.training._errors import TrainingError

__all__ = ["TrainingError"]
