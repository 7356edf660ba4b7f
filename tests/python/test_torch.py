"""Models of Transformers with our layers, against themselves without."""

import copy
import io
import pathlib
import pickle
import subprocess
import sys
from typing import Any

import numpy
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import rankforge  # noqa: E402
import rankforge.torch as rt  # noqa: E402
from rankforge import Error  # noqa: E402

# The threads of torch would wait busily where those of plans run.
torch.set_num_threads(1)

PROMPT = [1, 45, 12, 77, 5, 200, 31, 8, 9, 14, 3, 90, 17, 6, 2, 11, 25, 44, 71]


def from_folder(folder: pathlib.Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=torch.float32).eval()


def logits_of(model: Any, ids: list[int]) -> Any:
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0]


def greedy(model: Any, ids: list[int], count: int = 16) -> list[int]:
    prompt = torch.tensor([ids])
    out = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False,
        max_new_tokens=count, pad_token_id=0)
    return list(out[0].tolist()[len(ids):])


def test_dense_equals_transformers(checkpoint: pathlib.Path) -> None:
    plain, ours = from_folder(checkpoint), from_folder(checkpoint)
    assert rt.apply(ours, dtype="f32") is ours
    assert not any(type(m) is torch.nn.Linear for m in ours.modules())
    assert any(isinstance(m, rt.PackedLinear) for m in ours.modules())
    expected = logits_of(plain, PROMPT)
    assert (logits_of(ours, PROMPT) - expected).abs().max() < 2e-3
    assert greedy(ours, PROMPT) == greedy(plain, PROMPT)
    runtime = rankforge.Model.load(checkpoint).logits(PROMPT)
    assert numpy.abs(runtime - expected.numpy()).max() < 2e-3


def test_smollm2(smollm2: pathlib.Path) -> None:
    """A real model: the same logits and tokens in Transformers, in Transformers
    with our layers, and in the runtime."""
    pytest.importorskip("gguf")
    plain = transformers.AutoModelForCausalLM.from_pretrained(
        str(smollm2.parent), gguf_file=smollm2.name,
        dtype=torch.float32).eval()
    runtime = rankforge.Model.load(smollm2, "f32")
    ids = runtime.encode("The capital of France is Paris, and the capital of")
    expected, tokens = logits_of(plain, ids), greedy(plain, ids, 24)
    ours = rt.apply(plain, dtype="f32")
    actual = logits_of(ours, ids)
    assert (actual - expected).abs().max() < 2e-3
    of_runtime = runtime.logits(ids)
    assert numpy.abs(of_runtime - actual.numpy()).max() < 2e-3
    assert greedy(ours, ids, 24) == tokens
    assert [token.id for token in runtime.generate(ids, 24)] == tokens


def test_decoding_equals_the_runtime(
    llama: pathlib.Path, adapter: pathlib.Path
) -> None:
    ours = rt.apply(from_folder(llama), dtype="f32", adapter=adapter)
    kinds = {type(module) for module in ours.modules()}
    assert {rt.RankLinear, rt.PartOfRankLinear, rt.MaskedLinear} <= kinds
    runtime = rankforge.Model.load(llama, adapter=adapter)
    expected = runtime.logits(PROMPT)
    actual = logits_of(ours, PROMPT).numpy()
    # A value at a threshold may fall on either side of it.
    assert numpy.quantile(numpy.abs(actual - expected), 0.99) < 2e-3
    tokens = [token.id for token in runtime.generate(PROMPT, 16)]
    assert greedy(ours, PROMPT) == tokens


def test_gains_of_masks(llama: pathlib.Path, gains: pathlib.Path) -> None:
    ours = rt.apply(from_folder(llama), dtype="f32", adapter=gains)
    runtime = rankforge.Model.load(llama, adapter=gains)
    expected = runtime.logits(PROMPT)
    actual = logits_of(ours, PROMPT).numpy()
    assert numpy.quantile(numpy.abs(actual - expected), 0.99) < 2e-3
    loaded = rankforge.load_adapter(gains, llama)
    for module, mask in loaded.masks.items():
        assert mask.gain is not None and mask.bias is not None, module
        assert mask.gain.shape == mask.tau.shape
        assert not mask.gain.flags.writeable
    # They are not without effect.
    dense = rankforge.Model.load(llama).logits(PROMPT)
    assert numpy.abs(expected - dense).max() > 0.1


