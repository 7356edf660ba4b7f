"""The command line of python -m rankforge.training."""

import argparse
import pathlib
import sys
from collections.abc import Sequence

import torch

from rankforge.training import _recipes as recipes
from rankforge.training._errors import TrainingError
from rankforge.training._lora import LoraSettings
from rankforge.training._loop import LoopSettings


def _count(least: int) -> "type[int]":
    def parse(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value}: at least {least}")
        return value

    return parse  # type: ignore[return-value]


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: a positive number")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text}: 0 or more, below 1")
    return value


def _ends(text: str) -> tuple[int, int]:
    first, last = (int(part) for part in text.split(","))
    if first < 0 or last < 0:
        raise argparse.ArgumentTypeError(f"{text}: two numbers from 0 on")
    return first, last


def _probability(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text}: above 0, below 1")
    return value


def _layers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _add_tokens(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--model", required=True, help="folder of a Hugging Face checkpoint")
    add("--text", nargs="+", default=[], metavar="FILE",
        help="texts to learn from; the end of the first is held out")
    add("--ids", nargs="+", default=[], metavar="FILE",
        help="token ids to learn from: JSON lists, or safetensors")
    add("--trust-remote-code", action="store_true",
        help="run the code that a checkpoint brings (as those of a3 do)")
    loop = LoopSettings()
    add("--window", type=_count(4), default=256, help="tokens of a window")
    add("--held-out", type=_count(1), default=16, help="windows")
    add("--batch", type=_count(1), default=loop.batch, help="windows of a pass")
    add("--seed", type=_count(0), default=loop.seed)
    add("--dtype", choices=["f32", "bf16"], default=loop.dtype,
        help="of products; weights are f32")
    add("--device", default="auto", help="cpu, cuda, cuda:N or auto")


def _add_run(command: argparse.ArgumentParser, loss: str) -> None:
    _add_tokens(command)
    add = command.add_argument
    add("--out", required=True, help="folder of the run")
    add("--resume", action="store_true", help="go on with the run in --out")
    add("--loss", choices=["kl", "ce"], default=loss,
        help="of LoRA: divergence from the dense model, or cross entropy")
    add("--teacher", help="folder of the dense model, if not --model")
    add("--no-export", action="store_true",
        help="write no checkpoint; `export` does it later")
    add("--save-dtype", choices=["stored", "f32", "bf16"], default="stored",
        help="of the merged checkpoint")
    loop = LoopSettings()
    add("--steps", type=_count(0), default=loop.steps, help="of LoRA")
    add("--accumulate", type=_count(1), default=loop.accumulate,
        help="passes of a step")
    add("--lr", type=_positive, default=loop.lr, help="of LoRA")
    add("--warmup", type=_share, default=loop.warmup, help="share of the steps")
    add("--clip", type=_positive, default=loop.clip, help="norm of a gradient")
    add("--eval-every", type=_count(1), default=loop.eval_every, help="steps")
    add("--patience", type=_count(1), default=loop.patience,
        help="evaluations without a better score before it stops")
    add("--max-seconds", type=float, default=loop.max_seconds,
        help="after which a phase stops with its best; 0: none")
    lora = LoraSettings()
    add("--lora-rank", type=_count(1), default=lora.rank)
    add("--lora-alpha", type=_positive, default=lora.alpha)
    add("--lora-dropout", type=_share, default=lora.dropout)
    add("--lora-dtype", choices=["f32", "bf16"], default="f32",
        help="of the file of LoRA")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rankforge.training",
        description="Routers and LoRA that make up for what is skipped: a "
        "checkpoint and an adapter that rankforge loads (docs/training.md).",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    kind = argparse.ArgumentDefaultsHelpFormatter

    first = commands.add_parser(
        "first", formatter_class=kind,
        help="FiRST: routers that skip layers, then LoRA")
    _add_run(first, "ce")
    of_first = recipes.FirstSettings()
    first.add_argument("--alpha", type=_positive, default=of_first.alpha,
                       help="weight of the sum of rho; with --skip the first")
    first.add_argument("--skip", type=_positive, default=None,
                       help="layers to skip on average; alpha follows from it")
    first.add_argument("--lambda", type=float, dest="decay",
                       default=of_first.decay, help="weight of sum |w|^2")
    first.add_argument("--prompt", type=_count(0), default=of_first.prompt,
                       help="tokens of a window that run all layers, and that "
                       "alone routers read; 0: gates hold for all tokens")
    first.add_argument("--router-steps", type=_count(1),
                       default=of_first.router_steps)
    first.add_argument("--router-lr", type=_positive,
                       default=of_first.router_lr)
    first.add_argument("--start", type=_probability, default=of_first.start,
                       help="rho before the first step; 0.5: routers of zeros")
    first.add_argument("--router-gate", choices=["soft", "hard"],
                       default=of_first.router_gate,
                       help="of phase 1: rho as a factor, or rho >= 0.5 with "
                       "the gradient of rho")
    first.add_argument("--always-on", type=_ends, metavar="FIRST,LAST",
                       default=of_first.always_on,
                       help="so many layers at each end have no router")
    first.add_argument("--routers", default=None,
                       help="a file of an earlier run, in place of phase 1")
    first.add_argument("--gate", choices=["soft", "hard"],
                       default=of_first.gate,
                       help="of phase 2: rho as a factor, or rho >= 0.5")

    fixed = commands.add_parser(
        "fixed", formatter_class=kind,
        help="LoRA for a set of skipped layers that a text does not change")
    _add_run(fixed, "ce")
    of_fixed = recipes.FixedSettings()
    fixed.add_argument("--set", choices=["unified", "even", "random"],
                       default=of_fixed.kind, dest="kind")
    fixed.add_argument("--skip", type=_count(0), default=of_fixed.skip,
                       help="layers to skip")
    fixed.add_argument("--layers", type=_layers, default=(),
                       help="these layers, in place of a set: 3,7")
    fixed.add_argument("--prompt", type=_count(0), default=of_fixed.prompt,
                       help="tokens of a window that run all layers")

    recover = commands.add_parser(
        "recover", formatter_class=kind,
        help="LoRA for a model with an adapter, or for a smaller one")
    _add_run(recover, "kl")
    recover.add_argument("--adapter", default=None,
                         help="file of rankforge adapt; none: --model is "
                         "smaller than --teacher")

    sample = commands.add_parser(
        "sample", formatter_class=kind,
        help="token ids that the model draws itself, for --ids")
    _add_tokens(sample)
    sample.add_argument("--out", required=True, help="file, safetensors")
    sample.add_argument("--lines", type=_count(1), default=256,
                        help="windows to draw")
    sample.add_argument("--prompt", type=_count(1), default=16,
                        help="tokens of a text that each begins with")

    export = commands.add_parser(
        "export", formatter_class=kind,
        help="checkpoint and adapter of a finished run")
    export.add_argument("--out", required=True, help="folder of the run")
    export.add_argument("--model", default=None,
                        help="where the checkpoint is, if it moved")
    export.add_argument("--adapter", default=None,
                        help="where the adapter is, if it moved")
    export.add_argument("--save-dtype", choices=["stored", "f32", "bf16"],
                        default=None, help="None: as the run said")
    return parser


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise TrainingError(f"--device: '{name}' is none; give cpu, cuda, "
                            "cuda:N or auto") from None
    if device.type not in ("cpu", "cuda"):
        raise TrainingError(f"--device: is {name}; give cpu, cuda or auto")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise TrainingError("--device: PyTorch sees no GPU; give cpu")
    return name


def _settings(arguments: argparse.Namespace) -> recipes.RunSettings:
    loop = LoopSettings(
        steps=arguments.steps, batch=arguments.batch,
        accumulate=arguments.accumulate, lr=arguments.lr,
        warmup=arguments.warmup, clip=arguments.clip,
        eval_every=arguments.eval_every, patience=arguments.patience,
        max_seconds=arguments.max_seconds, seed=arguments.seed, dtype=arguments.dtype)
    lora = LoraSettings(arguments.lora_rank, arguments.lora_alpha,
                        arguments.lora_dropout)
    return recipes.RunSettings(
        model=arguments.model, out=arguments.out, texts=tuple(arguments.text),
        ids=tuple(arguments.ids), window=arguments.window,
        held_out=arguments.held_out, loss=arguments.loss,
        teacher=arguments.teacher, device=_device(arguments.device),
        trust_remote_code=arguments.trust_remote_code,
        resume=arguments.resume, save_dtype=arguments.save_dtype,
        lora_dtype=arguments.lora_dtype, lora=lora, loop=loop)


def _train(arguments: argparse.Namespace) -> pathlib.Path:
    settings = _settings(arguments)
    if arguments.command == "first":
        return recipes.run_first(settings, recipes.FirstSettings(
            alpha=arguments.alpha, skip=arguments.skip, decay=arguments.decay,
            prompt=arguments.prompt, router_steps=arguments.router_steps,
            router_lr=arguments.router_lr, start=arguments.start,
            router_gate=arguments.router_gate, routers=arguments.routers,
            gate=arguments.gate, always_on=arguments.always_on))
    if arguments.command == "fixed":
        return recipes.run_fixed(settings, recipes.FixedSettings(
            kind=arguments.kind, skip=arguments.skip, layers=arguments.layers,
            prompt=arguments.prompt))
    return recipes.run_recover(settings, arguments.adapter)


def run(words: Sequence[str]) -> int:
    arguments = _parser().parse_args(words)
    if arguments.command == "export":
        recipes.export_run(pathlib.Path(arguments.out), arguments.model,
                           arguments.adapter, arguments.save_dtype)
        return 0
    if arguments.command == "sample":
        loop = LoopSettings(batch=arguments.batch, seed=arguments.seed,
                            dtype=arguments.dtype)
        print(recipes.run_sample(recipes.RunSettings(
            model=arguments.model, out=arguments.out,
            texts=tuple(arguments.text), ids=tuple(arguments.ids),
            window=arguments.window, held_out=arguments.held_out,
            device=_device(arguments.device),
            trust_remote_code=arguments.trust_remote_code, loop=loop),
            arguments.lines, arguments.prompt))
        return 0
    # Without the native module an export would fail after all the work.
    if not arguments.no_export and not recipes.can_export():
        raise TrainingError("export: needs the native module, which is not "
                            "built here; give --no-export and run `export` "
                            "where it is")
    out = _train(arguments)
    if not arguments.no_export:
        recipes.export_run(out, None, arguments.adapter if
                           arguments.command == "recover" else None, None)
    print(out, file=sys.stdout)
    return 0
