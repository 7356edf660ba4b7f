"""Training in PyTorch, against the runtime: what is merged computes the same."""

import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

import rankforge  # noqa: E402
from rankforge.training import TrainingError  # noqa: E402
from rankforge.training import _recipes as recipes  # noqa: E402
from rankforge.training._adapted import adapt, keep  # noqa: E402
from rankforge.training._adapter_file import (  # noqa: E402
    check_adapter_of,
    read_adapter,
)
from rankforge.training._data import Windows  # noqa: E402
from rankforge.training._gates import (  # noqa: E402
    Gates,
    Routers,
    even_set,
    random_set,
    runs,
    states_before,
    unified_set,
)
from rankforge.training._lora import LoraSettings  # noqa: E402
from rankforge.training._loop import (  # noqa: E402
    Loop,
    LoopSettings,
    learning_rate,
)
from rankforge.training._tasks import Penalty  # noqa: E402

torch.set_num_threads(1)

MODELS = pathlib.Path(__file__).resolve().parents[2] / "examples" / "models"
TEXT = MODELS / "text" / "calibration.txt"
PROMPT = [1, 45, 12, 77, 5, 200, 31, 8, 9, 14, 3, 90, 17, 6, 2, 11, 25, 44, 71]


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT.read_text()[:30000])
    return str(path)


def settings(model: pathlib.Path, text: str, out: pathlib.Path,
             **changes: Any) -> recipes.RunSettings:
    """A run of seconds."""
    loop = LoopSettings(steps=4, batch=4, accumulate=1, lr=2e-4, eval_every=2,
                        patience=10)
    given: dict[str, Any] = {
        "window": 48, "held_out": 4, "loop": loop,
        "lora": LoraSettings(rank=4), "save_dtype": "f32"}
    return recipes.RunSettings(model=str(model), out=str(out), texts=(text,),
                               **(given | changes))


def make_adapter(program: str, model: pathlib.Path, method: str,
                 out: pathlib.Path) -> pathlib.Path:
    text = out.parent / "calibration.txt"
    text.write_text(TEXT.read_text()[:20000])
    subprocess.run(
        [program, "adapt", "--model", str(model), "--calibration", str(text),
         "--keep", "0.6", "--method", method, "--tokens", "512",
         "--window", "128", "--out", str(out)],
        check=True, capture_output=True)
    return out