def test_batches_have_the_bits_of_one_token(
    llama: pathlib.Path, adapter: pathlib.Path
) -> None:
    ours = rt.apply(from_folder(llama), dtype="bf16", adapter=adapter)
    seen = set()
    for module in ours.modules():
        if isinstance(module, rt._Layer) and type(module) not in seen:
            seen.add(type(module))
            x = torch.randn(2, 19, module.in_features)
            whole = module(x)
            assert whole.shape == (2, 19, module.out_features)
            for token in (0, 15, 16, 18):
                assert torch.equal(module(x[1, token]), whole[1, token])
    assert len(seen) >= 2


@pytest.mark.parametrize("dtype", ["bf16", "i8_group32"])
def test_other_types(llama: pathlib.Path, dtype: rankforge.WeightType) -> None:
    plain, ours = from_folder(llama), from_folder(llama)
    rt.apply(ours, dtype=dtype)
    expected, actual = logits_of(plain, PROMPT), logits_of(ours, PROMPT)
    error = (actual - expected).norm() / expected.norm()
    assert 0 < error < 0.05


def test_a_bf16_model_keeps_its_type(llama: pathlib.Path) -> None:
    model = from_folder(llama).to(torch.bfloat16)
    plain = copy.deepcopy(model)
    rt.apply(model)
    layer = next(m for m in model.modules() if isinstance(m, rt.PackedLinear))
    assert layer.matrix.weights.dtype == "bf16"
    actual, expected = logits_of(model, PROMPT), logits_of(plain, PROMPT)
    assert actual.dtype == torch.bfloat16
    assert (actual - expected).norm() / expected.norm() < 0.05


def test_biases() -> None:
    linear = torch.nn.Linear(33, 17)
    model = rt.apply(torch.nn.Sequential(copy.deepcopy(linear)))
    x = torch.randn(5, 33)
    with torch.no_grad():
        torch.testing.assert_close(model(x), linear(x), atol=1e-5, rtol=1e-5)
    assert "bias=True" in repr(model)


def test_state_is_saved_and_loaded(
    llama: pathlib.Path, adapter: pathlib.Path
) -> None:
    ours = rt.apply(from_folder(llama), dtype="i8_group32", adapter=adapter)
    expected = logits_of(ours, PROMPT)
    file = io.BytesIO()
    torch.save(ours.state_dict(), file)
    file.seek(0)
    other = from_folder(llama)
    for parameter in other.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.02)
    rt.apply(other, dtype="f32", adapter=adapter)
    assert not torch.equal(logits_of(other, PROMPT), expected)
    other.load_state_dict(torch.load(file))
    assert torch.equal(logits_of(other, PROMPT), expected)
    assert torch.equal(logits_of(copy.deepcopy(ours), PROMPT), expected)


def test_models_pickled_by_version_0_1_stay_exact() -> None:
    """Their Setup has no activations; no input was rounded."""
    model = torch.nn.Sequential(torch.nn.Linear(64, 32))
    rounded = rt.apply(copy.deepcopy(model), dtype="i8_group32")
    exact = rt.apply(model, dtype="i8_group32", activations="f32")
    x = torch.randn(3, 64)
    expected = exact(x)
    assert not torch.equal(rounded(x), expected)
    for current in (rounded, exact):
        again = pickle.loads(pickle.dumps(current))
        assert torch.equal(again(x), current(x))
    for old in (rounded, exact):
        del old[0].matrix.setup.activations
        loaded = pickle.loads(pickle.dumps(old))
        assert torch.equal(loaded(x), expected)


def test_state_of_another_shape_is_refused() -> None:
    small = rt.apply(torch.nn.Sequential(torch.nn.Linear(8, 4, bias=False)))
    large = rt.apply(torch.nn.Sequential(torch.nn.Linear(8, 5, bias=False)))
    with pytest.raises(Error, match=r"weights \(4, 8\), expected \(5, 8\)"):
        large.load_state_dict(small.state_dict())


