"""Checkpoints against the program `rankforge`, and adapters."""

import json
import pathlib
import subprocess
import warnings
from typing import Any, Literal

import numpy
import pytest

import rankforge
from conftest import TUNED
from rankforge import Error, Model

PROMPT = [1, 45, 12, 77, 5]


def generated(program: str, folder: pathlib.Path, *options: str) -> Any:
    return json.loads(subprocess.run(
        [program, "generate", "--model", str(folder), "--json", "-n", "24",
         *options],
        check=True, capture_output=True, text=True).stdout)


def given(ids: list[int]) -> tuple[str, str]:
    return "--prompt-ids", ",".join(map(str, ids))


def test_generates_what_the_program_does(
    checkpoint: pathlib.Path, program: str
) -> None:
    expected = generated(program, checkpoint, *given(PROMPT))
    model = Model.load(checkpoint)
    stream = model.generate(PROMPT, 24)
    assert stream.ended is None
    tokens = list(stream)
    assert [token.id for token in tokens] == expected["ids"]
    assert stream.ended == expected["ended"]
    text = "".join(token.text for token in tokens)
    assert expected["text"].startswith(text)
    assert model.generate(PROMPT, 24).text() == expected["text"]


@pytest.mark.parametrize("dtype", ["bf16", "i8_group32", "stored"])
def test_sampled_from_a_text(
    llama: pathlib.Path, program: str,
    dtype: rankforge.WeightType | Literal["stored"],
) -> None:
    expected = generated(
        program, llama, "--prompt", "Once upon a time", "--dtype", dtype,
        "--temperature", "0.8", "--top-k", "20", "--top-p", "0.9", "--seed",
        "3", "--repetition-penalty", "1.1")
    model = Model.load(llama, dtype)
    assert model.encode("Once upon a time") == expected["prompt_ids"]
    stream = model.generate(
        "Once upon a time", 24, temperature=0.8, top_k=20, top_p=0.9, seed=3,
        repetition_penalty=1.1)
    assert [token.id for token in stream] == expected["ids"]


def test_stop_texts(llama: pathlib.Path, program: str) -> None:
    """They end the text as they do in the program; texts of tokens add up."""
    model = Model.load(llama)
    prompt = "Once upon a time"
    whole = model.generate(prompt, 24).text()
    stop = whole[20:23]
    assert stop not in whole[:20]
    expected = generated(
        program, llama, "--prompt", prompt, "--stop", "not there", "--stop",
        stop)
    assert expected["text"] == whole[:20] and expected["ended"] == "stop"
    stream = model.generate(prompt, 24, stop=["not there", stop])
    tokens = list(stream)
    assert stream.ended == "stop"
    assert [token.id for token in tokens] == expected["ids"]
    assert "".join(token.text for token in tokens) == expected["text"]
    assert model.generate(prompt, 24, stop=stop).text() == expected["text"]
    # What might begin a stop text comes in the end, or with what follows.
    for count in range(1, 25):
        plain = model.generate(prompt, count).text()
        held = model.generate(prompt, count, stop=whole + "!")
        assert "".join(token.text for token in held) == plain
        assert held.ended == "length"


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_lookup_gives_the_same_tokens(
    llama: pathlib.Path, program: str, temperature: float
) -> None:
    prompt = "Tom has a red ball. Sue has a red ball. Tom has a"
    model = Model.load(llama, "bf16")
    expected = list(model.generate(prompt, 24, temperature=temperature))
    for lookup in (1, 4, 15):
        stream = model.generate(
            prompt, 24, temperature=temperature, lookup=lookup)
        assert list(stream) == expected
        drafts = stream.drafts
        assert drafts.accepted <= drafts.drafted <= drafts.passes * lookup
        assert drafts.decoded == len(expected) - 1
        assert drafts.failed == 0
        document = generated(
            program, llama, "--prompt", prompt, "--dtype", "bf16",
            "--temperature", str(temperature), "--lookup", str(lookup))
        assert document["drafted"] == drafts.drafted
        assert document["accepted"] == drafts.accepted
        assert document["passes"] == drafts.passes
    for stop in (expected[5].text, expected[12].text + expected[13].text):
        whole = model.generate(prompt, 24, temperature=temperature, stop=stop)
        assert model.generate(
            prompt, 24, temperature=temperature, stop=stop, lookup=9
        ).text() == whole.text()
    with pytest.raises(Error, match="lookup: is 16, expected 0 to 15"):
        model.generate(prompt, 4, lookup=16)