@pytest.fixture(scope="session")
def made(program: str, llama: pathlib.Path,
         tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Adapters by method, each made once."""
    folder = tmp_path_factory.mktemp("made")
    found: dict[str, pathlib.Path] = {}

    def of(method: str) -> pathlib.Path:
        if method not in found:
            found[method] = make_adapter(
                program, llama, method, folder / f"{method}.safetensors")
        return found[method]

    return of


def logits_in_torch(model: Any, ids: list[int]) -> Any:
    model.eval()
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]),
                     use_cache=False).logits[0].numpy()


def losses(out: pathlib.Path, phase: str = "lora") -> list[float]:
    log = json.loads((out / recipes.LOG).read_text())
    return [entry["score"] for entry in log[phase]["history"]]


def assert_close(actual: Any, expected: Any) -> None:
    # A value at a threshold may fall on either side of it, for one token.
    difference = numpy.abs(actual - expected)
    assert numpy.quantile(difference, 0.9) < 2e-3


# --- The adapter in PyTorch ---------------------------------------------------


@pytest.mark.parametrize("method", ["teal", "cats", "svd", "rotated"])
def test_adapted_equals_the_runtime(
    llama: pathlib.Path, made: Any, method: str
) -> None:
    path = made(method)
    model = recipes.load_model(str(llama), False)
    dense = logits_in_torch(model, PROMPT)
    adapt(model, read_adapter(path))
    actual = logits_in_torch(model, PROMPT)
    expected = rankforge.Model.load(llama, adapter=path).logits(PROMPT)
    assert numpy.abs(actual - expected).max() < 2e-3
    assert numpy.abs(actual - dense).max() > 0.1


def test_ranks_and_gains_equal_the_runtime(
    llama: pathlib.Path, adapter: pathlib.Path, gains: pathlib.Path
) -> None:
    for path in (adapter, gains):
        model = recipes.load_model(str(llama), False)
        adapt(model, read_adapter(path))
        expected = rankforge.Model.load(llama, adapter=path).logits(PROMPT)
        assert_close(logits_in_torch(model, PROMPT), expected)


def test_rotated_layer_norms(
    program: str, tmp_path: pathlib.Path
) -> None:
    """Norms with a mean and a bias."""
    neox = MODELS / "neox-7m"
    path = make_adapter(program, neox, "rotated", tmp_path / "a.safetensors")
    model = recipes.load_model(str(neox), False)
    adapt(model, read_adapter(path))
    expected = rankforge.Model.load(neox, adapter=path).logits(PROMPT)
    assert numpy.abs(logits_in_torch(model, PROMPT) - expected).max() < 2e-3


def test_masks_are_constants() -> None:
    x = torch.tensor([0.5, -2.0, 3.0, float("nan")], requires_grad=True)
    tau = torch.tensor([1.0, 2.0, float("inf"), 0.0])
    kept = keep(x, tau)
    assert kept[:3].tolist() == [0, -2.0, 0]
    total: Any = kept[:3].sum()
    total.backward()
    assert x.grad is not None and x.grad[:3].tolist() == [0, 1, 0]


# --- LoRA, merged -------------------------------------------------------------


@pytest.mark.parametrize("method", ["teal", "rana-paper", "rotated", "gains"])
def test_recovered_equals_the_runtime(
    llama: pathlib.Path, made: Any, gains: pathlib.Path, program: str,
    text: str, tmp_path: pathlib.Path, method: str
) -> None:
    path = gains if method == "gains" else made(method)
    out = tmp_path / "run"
    recipes.run_recover(settings(llama, text, out, loss="kl"), str(path))
    found = losses(out)
    assert min(found[1:]) < found[0]
    recipes.export_run(out, None, None, None)

    # Thresholds, bases and rotations are as they were, to the last bit.
    before = read_adapter(path)
    after = read_adapter(out / "adapter.safetensors")
    assert set(before.tensors) == set(after.tensors)
    changed = {name for name, tensor in before.tensors.items()
               if not torch.equal(tensor, after.tensors[name])}
    ranks = before.metadata["ranks"]
    assert changed == {f"{name}.rank.A" for name in ranks}
    assert check_adapter_of(after, str(out / "checkpoint")) is None
    with pytest.raises(TrainingError, match="checkpoint.identity"):
        check_adapter_of(after, str(llama))

    # The merged model in PyTorch, and the runtime.
    merged = recipes.load_model(str(out / "checkpoint"), False)
    adapt(merged, after)
    expected = rankforge.Model.load(
        out / "checkpoint", adapter=out / "adapter.safetensors").logits(PROMPT)
    assert_close(logits_in_torch(merged, PROMPT), expected)
    # LoRA beside the weights computes what the merged weights do.
    assert_close(with_lora(llama, path, out), expected)
    old = rankforge.Model.load(llama, adapter=path).logits(PROMPT)
    assert numpy.abs(expected - old).max() > 1e-2

    evaluated = subprocess.run(
        [program, "eval", "--model", str(out / "checkpoint"), "--adapter",
         str(out / "adapter.safetensors"), "--text", text, "--windows", "2",
         "--window", "128", "--json"], check=True, capture_output=True)
    assert json.loads(evaluated.stdout)["loss"] > 0


def with_lora(folder: pathlib.Path, path: pathlib.Path,
              out: pathlib.Path) -> Any:
    """Logits of the adapted model with W x + B (A x), before any merge."""
    from safetensors.torch import load_file

    model = recipes.load_model(str(folder), False)
    adapt(model, read_adapter(path))
    factors = load_file(out / recipes.LORA)

    def beside(a: Any, b: Any) -> Any:
        def hook(module: Any, args: Any, output: Any) -> Any:
            return output + args[0] @ a.T @ b.T

        return hook

    for name in [n for n in factors if n.endswith(".lora.A")]:
        layer = name.removesuffix(".lora.A")
        found = model.get_submodule(layer)
        found = getattr(found, "linear", found)
        found.register_forward_hook(
            beside(factors[name], factors[f"{layer}.lora.B"]))
    return logits_in_torch(model, PROMPT)


def test_a3_checkpoint(
    llama: pathlib.Path, program: str, text: str, tmp_path: pathlib.Path
) -> None:
    """A smaller checkpoint, with the dense one as its teacher."""
    small, out = tmp_path / "a3", tmp_path / "run"
    calibration = tmp_path / "calibration.txt"
    calibration.write_text(TEXT.read_text()[:20000])
    subprocess.run(
        [program, "adapt", "--method", "a3", "--model", str(llama),
         "--calibration", str(calibration), "--keep", "0.8", "--tokens", "512",
         "--window", "128", "--components", "mlp", "--uniform",
         "--out", str(small)], check=True, capture_output=True)
    given = settings(small, text, out, loss="kl", teacher=str(llama))
    with pytest.raises(TrainingError, match="--teacher"):
        recipes.run_recover(settings(small, text, tmp_path / "no"), None)
    recipes.run_recover(given, None)
    assert min(losses(out)[1:]) < losses(out)[0]
    recipes.export_run(out, None, None, None)
    assert not (out / "adapter.safetensors").exists()
    merged = recipes.load_model(str(out / "checkpoint"), False)
    expected = rankforge.Model.load(out / "checkpoint").logits(PROMPT)
    assert numpy.abs(logits_in_torch(merged, PROMPT) - expected).max() < 2e-3


def test_stored_type(
    llama: pathlib.Path, made: Any, text: str, tmp_path: pathlib.Path
) -> None:
    """A checkpoint in bf16 stays one unless asked."""
    from safetensors.torch import load_file

    out = tmp_path / "run"
    given = settings(llama, text, out, save_dtype="stored", loss="kl")
    recipes.run_recover(given, str(made("teal")))
    recipes.export_run(out, None, None, None)
    before = load_file(llama / "model.safetensors")
    after = load_file(out / "checkpoint" / "model.safetensors")
    assert {n: t.dtype for n, t in before.items()} == {
        n: t.dtype for n, t in after.items()}
    same = [n for n in before if torch.equal(before[n], after[n])]
    assert "model.embed_tokens.weight" in same
    assert "model.layers.0.mlp.down_proj.weight" not in same
    with pytest.raises(TrainingError, match="exists"):
        recipes.export_run(out, None, None, None)


# --- Gates --------------------------------------------------------------------


def sigmoid(value: float) -> float:
    return float(1 / (1 + numpy.exp(-value)))


def gated_by_hand(model: Any, routers: Any, ids: list[int], mode: str,
                  prompt: int) -> tuple[Any, list[float]]:
    """One layer after another, the gate of each token a number of Python."""
    base, count = model.model, len(ids)
    states = base.embed_tokens(torch.tensor([ids]))
    places = torch.arange(count)[None]
    angles = base.rotary_emb(states, position_ids=places)
    hidden = torch.full((count, count), float("-inf")).triu(1)[None, None]
    rhos = []
    for block, layer in enumerate(base.layers):
        w = routers.weight[block].detach().numpy().astype(numpy.float64)
        read = states[0, : prompt or count].detach().numpy()
        scores = [sigmoid(float(sum(a * b for a, b in zip(w, row))))
                  for row in read.astype(numpy.float64)]
        rho = sum(scores) / len(scores)
        rhos.append(rho)
        whole = layer.forward(states, attention_mask=hidden,
                              position_embeddings=angles, position_ids=places)
        gate = rho if mode == "soft" else float(rho >= 0.5)
        rows = []
        for token in range(count):
            g = 1.0 if token < prompt else gate
            delta = whole[0, token] - states[0, token]
            rows.append(states[0, token] + g * delta)
        states = torch.stack(rows)[None]
    return model.lm_head(base.norm(states))[0].detach().numpy(), rhos


@pytest.mark.parametrize("mode", ["soft", "hard"])
@pytest.mark.parametrize("prompt", [0, 1, 7, len(PROMPT) - 2])
def test_gates_equal_a_scalar_reference(
    llama: pathlib.Path, mode: Any, prompt: int
) -> None:
    model = recipes.load_model(str(llama), False).eval()
    routers = Routers(6, 256, (0, 0))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        routers.weight.copy_(torch.randn(6, 256, generator=generator) * 0.3)
    expected, rhos = gated_by_hand(model, routers, PROMPT, mode, prompt)
    gates = Gates(model, routers, mode, prompt)
    actual = logits_in_torch(model, PROMPT)
    assert [float(rho[0]) for rho in gates.rhos] == pytest.approx(rhos, abs=1e-5)
    assert numpy.abs(actual - expected).max() < 2e-3
    assert float(gates.skipped()[0]) == sum(rho < 0.5 for rho in rhos)
    gates.remove()
    dense = logits_in_torch(model, PROMPT)
    assert numpy.abs(dense[: prompt] - actual[: prompt]).max(initial=0) < 1e-4
    assert numpy.abs(dense - actual).max() > 1e-2


def test_hard_gates_have_the_gradient_of_soft_ones(llama: pathlib.Path) -> None:
    model = recipes.load_model(str(llama), False).eval()
    routers = Routers(6, 256)  # rho is 0.5: every layer runs
    gates = Gates(model, routers, "hard", 0)
    y = model(input_ids=torch.tensor([PROMPT]), use_cache=False).logits
    gates.remove()
    assert numpy.array_equal(y[0].detach().numpy(),
                             logits_in_torch(model, PROMPT))
    y.logsumexp(-1).sum().backward()
    assert routers.weight.grad is not None
    learned = routers.weight.grad.abs().sum(dim=1) > 0
    # The first and the last layer have no router.
    assert learned.tolist() == [False, True, True, True, True, False]
    # To LoRA, which learns beside frozen routers, they are constants.
    routers.requires_grad_(False)
    gates = Gates(model, routers, "hard", 0)
    assert not model(input_ids=torch.tensor([PROMPT]),
                     use_cache=False).logits.requires_grad
    gates.remove()


def test_routers_start_where_asked(llama: pathlib.Path) -> None:
    model = recipes.load_model(str(llama), False).eval()
    routers = Routers(6, 256)
    ids = torch.tensor([PROMPT * 8])
    routers.start(states_before(model, ids), 0.9)
    gates = Gates(model, routers, "hard", 0)
    model(input_ids=ids, use_cache=False)
    assert len(gates.rhos) == 4
    assert all(0.8 < float(rho[0].detach()) < 0.95 for rho in gates.rhos)


@pytest.mark.parametrize("blocks,skip", [(30, 2), (30, 4), (30, 6), (30, 15),
                                         (6, 1), (6, 4), (32, 16)])
def test_fixed_sets(blocks: int, skip: int) -> None:
    for found in (unified_set(blocks, skip), even_set(blocks, skip),
                  random_set(blocks, skip, 1)):
        assert len(found) == skip
        assert found == sorted(set(found))
        assert 0 not in found and blocks - 1 not in found
    assert float(runs(blocks, [1]).sum()) == blocks - 1
    with pytest.raises(TrainingError, match="--layers"):
        runs(blocks, [blocks])


def test_unified_set_by_hand() -> None:
    # keep = 15, interval = 30 // 14 = 2: 0, 29 and 2, 4, ..., 26.
    assert unified_set(30, 15) == [1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23,
                                   25, 27, 28]
    assert unified_set(30, 2) == [27, 28]


def test_penalty_follows_the_layers_asked_for() -> None:
    penalty = Penalty(0.1, skip=2)
    for _ in range(20):
        penalty.observe(0.0)
    assert penalty.alpha > 0.2 and penalty.price() > penalty.alpha
    high = penalty.alpha
    for _ in range(40):
        penalty.observe(5.0)
    assert penalty.alpha < high and penalty.price() < penalty.alpha
    assert penalty.score(3.0, 2.1) == 3.0 < penalty.score(2.0, 0.0)
    fixed = Penalty(0.1)
    fixed.observe(4.0)
    assert fixed.alpha == fixed.price() == 0.1


def test_first_end_to_end(
    llama: pathlib.Path, text: str, tmp_path: pathlib.Path
) -> None:
    out = tmp_path / "run"
    first = recipes.FirstSettings(alpha=2.0, prompt=12, router_steps=12,
                                  router_lr=2e-2, start=0.6, gate="hard")
    run = settings(llama, text, out)
    recipes.run_first(run, first)
    log = json.loads((out / recipes.LOG).read_text())
    assert log["router"]["history"][-1]["skipped"] > 0
    assert min(losses(out)[1:]) < losses(out)[0]
    recipes.export_run(out, None, None, None)
    made = read_adapter(out / "adapter.safetensors")
    assert made.metadata["method"] == "first"
    assert made.metadata["layer_skip"] == {"threshold": 0.5, "layers": []}
    assert sorted(made.tensors) == [f"router.{i}.weight" for i in range(1, 5)]
    assert check_adapter_of(made, str(out / "checkpoint")) is None
    # The merged checkpoint is the model with LoRA.
    merged = recipes.load_model(str(out / "checkpoint"), False)
    expected = rankforge.Model.load(out / "checkpoint").logits(PROMPT)
    assert numpy.abs(logits_in_torch(merged, PROMPT) - expected).max() < 2e-3


def test_routers_alone_are_trained(
    llama: pathlib.Path, text: str, tmp_path: pathlib.Path
) -> None:
    from safetensors.torch import load_file

    first = recipes.FirstSettings(router_steps=3)
    loop = LoopSettings(steps=0, batch=2, eval_every=1)
    given = settings(llama, text, tmp_path / "run", loop=loop,
                     save_dtype="stored")
    recipes.run_first(given, first)
    routers = load_file(tmp_path / "run" / recipes.ROUTERS)
    assert all(float(w.abs().max()) > 0 for w in routers.values())
    # They are an adapter of the checkpoint as it is.
    recipes.export_run(tmp_path / "run", None, None, None)
    made = read_adapter(tmp_path / "run" / "adapter.safetensors")
    assert sorted(made.tensors) == sorted(routers)
    assert check_adapter_of(made, str(llama)) is None
    assert not (tmp_path / "run" / "checkpoint").exists()
    # They stay as they are while LoRA learns.
    again = settings(llama, text, tmp_path / "again")
    recipes.run_first(again, recipes.FirstSettings(
        routers=str(tmp_path / "run" / recipes.ROUTERS)))
    kept = load_file(tmp_path / "again" / recipes.ROUTERS)
    assert all(torch.equal(kept[name], w) for name, w in routers.items())
    # Without LoRA there is nothing to do with them, and nothing to store.
    with pytest.raises(TrainingError, match="--routers"):
        recipes.run_first(
            settings(llama, text, tmp_path / "none", loop=loop,
                     save_dtype="stored"),
            recipes.FirstSettings(routers=str(tmp_path / "run")))
    with pytest.raises(TrainingError, match="--save-dtype"):
        recipes.run_first(settings(llama, text, tmp_path / "none", loop=loop),
                          first)
    with pytest.raises(TrainingError, match="--save-dtype"):
        recipes.export_run(tmp_path / "run", None, None, "bf16")
    assert not (tmp_path / "none").exists()


def test_the_stored_run_exports(tmp_path: pathlib.Path) -> None:
    import shutil

    out = tmp_path / "first"
    shutil.copytree(MODELS / "llama-gqa-7m" / "first", out)
    recipes.export_run(out, str(MODELS / "llama-gqa-7m"), None, None)
    skips = read_adapter(out / "adapter.safetensors")
    assert check_adapter_of(skips, str(out / "checkpoint")) is None
    # LoRA on the merged weights, layers left out by what the prompt says.
    model = rankforge.Model.load(out / "checkpoint",
                                 adapter=out / "adapter.safetensors")
    answer = model.generate(list(range(300, 340)), max_tokens=2)
    assert len(list(answer)) == 2


def test_fixed_end_to_end(
    llama: pathlib.Path, text: str, tmp_path: pathlib.Path
) -> None:
    out = tmp_path / "run"
    recipes.run_fixed(settings(llama, text, out, loss="kl"),
                      recipes.FixedSettings(kind="even", skip=2, prompt=8))
    found = losses(out)
    assert min(found[1:]) < found[0]
    recipes.export_run(out, None, None, None)
    made = read_adapter(out / "adapter.safetensors")
    assert made.metadata["method"] == "even-skip"
    assert made.metadata["layer_skip"]["layers"] == even_set(6, 2)
    assert made.metadata["keep"] == pytest.approx(4 / 6)


# --- The loop -----------------------------------------------------------------


class Stop(Exception):
    pass


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Breaks off a run before a step."""
    whole = Loop._one_step

    def at(step: int) -> None:
        def one(self: Any) -> dict[str, float]:
            if self.step == step:
                raise Stop
            return whole(self)

        monkeypatch.setattr(Loop, "_one_step", one)

    yield at
    monkeypatch.setattr(Loop, "_one_step", whole)


def test_resume_gives_the_same_weights(
    llama: pathlib.Path, text: str, made: Any, tmp_path: pathlib.Path,
    stop_at: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(made("teal"))
    for name in ("whole", "parts"):
        out = tmp_path / name
        given = settings(llama, text, out, loss="kl")
        if name == "parts":
            stop_at(3)
            with pytest.raises(Stop):
                recipes.run_recover(given, path)
            assert not (out / recipes.LORA).exists()
            stop_at(-1)
            with pytest.raises(TrainingError, match="--resume"):
                recipes.run_recover(given, path)
            given = settings(llama, text, out, loss="kl", resume=True)
            with pytest.raises(TrainingError, match="'lora'"):
                recipes.run_recover(
                    settings(llama, text, out, loss="kl", resume=True,
                             lora=LoraSettings(rank=5)), path)
        recipes.run_recover(given, path)
    whole, parts = ((tmp_path / name / recipes.LORA).read_bytes()
                    for name in ("whole", "parts"))
    assert whole == parts


def test_resume_of_routers(
    llama: pathlib.Path, text: str, tmp_path: pathlib.Path, stop_at: Any
) -> None:
    first = recipes.FirstSettings(skip=1.0, router_steps=4, router_lr=1e-2)
    for name in ("whole", "parts"):
        given = settings(llama, text, tmp_path / name)
        if name == "parts":
            stop_at(3)
            with pytest.raises(Stop):
                recipes.run_first(given, first)
            stop_at(-1)
            given = settings(llama, text, tmp_path / name, resume=True)
        recipes.run_first(given, first)
    for file in (recipes.ROUTERS, recipes.LORA):
        whole, parts = ((tmp_path / name / file).read_bytes()
                        for name in ("whole", "parts"))
        assert whole == parts, file


def test_damaged_state(
    llama: pathlib.Path, text: str, made: Any, tmp_path: pathlib.Path,
    stop_at: Any
) -> None:
    path, out = str(made("teal")), tmp_path / "run"
    stop_at(3)
    with pytest.raises(Stop):
        recipes.run_recover(settings(llama, text, out), path)
    (out / "lora.state.pt").write_bytes(b"no state")
    stop_at(-1)
    with pytest.raises(TrainingError, match="lora.state.pt"):
        recipes.run_recover(settings(llama, text, out, resume=True), path)


def test_early_stopping(
    llama: pathlib.Path, text: str, made: Any, tmp_path: pathlib.Path
) -> None:
    """With steps that are far too large, the weights before them win."""
    loop = LoopSettings(steps=50, batch=1, lr=3.0, clip=1e6, eval_every=1,
                        patience=2, warmup=0.0)
    out = tmp_path / "run"
    recipes.run_recover(settings(llama, text, out, loss="kl", loop=loop),
                        str(made("teal")))
    found = losses(out)
    assert len(found) < 20 and min(found) < found[-1]


def test_accumulation_is_a_larger_batch(
    llama: pathlib.Path, text: str, made: Any, tmp_path: pathlib.Path
) -> None:
    from safetensors.torch import load_file

    found = []
    for batch, accumulate in ((4, 1), (2, 2)):
        out = tmp_path / f"{batch}"
        loop = LoopSettings(steps=2, batch=batch, accumulate=accumulate,
                            lr=1e-3, eval_every=2)
        recipes.run_recover(
            settings(llama, text, out, loss="kl", loop=loop,
                     lora=LoraSettings(rank=4, dropout=0.0)),
            str(made("teal")))
        found.append(load_file(out / recipes.LORA))
    for name, tensor in found[0].items():
        if name.endswith(".lora.A"):
            assert torch.allclose(tensor, found[1][name], atol=1e-3), name


def test_learning_rate() -> None:
    loop = LoopSettings(steps=100, lr=1.0, warmup=0.1)
    rates = [learning_rate(loop, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == pytest.approx(1.0)
    assert rates[10] == pytest.approx(1.0)
    assert all(a >= b for a, b in zip(rates[9:], rates[10:]))
    assert 0 < rates[99] < 0.01
    timed = LoopSettings(steps=100, lr=1.0, max_seconds=60.0)
    assert learning_rate(timed, 50, 59.9) < 0.01 < learning_rate(timed, 50, 1.0)
    assert learning_rate(timed, 50, 90.0) == 0


def test_windows() -> None:
    windows = Windows([list(range(100)), list(range(100, 130))], 8, 3, 200)
    assert windows.held_out.tolist()[-1] == list(range(92, 100))
    count = windows.per_epoch()
    seen = [windows.batch(i, 1, 5)[0].tolist() for i in range(count)]
    assert len({row[0] for row in seen}) == count
    # Nothing of what is held out is learned from.
    held = set(windows.held_out.flatten().tolist())
    assert not any(held & set(row) for row in seen)
    assert torch.equal(windows.batch(0, 2, 5)[1], windows.batch(1, 1, 5)[0])
    assert not torch.equal(windows.batch(0, 4, 5), windows.batch(0, 4, 6))
    with pytest.raises(TrainingError, match="--held-out"):
        Windows([list(range(20))], 8, 3, 200)
    with pytest.raises(TrainingError, match="token id"):
        Windows([list(range(100))], 8, 3, 50)


# --- The command line ---------------------------------------------------------


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "rankforge.training", *words],
                          capture_output=True, text=True)


def test_command_line(
    llama: pathlib.Path, text: str, made: Any, tmp_path: pathlib.Path,
    program: str
) -> None:
    out = tmp_path / "run"
    done = command("recover", "--model", str(llama), "--text", text,
                   "--adapter", str(made("teal")), "--out", str(out),
                   "--steps", "2", "--batch", "1", "--window", "32",
                   "--held-out", "2", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(out)
    assert (out / "adapter.safetensors").exists()
    evaluated = subprocess.run(
        [program, "eval", "--model", str(out / "checkpoint"), "--adapter",
         str(out / "adapter.safetensors"), "--text", text, "--windows", "1",
         "--window", "64"], capture_output=True, text=True)
    assert evaluated.returncode == 0, evaluated.stderr


@pytest.mark.parametrize("words,expected", [
    (["--text", "nowhere.txt"], "nowhere.txt"),
    ([], "--text"),
    (["--text", "TEXT", "--window", "4096"], "--window"),
    (["--text", "TEXT", "--device", "tpu"], "--device"),
    (["--text", "TEXT", "--adapter", "nowhere.safetensors"], "nowhere"),
    (["--text", "TEXT", "--teacher", "nowhere"], "nowhere"),
])
def test_errors_name_what_is_wrong(
    llama: pathlib.Path, text: str, made: Any, tmp_path: pathlib.Path,
    words: list[str], expected: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str]
) -> None:
    from rankforge.training.__main__ import main

    words = [text if word == "TEXT" else word for word in words]
    adapter = [] if "--adapter" in words else ["--adapter", str(made("teal"))]
    monkeypatch.setattr(sys, "argv", [
        "", "recover", "--model", str(llama), "--out", str(tmp_path / "run"),
        *adapter, *words])
    assert main() == 2
    assert expected in capsys.readouterr().err
    # A corrected command may use the folder.
    assert not (tmp_path / "run").exists()


def test_another_models_adapter(
    made: Any, text: str, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(TrainingError, match="checkpoint.identity"):
        recipes.run_recover(
            settings(MODELS / "neox-7m", text, tmp_path / "run"),
            str(made("teal")))
    model = recipes.load_model(str(MODELS / "neox-7m"), False)
    with pytest.raises(TrainingError, match="no linear layer"):
        adapt(model, read_adapter(made("teal")))
    with pytest.raises(TrainingError, match="--always-on"):
        Routers(6, 256, (3, 3))


def test_damaged_adapters(made: Any, tmp_path: pathlib.Path) -> None:
    from safetensors.torch import load_file, save_file

    path = made("teal")
    tensors = load_file(path)
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(TrainingError, match="cannot be read"):
        read_adapter(bad)
    save_file(tensors, bad)
    with pytest.raises(TrainingError, match="no adapter file"):
        read_adapter(bad)
    metadata = {"rankforge": json.dumps(read_adapter(path).metadata)}
    name = next(n for n in tensors if n.endswith(".tau"))
    save_file(tensors | {name: tensors[name] * float("nan")}, bad, metadata)
    with pytest.raises(TrainingError, match="NaN"):
        read_adapter(bad)
    tensors.pop(name)
    save_file(tensors, bad, metadata)
    with pytest.raises(TrainingError, match="has no tensor"):
        read_adapter(bad).masks()


def test_without_pytorch(tmp_path: pathlib.Path) -> None:
    """What to install, in one line."""
    code = ("import importlib.util, sys; found = importlib.util.find_spec\n"
            "importlib.util.find_spec = lambda name, *rest: None if name in "
            "('torch', 'peft') else found(name, *rest)\n"
            "from rankforge.training.__main__ import main\n"
            "sys.exit(main())")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True,
                          text=True)
    assert done.returncode == 2
    assert "torch, peft" in done.stderr
    assert "pip install rankforge[training]" in done.stderr