def test_operator() -> None:
    layer = rt.apply(torch.nn.Sequential(torch.nn.Linear(8, 4)))[0]
    for x in (torch.randn(8), torch.randn(3, 2, 8), torch.randn(0, 8)):
        torch.library.opcheck(
            torch.ops.rankforge.run.default, (x, layer.number, 4))
        assert torch.equal(torch.ops.rankforge.run(x, layer.number, 4), layer(x))
    with pytest.raises(Error, match="is none with 5 outputs"):
        torch.ops.rankforge.run(torch.randn(8), layer.number, 5)
    # No gradient is silently lost.
    y = layer(torch.randn(8, requires_grad=True))
    with pytest.raises(RuntimeError):
        y.sum().backward()


def test_compile_leaves_layers_alone(
    llama: pathlib.Path, adapter: pathlib.Path
) -> None:
    ours = rt.apply(from_folder(llama), dtype="f32", adapter=adapter)
    layer = ours.model.layers[0]
    expected = logits_of(ours, PROMPT)
    # "eager" traces the whole graph, and compiles nothing.
    compiled = torch.compile(ours, backend="eager", fullgraph=True)
    with torch.inference_mode():
        actual = compiled(torch.tensor([PROMPT]), use_cache=False).logits[0]
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)
    assert layer is ours.model.layers[0]