def test_a_pack(
    llama: pathlib.Path, program: str, adapter: pathlib.Path,
    tmp_path: pathlib.Path
) -> None:
    pack = tmp_path / "weights.pack"
    subprocess.run(
        [program, "pack", "--model", str(llama), "--adapter", str(adapter),
         "--dtype", "bf16", "--out", str(pack)],
        check=True, capture_output=True)
    packed = Model.load(llama, "bf16", adapter=adapter, pack=pack)
    numpy.testing.assert_array_equal(
        packed.logits(PROMPT),
        Model.load(llama, "bf16", adapter=adapter).logits(PROMPT))
    with pytest.raises(Error, match="weights.pack"):
        Model.load(llama, "bf16", pack=pack)
    with pytest.raises(Error, match="weights.pack"):
        Model.load(llama, "f16", adapter=adapter, pack=pack)
    pack.write_bytes(pack.read_bytes()[:1000])
    with pytest.raises(Error, match="weights.pack"):
        Model.load(llama, "bf16", adapter=adapter, pack=pack)


def test_the_table_of_the_environment(
    llama: pathlib.Path, table: pathlib.Path, tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table.json"
    path.write_text(table.read_text())
    monkeypatch.setenv("RANKFORGE_TABLE", str(path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Model.load(llama)
    # That it is read shows in what cannot be honoured of it.
    other = json.loads(path.read_text())
    other["fingerprint"]["cpu"]["model"] += 1
    path.write_text(json.dumps(other))
    with pytest.warns(rankforge.Notice, match="measured on another CPU"):
        Model.load(llama)
    path.write_text("{")
    with pytest.warns(rankforge.Notice, match="RANKFORGE_TABLE: .*without it"):
        Model.load(llama)
    with pytest.raises(Error, match="table.json"):
        Model.load(llama, table=path)
    monkeypatch.setenv("RANKFORGE_MODE", "off")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Model.load(llama)


def test_with_an_adapter(
    llama: pathlib.Path, program: str, adapter: pathlib.Path
) -> None:
    expected = generated(
        program, llama, *given(PROMPT), "--adapter", str(adapter))
    model = Model.load(llama, adapter=adapter)
    assert [t.id for t in model.generate(PROMPT, 24)] == expected["ids"]
    dense = Model.load(llama)
    assert numpy.any(dense.logits(PROMPT) != model.logits(PROMPT))


def test_layers_that_a_prompt_leaves_out(
    llama: pathlib.Path, program: str, tmp_path: pathlib.Path,
    random: numpy.random.Generator,
) -> None:
    hidden = json.loads((llama / "config.json").read_text())["hidden_size"]
    routers = {layer: random.normal(size=hidden) for layer in (1, 2, 3, 4)}
    path = tmp_path / "routers.safetensors"
    rankforge.save_routers(path, llama, routers, threshold=0.9,
                           parameters={"alpha": "0.1"})
    loaded = rankforge.load_adapter(path, llama)
    assert loaded.method == "first" and loaded.skip_threshold == 0.9
    for layer, router in routers.items():
        numpy.testing.assert_array_equal(
            loaded.routers[layer], router.astype(numpy.float32))

    for options, given_options in (
        ({}, ()),
        ({"skip_threshold": 1.0, "max_skip": 2},
         ("--skip-threshold", "1", "--max-skip", "2")),
        ({"skip_threshold": 1.0, "always_on": (2, 3)},
         ("--skip-threshold", "1", "--always-on", "2,3")),
        ({"skip_layers": [2, 4]}, ("--skip-layers", "2,4")),
    ):
        expected = generated(program, llama, *given(PROMPT), "--adapter",
                             str(path), *given_options)
        model = Model.load(llama, adapter=path, **options)
        stream = model.generate(PROMPT, 24)
        assert stream.layers is None
        assert [token.id for token in stream] == expected["ids"]
        assert stream.layers is not None
        assert stream.layers.skipped == expected["skipped_layers"]
        assert stream.layers.freed_bytes == expected["kv_bytes_freed"]
        assert stream.layers.rho == pytest.approx({
            int(layer): rho for layer, rho in expected.get("rho", {}).items()},
            rel=1e-4)
    dense = Model.load(llama).generate(PROMPT, 4)
    assert len(list(dense)) == 4 and dense.layers is None


def test_routers_beside_an_adapter(
    llama: pathlib.Path, adapter: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    hidden = json.loads((llama / "config.json").read_text())["hidden_size"]
    path = tmp_path / "both.safetensors"
    router = {2: numpy.full(hidden, -10.0)}
    rankforge.save_routers(path, llama, router, adapter=adapter)
    loaded = rankforge.load_adapter(path, llama)
    assert loaded.ranks and loaded.masks and list(loaded.routers) == [2]
    stream = Model.load(llama, adapter=path).generate(PROMPT, 4)
    list(stream)
    assert stream.layers is not None and list(stream.layers.rho) == [2]
    with pytest.raises(Error, match="skips layers already"):
        rankforge.save_routers(path, llama, router, adapter=path)


def test_routers_that_are_refused(
    llama: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    hidden = json.loads((llama / "config.json").read_text())["hidden_size"]
    path = tmp_path / "routers.safetensors"
    right = numpy.zeros(hidden, numpy.float32)
    wrong = right.copy()
    wrong[3] = numpy.nan
    for routers, message in (
        ({}, "routers: is empty"),
        ({2: wrong}, "block 2 has a value that is not finite"),
        ({2: right[:-1]}, "values for block 2, expected"),
        ({99: right}, "block 99"),
        ({2: right.reshape(1, -1)}, "2 dimensions"),
    ):
        with pytest.raises(Error, match=message):
            rankforge.save_routers(path, llama, routers)
    with pytest.raises(Error, match="threshold 2"):
        rankforge.save_routers(path, llama, {2: right}, threshold=2)
    assert not path.exists()
    with pytest.raises(Error, match="nothing judges"):
        Model.load(llama, skip_threshold=0.5)
    with pytest.raises(Error, match="always run"):
        Model.load(llama, skip_layers=[0])


def test_logits_choose_the_tokens(llama: pathlib.Path) -> None:
    model = Model.load(llama, threads=1)
    logits = model.logits(PROMPT)
    assert logits.shape == (len(PROMPT), model.vocab)
    first = next(model.generate(PROMPT))
    assert first.id == int(logits[-1].argmax())
    # One sequence: what comes later changes nothing before.
    numpy.testing.assert_allclose(
        model.logits(PROMPT[:3]), logits[:3], rtol=1e-4, atol=1e-4)


def test_two_streams_of_one_model(llama: pathlib.Path) -> None:
    model = Model.load(llama)
    prompts = (PROMPT, PROMPT[:2])
    alone = [[t.id for t in model.generate(p, 8)] for p in prompts]
    streams = [model.generate(p, 8) for p in prompts]
    ids: list[list[int]] = [[], []]
    for _ in range(8):
        for stream, of in zip(streams, ids):
            token = next(stream, None)
            if token is not None:
                of.append(token.id)
    assert ids == alone


def test_what_is_refused(llama: pathlib.Path) -> None:
    model = Model.load(llama)
    with pytest.raises(Error, match="prompt: has no tokens"):
        model.generate([])
    with pytest.raises(Error, match="no room in a context"):
        model.generate([1] * model.max_positions)
    with pytest.raises(Error, match="top_p: is 2, expected"):
        model.generate(PROMPT, top_p=2)
    with pytest.raises(Error, match="stop: has an empty text"):
        model.generate(PROMPT, stop=["a", ""])
    with pytest.raises(Error, match="temperature: is nan, expected"):
        model.generate(PROMPT, temperature=float("nan"))
    with pytest.raises(Error, match="ids: is empty"):
        model.logits([])
    with pytest.raises(Error):
        model.logits([model.vocab])
    with pytest.raises(Error):
        next(model.generate([-1]))
    with pytest.raises(Error, match="dtype: 'f64' is none of f32, bf16"):
        Model.load(llama, "f64")  # type: ignore[arg-type]
    with pytest.raises(Error, match="kv_dtype: 'i4_group32' is none of"):
        Model.load(llama, kv_dtype="i4_group32")


def test_adapter_file(
    llama: pathlib.Path, adapter: pathlib.Path, checkpoint: pathlib.Path
) -> None:
    if checkpoint != llama:
        with pytest.raises(Error, match="another checkpoint"):
            rankforge.load_adapter(adapter, checkpoint)
        return
    loaded = rankforge.load_adapter(adapter, llama)
    assert loaded.method == "rana-paper" and loaded.keep == 0.6
    assert loaded.ranks and loaded.masks
    for name, rank in loaded.ranks.items():
        assert rank.module == name
        assert rank.a.shape[1] == rank.b.shape[0] == len(rank.tau)
        assert not rank.b.flags.writeable and not rank.b.flags.owndata
        x = numpy.ones(rank.b.shape[1], numpy.float32)
        z = rank.b @ x
        z[numpy.abs(z) < rank.tau] = 0
        numpy.testing.assert_allclose(
            rank.plan()(x), rank.a @ z, rtol=1e-3, atol=1e-3)
    for channels in loaded.masks.values():
        kept = channels.mask().make_into(
            numpy.zeros((len(channels.tau) + 63) // 64, numpy.uint64),
            channels.tau)
        assert kept == numpy.count_nonzero(numpy.isfinite(channels.tau))


def test_tables(table: pathlib.Path) -> None:
    """A table of one small problem: opened, used, explained."""
    opened = rankforge.load_table(table)
    assert opened.notes == ""
    assert "from table" in rankforge.explain(TUNED, opened)
    assert "from table" not in rankforge.explain(TUNED)
    w = numpy.ones((64, 96), numpy.float32)
    weights = rankforge.pack(w, "column_mask", table=opened)
    plan = rankforge.Plan.gemv(weights, table=opened)
    y = plan(w[0], mask=rankforge.Mask.threshold(0))
    numpy.testing.assert_array_equal(y, numpy.full(64, 96, numpy.float32))


def test_a_table_of_other_activations_is_said(
    llama: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    config = json.loads((llama / "config.json").read_text())
    lm_head = rankforge.Problem(
        "dense", config["vocab_size"], config["hidden_size"], "i8", threads=1,
        activations="f32")
    path = tmp_path / "table.json"
    rankforge.tune([lm_head], path, rigor="estimate", budget_seconds=60,
                   allow_noise=True)
    with pytest.warns(
        rankforge.Notice,
        match="table.json: has dense .* i8 .*with f32 activations alone"
    ):
        Model.load(llama, "i8", table=path, threads=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Model.load(llama, "i8", activations="f32", table=path, threads=1)


def test_progress_of_tuning(tmp_path: pathlib.Path) -> None:
    calls: list[int] = []

    def stop(done: int, *rest: object) -> None:
        calls.append(done)
        raise KeyError("stop")

    path = tmp_path / "table.json"
    with pytest.raises(KeyError, match="stop"):
        rankforge.tune([TUNED], path, rigor="estimate", budget_seconds=1,
                       allow_noise=True, progress=stop)
    assert calls
    with pytest.raises(Error, match="problems: is empty"):
        rankforge.tune([], path)
