"""A run of each command: models, phases, files."""

import json
import pathlib
import sys
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rankforge.training import _export as export
from rankforge.training._adapted import adapt
from rankforge.training._adapter_file import (
    check_adapter_of,
    native_module,
    read_adapter,
)
from rankforge.training._data import Windows, load_windows
from rankforge.training._errors import TrainingError
from rankforge.training._gates import (
    THRESHOLD,
    Gates,
    Mode,
    Routers,
    even_set,
    random_set,
    runs,
    states_before,
    unified_set,
)
from rankforge.training._lora import (
    LoraSettings,
    add_lora,
    deltas_of,
    lora_tensors,
)
from rankforge.training._loop import Loop, LoopSettings, Task, autocast
from rankforge.training._modules import blocks_of
from rankforge.training._sampling import sample
from rankforge.training._tasks import (
    LORA_MISSES,
    Anchor,
    LoraTask,
    Penalty,
    RouterTask,
    Teacher,
)

ROUTERS = "routers.safetensors"
LORA = "lora.safetensors"
LOG = "log.json"
_LORA_DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class RunSettings:
    """What all commands share."""

    model: str
    out: str
    texts: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    window: int = 256
    held_out: int = 16
    loss: str = "ce"
    teacher: str | None = None
    device: str = "cpu"
    trust_remote_code: bool = False
    resume: bool = False
    save_dtype: str = "stored"
    lora_dtype: str = "f32"
    lora: LoraSettings = LoraSettings()
    loop: LoopSettings = LoopSettings()


@dataclass(frozen=True)
class FirstSettings:
    """alpha: of sum rho; skip: or the layers to skip, from which it follows;
    decay: of sum |w|^2; start: rho before the first step; router_gate: of
    phase 1; routers: a file of an earlier run, in place of phase 1; gate: of
    phase 2; always_on: layers at both ends that have no router."""

    alpha: float = 0.02
    skip: float | None = None
    decay: float = 0.01
    prompt: int = 0
    router_steps: int = 200
    router_lr: float = 1e-3
    start: float = 0.9
    router_gate: Mode = "soft"
    routers: str | None = None
    gate: Mode = "soft"
    always_on: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class FixedSettings:
    """Either `layers`, or `skip` layers of the set `kind`."""

    kind: str = "unified"
    skip: int = 0
    layers: tuple[int, ...] = ()
    prompt: int = 0


def load_model(folder: str, trust_remote_code: bool) -> Any:
    """In f32, without gradients of its own."""
    config = pathlib.Path(folder, "config.json")
    if not config.exists():
        raise TrainingError(f"{folder}: has no config.json; give the folder of "
                            "a Hugging Face checkpoint")
    own_code = "auto_map" in json.loads(config.read_text())
    if own_code and not trust_remote_code:
        raise TrainingError(f"{folder}: brings code of its own, which would "
                            "run; give --trust-remote-code if you trust it")
    transformers.utils.logging.disable_progress_bar()
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True,
            trust_remote_code=own_code)
    except (OSError, ValueError) as error:
        raise TrainingError(f"{folder}: Transformers cannot load it "
                            f"({error})") from None
    model.requires_grad_(False)
    return model


