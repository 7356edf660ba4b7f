"""The package itself: names, stubs, documents, examples."""

import ast
import inspect
import pathlib
import runpy
import typing

import pytest

import rankforge
from rankforge import _core
from conftest import ROOT

PACKAGE = pathlib.Path(rankforge.__file__).parent


def test_names_and_version() -> None:
    for name in rankforge.__all__:
        value = getattr(rankforge, name)
        if isinstance(value, type) or inspect.isfunction(value):
            assert value.__doc__, name
    assert rankforge.__version__ == _core.version()
    text = (ROOT / "CMakeLists.txt").read_text()
    assert f"VERSION {rankforge.__version__} " in text
    assert (PACKAGE / "py.typed").exists()


def test_the_annotation_lists_the_weight_types() -> None:
    assert typing.get_args(rankforge.WeightType) == rankforge.WEIGHT_TYPES


def test_the_stub_has_the_names_of_the_module() -> None:
    """Of functions and classes, of their members, and of all parameters."""
    stub = ast.parse((PACKAGE / "_core.pyi").read_text())

    def functions(body: list[ast.stmt]) -> dict[str, set[str]]:
        return {
            node.name: {arg.arg for arg in [*node.args.args,
                                            *node.args.kwonlyargs]} - {"self"}
            for node in body if isinstance(node, ast.FunctionDef)
        }

    def public(of: object) -> set[str]:
        return {name for name in vars(of) if not name.startswith("_")}

    classes = {node.name: node for node in stub.body
               if isinstance(node, ast.ClassDef)}
    assert public(_core) == set(classes) | set(functions(stub.body))
    for name, node in classes.items():
        members = functions(node.body)
        actual = getattr(_core, name)
        written = {member for member in members if not member.startswith("_")}
        assert public(actual) == written, name
        for member, parameters in members.items():
            signature = getattr(actual, member).__doc__ or ""
            for parameter in parameters:
                assert parameter in signature, (name, member, parameter)


@pytest.mark.parametrize(
    "example", sorted((ROOT / "examples" / "python").glob("*.py")),
    ids=lambda path: str(path.name))
def test_examples_run(
    example: pathlib.Path, llama: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", [str(example), str(llama)])
    runpy.run_path(str(example), run_name="__main__")
    assert capsys.readouterr().out


def test_the_document_runs(llama: pathlib.Path, tmp_path: pathlib.Path,
                           monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of docs/python.md, one after the other, in one scope."""
    text = (ROOT / "docs" / "python.md").read_text()
    parts = text.split("```python\n")[1:]
    assert len(parts) >= 3
    monkeypatch.chdir(ROOT)
    scope: dict[str, object] = {"folder": str(tmp_path)}
    for part in parts:
        code = part.split("```")[0]
        if "import torch" in code:
            pytest.importorskip("torch")
        exec(compile(code, "docs/python.md", "exec"), scope)