def test_inductor_generates_the_same_tokens(
    llama: pathlib.Path, adapter: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is around the layers is compiled; the layers are calls in a graph."""
    ours = rt.apply(from_folder(llama), dtype="bf16", adapter=adapter)
    layers = [m for m in ours.modules() if isinstance(m, rt._Layer)]
    assert any(isinstance(m, rt.PartOfRankLinear) for m in ours.modules())
    tokens, expected = greedy(ours, PROMPT), logits_of(ours, PROMPT)
    runs = []
    run = rt._Layer.run

    def counted(self: Any, x: Any) -> Any:
        runs.append(self)
        return run(self, x)

    monkeypatch.setattr(rt._Layer, "run", counted)
    with torch.inference_mode():
        compiled = torch.compile(ours, backend="inductor", fullgraph=True)
        actual = compiled(torch.tensor([PROMPT]), use_cache=False).logits[0]
    torch.testing.assert_close(actual, expected, atol=1e-3, rtol=1e-3)
    # q, k and v of one adapter are parts of one run.
    assert sorted(map(id, runs)) == sorted(map(id, layers))
    torch._dynamo.reset()
    ours.forward = torch.compile(ours.forward, backend="inductor", dynamic=True)
    assert greedy(ours, PROMPT) == tokens


def test_other_threads_give_the_same_numbers(
    llama: pathlib.Path, adapter: pathlib.Path
) -> None:
    context = rankforge.Context(1)
    ours = rt.apply(from_folder(llama), dtype="bf16", adapter=adapter,
                    context=context)
    expected = logits_of(ours, PROMPT)
    other = rankforge.Context(2)
    rt.set_context(ours, other)
    layers = [module for module in ours.modules()
              if isinstance(module, rt.PackedMatrix)]
    assert layers and all(one.setup.context is other for one in layers)
    assert torch.equal(logits_of(ours, PROMPT), expected)


def test_layers_run_on_the_threads_of_torch(
    llama: pathlib.Path, adapter: pathlib.Path, monkeypatch: Any
) -> None:
    threads = torch.get_num_threads()
    asked: list[int] = []
    of_torch = rt._threads_of_torch

    def recorded() -> Any:
        asked.append(torch.get_num_threads())
        return of_torch()

    monkeypatch.setattr(rt, "_threads_of_torch", recorded)
    try:
        outputs = []
        for count in (1, 2):
            torch.set_num_threads(count)
            context = rt.Setup().threads()
            assert context is not None and context.threads == count
            ours = rt.apply(from_folder(llama), dtype="bf16", adapter=adapter)
            asked.clear()
            outputs.append(logits_of(ours, PROMPT))
            # One plan at least of each layer, made when it first runs.
            layers = [module for module in ours.modules()
                      if isinstance(module, rt._Layer)]
            assert len(asked) >= len(layers) > 0 and set(asked) == {count}
        assert torch.equal(outputs[0], outputs[1])
        asked.clear()
        rt.set_context(ours, rankforge.Context(2))
        assert torch.equal(logits_of(ours, PROMPT), outputs[0])
        assert not asked
    finally:
        torch.set_num_threads(threads)


def test_a_child_of_fork_runs_layers(llama: pathlib.Path) -> None:
    """In a process of its own, where no other thread holds a lock."""
    text = f"""
import os, signal, sys, torch, transformers
import rankforge.torch
torch.set_num_threads(2)
model = transformers.AutoModelForCausalLM.from_pretrained({str(llama)!r})
rankforge.torch.apply(model, dtype="bf16")
layer = next(module for module in model.modules()
             if isinstance(module, rankforge.torch.PackedLinear))
x = torch.ones(1, 1, layer.in_features)
with torch.inference_mode():
    expected = layer(x)
child = os.fork()
if child == 0:
    signal.alarm(60)
    with torch.inference_mode():
        os._exit(0 if torch.equal(layer(x), expected) else 1)
sys.exit(os.waitpid(child, 0)[1] != 0)
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_parts_in_graphs_see_changes_of_their_input(random: Any) -> None:
    """Parts share a call while x stays the same, in graphs, too."""
    a, b = (random.standard_normal(shape).astype(numpy.float32)
            for shape in ((6, 4), (4, 8)))
    rank = rankforge.RankAdapter("q", a, b, numpy.zeros(4, numpy.float32), 1.0)
    whole = rt.RankLinear(rank, None, "f32", rt.Setup())
    first, second = (rt.PartOfRankLinear(whole, at, 3, owns=at == 0)
                     for at in (0, 3))

    def changed(x: Any) -> Any:
        x = x + 1
        a = first(x)
        b = second(x)
        x.mul_(2)
        return torch.cat([a, b, first(x)])

    x = torch.randn(8)
    with torch.no_grad():
        expected = changed(x)
        for backend in ("eager", "aot_eager", "inductor"):
            torch._dynamo.reset()
            compiled = torch.compile(changed, backend=backend, fullgraph=True)
            torch.testing.assert_close(compiled(x), expected)
            torch.testing.assert_close(compiled(x + 1), changed(x + 1))
        torch.testing.assert_close(expected[:6], whole(x + 1))
        torch.testing.assert_close(expected[6:], whole(2 * (x + 1))[:3])


def test_what_is_refused(
    llama: pathlib.Path, adapter: pathlib.Path, checkpoint: pathlib.Path
) -> None:
    loaded = rankforge.load_adapter(adapter, llama)
    if checkpoint != llama:
        with pytest.raises(Error, match="adapter: "):
            rt.apply(from_folder(checkpoint), adapter=loaded)
        return
    ours = rt.apply(from_folder(llama), adapter=loaded)
    layer = next(m for m in ours.modules() if isinstance(m, rt.PackedLinear))
    with pytest.raises(Error, match=r"x: shape \(3,\), expected"):
        layer(torch.randn(3))
    with pytest.raises(Error, match="device: is meta"):
        ours.to("meta")
    with pytest.raises(Error, match="another checkpoint|is not known"):
        rt.apply(torch.nn.Sequential(), adapter=adapter)
    strange = torch.nn.Sequential(torch.nn.Linear(8, 4).double())
    with pytest.raises(Error, match="dtype: a weight is of torch.float64"):
        rt.apply(strange)


def test_gate_mask() -> None:
    """A gate mask over a whole MLP, against its definition."""
    config = transformers.LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=1,
        num_attention_heads=2, vocab_size=64)
    model = transformers.LlamaForCausalLM(config).eval()
    mlp = copy.deepcopy(model.model.layers[0].mlp)
    name = "model.layers.0.mlp.gate_up"
    tau = numpy.full(96, 0.05, numpy.float32)
    loaded = rankforge.Adapter(
        "cats", 0.5, {}, {}, {name: rankforge.ChannelMask(name, tau, 0.5)}, {})
    rt.apply(model, adapter=loaded)
    assert isinstance(model.model.layers[0].mlp, rt.GatedMlp)
    x = torch.randn(3, 64)
    with torch.inference_mode():
        act = torch.nn.functional.silu(mlp.gate_proj(x))
        h = torch.where(act.abs() >= 0.05, act * mlp.up_proj(x), 0)
        expected = mlp.down_proj(h)
        actual = model.model.layers[0].mlp(x)
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)