class Run:
    """The folder of a run, its model on its device, and its windows."""

    def __init__(self, settings: RunSettings, command: str,
                 more: dict[str, Any]) -> None:
        self.settings = settings
        self.out = pathlib.Path(settings.out)
        self.device = torch.device(settings.device)
        self.log: dict[str, Any] = {
            "command": command, "settings": asdict(settings), **more,
            "torch": torch.__version__,
            "transformers": transformers.__version__}
        self._check_folder()
        self.model = load_model(settings.model, settings.trust_remote_code)
        limit = self.model.config.max_position_embeddings
        if settings.window > limit:
            raise TrainingError(f"--window: is {settings.window}, the model "
                                f"has {limit} positions")
        self.model.to(self.device)
        self.windows: Windows = load_windows(
            settings.model, settings.texts, settings.ids, settings.window,
            settings.held_out, self.model.config.vocab_size)
        # Loaded before anything is written: it may be refused.
        self.teacher = self._dense() if settings.loss == "kl" else None
        self.log["train_tokens"] = len(self.windows.train)
        self.log["layers"] = len(blocks_of(self.model))

    def _check_folder(self) -> None:
        if self.settings.resume:
            self._check_same()
        elif (self.out / LOG).exists():
            raise TrainingError(f"{self.out}: holds a run; give --resume to go "
                                "on with it, or another --out")

    def claim(self) -> None:
        """Makes the folder the run's, once nothing can refuse it any more."""
        self.out.mkdir(parents=True, exist_ok=True)
        self.write_log()

    def _check_same(self) -> None:
        """Everything that the weights depend on is as it was."""
        path = self.out / LOG
        if not path.exists():
            raise TrainingError(f"{self.out}: holds no run to go on with; "
                                "leave out --resume")
        before = json.loads(path.read_text())
        # As JSON has it: lists in place of tuples.
        now = json.loads(json.dumps(self.log))
        for name in ("command", "first", "fixed", "adapter"):
            if before.get(name) != now.get(name):
                raise TrainingError(
                    f"{path}: '{name}' was {before.get(name)}, is "
                    f"{now.get(name)} now; give the same, or another --out")
        for name, value in now["settings"].items():
            old = before["settings"].get(name)
            if name not in ("resume", "out", "save_dtype") and old != value:
                raise TrainingError(f"{path}: '{name}' was {old}, is {value} "
                                    "now; give the same, or another --out")
        self.log = before | {"settings": now["settings"]}

    def write_log(self) -> None:
        text = json.dumps(self.log, indent=1)
        partial = self.out / f"{LOG}.partial"
        partial.write_text(text + "\n")
        partial.rename(self.out / LOG)

    def _dense(self) -> nn.Module:
        """The dense model, beside the one that is trained, on the CPU."""
        folder = self.settings.teacher or self.settings.model
        dense = load_model(folder, self.settings.trust_remote_code)
        if dense.config.vocab_size != self.model.config.vocab_size:
            raise TrainingError(f"--teacher: {folder} has another vocabulary")
        return dense.eval()

    def train(self, task: Task, loop: LoopSettings) -> None:
        running = Loop(task, self.windows, loop, self.device, self.out)
        if self.settings.resume:
            running.resume()
        self.model.train()
        self.log[task.name] = {"history": running.run()} | task.state()
        self.model.eval()
        self.write_log()

    def train_lora(self, gates: Gates | None, penalty: Penalty | None) -> None:
        """With a loss of divergence from the dense model, that model also says
        what routers should go on to say."""
        settings = self.settings
        teacher: Teacher | None = None
        anchor: Anchor | None = None
        if self.teacher is not None:
            teacher, anchor = _dense_values(self.teacher.to(self.device),
                                            gates, penalty)
        if (self.out / LORA).exists() and settings.resume:
            return
        add_lora(self.model, settings.lora, settings.loop.seed)
        self.train(LoraTask(self.model, gates, penalty, teacher,
                            settings.loop.batch, anchor), settings.loop)
        save_whole(lora_tensors(self.model, _LORA_DTYPES[settings.lora_dtype]),
                   self.out / LORA)


def _dense_values(dense: nn.Module, gates: Gates | None, penalty: Penalty | None
                  ) -> tuple[Teacher, Anchor | None]:
    """What the dense model predicts, and what routers say of it."""

    def logits(ids: Tensor) -> Tensor:
        with torch.no_grad():
            found: Tensor = dense(input_ids=ids, use_cache=False).logits
            return found

    if gates is None or penalty is None:
        return logits, None
    routed = gates

    def rhos(ids: Tensor) -> Tensor:
        return routed.rhos_of(states_before(dense, ids))

    return logits, rhos


def save_whole(tensors: dict[str, Tensor], path: pathlib.Path) -> None:
    """The file appears whole: a resumed run takes what is there for done."""
    partial = path.with_name(f"{path.name}.partial")
    save_file(tensors, partial)
    partial.replace(path)


def read_tensors(path: str) -> dict[str, Tensor]:
    try:
        found: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{path}: cannot be read ({error}); give "
                            "routers.safetensors of a run") from None
    for name, tensor in found.items():
        if not torch.isfinite(tensor).all():
            raise TrainingError(f"{path}: tensor '{name}' is not finite; give "
                                "the routers of another run")
    return found


def run_first(settings: RunSettings, first: FirstSettings) -> pathlib.Path:
    """FiRST: routers, then LoRA with the routers as they are."""
    check_prompt(first.prompt, settings.window)
    if settings.loop.steps == 0:
        if first.routers is not None:
            raise TrainingError("--steps: is 0, and --routers leaves out the "
                                "other phase: nothing is trained; leave out "
                                "one of them")
        _check_no_checkpoint(settings.save_dtype)
        # LoRA alone has a teacher.
        settings = replace(settings, loss="ce")
    run = Run(settings, "first", {"first": asdict(first)})
    hidden = run.model.config.hidden_size
    routers = Routers(len(blocks_of(run.model)), hidden, first.always_on)
    routers.to(run.device)
    if first.start != THRESHOLD:
        ids = run.windows.batch(0, settings.loop.batch, settings.loop.seed)
        routers.start(states_before(run.model, ids.to(run.device)),
                      first.start)
    gates = Gates(run.model, routers, first.router_gate, first.prompt)
    path = run.out / ROUTERS
    penalty = Penalty(first.alpha, first.skip)
    if first.routers is not None:
        routers.load(read_tensors(first.routers), first.routers)
    run.claim()
    if first.routers is None:
        _train_routers(run, first, routers, gates, penalty, path)
    save_whole(routers.tensors(), path)
    routers.requires_grad_(False)
    if settings.loop.steps > 0:
        gates.mode = first.gate
        # A third: else LoRA moves the states until every layer runs.
        run.train_lora(gates, Penalty(penalty.alpha / 3, first.skip,
                                      LORA_MISSES, first.skip or 0.0))
    return run.out


def _check_no_checkpoint(save_dtype: str | None) -> None:
    if save_dtype not in (None, "stored"):
        raise TrainingError(f"--save-dtype: is {save_dtype}, but routers alone "
                            "(--steps 0) are for the checkpoint as it is; "
                            "leave it out")


def _train_routers(run: Run, first: FirstSettings, routers: Routers,
                   gates: Gates, penalty: Penalty, path: pathlib.Path) -> None:
    """Phase 1, or what an earlier process made of it."""
    if path.exists() and run.settings.resume:
        routers.load(load_file(path), str(path))
        penalty.alpha = run.log["router"]["alpha"]
        return
    loop = replace(run.settings.loop, steps=first.router_steps,
                   lr=first.router_lr)
    if first.skip is not None:
        # Scores do not fall before alpha has grown.
        loop = replace(loop, patience=first.router_steps)
    run.train(RouterTask(run.model, routers, gates, penalty, first.decay,
                         loop.batch), loop)


def check_prompt(prompt: int, window: int) -> None:
    if not 0 <= prompt <= window - 2:
        raise TrainingError(f"--prompt: is {prompt}, windows of {window} tokens "
                            f"allow 0 to {window - 2}")


def chosen_layers(fixed: FixedSettings, blocks: int, seed: int) -> list[int]:
    """The layers that a fixed set leaves out, ascending."""
    if fixed.layers:
        for layer in fixed.layers:
            if not 0 < layer < blocks - 1:
                raise TrainingError(f"--layers: has {layer}, a model of "
                                    f"{blocks} layers allows 1 to {blocks - 2}: "
                                    "the first and the last always run")
        return sorted(set(fixed.layers))
    if not 1 <= fixed.skip <= blocks - 2:
        raise TrainingError(f"--skip: is {fixed.skip}, a model of {blocks} "
                            f"layers allows 1 to {blocks - 2}")
    if fixed.kind == "random":
        return random_set(blocks, fixed.skip, seed)
    if fixed.kind == "even":
        return even_set(blocks, fixed.skip)
    return unified_set(blocks, fixed.skip)


def run_fixed(settings: RunSettings, fixed: FixedSettings) -> pathlib.Path:
    """LoRA for a set of skipped layers that does not depend on the text."""
    check_prompt(fixed.prompt, settings.window)
    run = Run(settings, "fixed", {"fixed": asdict(fixed)})
    blocks = len(blocks_of(run.model))
    skipped = chosen_layers(fixed, blocks, settings.loop.seed)
    run.log["skipped_layers"] = skipped
    run.claim()
    gates = Gates(run.model, runs(blocks, skipped), "hard", fixed.prompt)
    run.train_lora(gates, None)
    return run.out


def run_recover(settings: RunSettings, adapter: str | None) -> pathlib.Path:
    """LoRA for a model with an adapter, or for a smaller one with a teacher."""
    if adapter is None and settings.teacher is None:
        raise TrainingError("--adapter: give an adapter, or by --teacher the "
                            "dense model that a smaller one came from")
    run = Run(settings, "recover", {"adapter": adapter})
    if adapter is not None:
        file = read_adapter(adapter)
        if "layer_skip" in file.metadata:
            raise TrainingError(f"{adapter}: leaves out whole layers; `first` "
                                "and `fixed` train LoRA for that")
        note = check_adapter_of(file, settings.model)
        if note:
            print(note, file=sys.stderr, flush=True)
        adapt(run.model, file)
        run.model.to(run.device)
        run.model.requires_grad_(False)
    run.claim()
    run.train_lora(None, None)
    return run.out


def run_sample(settings: RunSettings, lines: int, prompt: int) -> pathlib.Path:
    """OUT, a file of ids that the dense model drew (rankforge.training
    --ids)."""
    check_prompt(prompt, settings.window)
    model = load_model(settings.model, settings.trust_remote_code)
    model.to(torch.device(settings.device))
    windows = load_windows(
        settings.model, settings.texts, settings.ids, settings.window,
        settings.held_out, model.config.vocab_size)
    with autocast(model.device, settings.loop.dtype):
        ids = sample(model, windows, lines, max(1, prompt),
                     settings.loop.batch, settings.loop.seed)
    path = pathlib.Path(settings.out)
    save_file({"ids": ids.to(torch.int32)}, path)
    return path


def export_run(out: pathlib.Path, model: str | None, adapter: str | None,
               save_dtype: str | None) -> None:
    """OUT/checkpoint and, where there is one, OUT/adapter.safetensors.

    model, adapter: where they are now, if not where they were trained.
    """
    path = out / LOG
    log = json.loads(path.read_text()) if path.exists() else {}
    if "router" in log and log["settings"]["loop"]["steps"] == 0:
        _check_no_checkpoint(save_dtype)
        _export_skip(out, log, pathlib.Path(model or log["settings"]["model"]),
                     {"trained": "first"})
        return
    if not log or not (out / LORA).exists():
        raise TrainingError(f"{out}: holds no finished run, which has {LOG} "
                            f"and {LORA}")
    source = model or log["settings"]["model"]
    deltas = deltas_of(load_file(out / LORA))
    dtype = save_dtype or log["settings"]["save_dtype"]
    checkpoint = out / "checkpoint"
    lora = log["settings"]["lora"]
    trained = {"trained": log["command"], "lora_rank": str(lora["rank"]),
               "trained_on": log["settings"]["loss"]}
    if log["command"] == "recover" and log["adapter"] is not None:
        file = read_adapter(adapter or log["adapter"])
        check_adapter_of(file, source)
        tensors, deltas = export.merge_ranks(file, deltas)
        export.write_checkpoint(source, checkpoint, deltas, dtype)
        export.export_adapter(file, tensors, str(checkpoint),
                              out / "adapter.safetensors", trained)
        return
    export.write_checkpoint(source, checkpoint, deltas, dtype)
    if log["command"] in ("first", "fixed"):
        _export_skip(out, log, checkpoint, trained)


def _export_skip(out: pathlib.Path, log: dict[str, Any],
                 checkpoint: pathlib.Path, trained: dict[str, str]) -> None:
    of = log[log["command"]]
    phase = log["lora"] if "lora" in log else log["router"]
    best = min(phase["history"], key=lambda entry: entry["score"])
    run = 1 - best["skipped"] / log["layers"]
    method = "first"
    parameters = trained | {"prompt": str(of["prompt"])}
    routers: dict[str, Tensor] = {}
    if log["command"] == "first":
        routers = load_file(out / ROUTERS)
        parameters |= {"alpha": str(of["alpha"]), "gate": of["gate"]}
    else:
        method = "listed-skip" if of["layers"] else f"{of['kind']}-skip"
    export.export_skip(method, routers, log.get("skipped_layers", []), str(checkpoint),
                       out / "adapter.safetensors", run, log["train_tokens"],
                       parameters)


def can_export() -> bool:
    return native_module() is not None
