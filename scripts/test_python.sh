#!/usr/bin/env bash
# Installs the Python package and what its tests need into build/python/venv, and
# runs pytest and mypy. --no-torch leaves out PyTorch, Transformers, peft and ONNX Runtime,
# whose tests are then skipped by name, as are those of a program that is not built.
#
#   scripts/test_python.sh [--no-torch] [PYTEST-ARGUMENT...]
#
# PYTHON names the interpreter (python3, 3.11 or later), RANKFORGE_PROGRAM the
# program `rankforge`, RANKFORGE_ONNXRUNTIME the operators for ONNX Runtime.
set -euo pipefail
cd "$(dirname "$0")/.."

requirements=(-r python/requirements-test.txt -r python/requirements-torch.txt
  -r python/requirements-training.txt -r python/requirements-onnxruntime.txt)
if [ "${1-}" = --no-torch ]; then
  shift
  requirements=(-r python/requirements-test.txt)
fi

venv=build/python/venv
[ -x $venv/bin/python ] || "${PYTHON:-python3}" -m venv $venv
# Where the index of PyTorch cannot be reached, PyPI's PyTorch does.
$venv/bin/python -m pip install --quiet --retries 1 "${requirements[@]}"
if command -v ccache >/dev/null; then
  export CMAKE_C_COMPILER_LAUNCHER=ccache CMAKE_CXX_COMPILER_LAUNCHER=ccache
fi
$venv/bin/python -m pip install --quiet --force-reinstall --no-deps .

# Without network, tests of a real model are skipped by name.
if [ "${RANKFORGE_SMOLLM2-unset}" = unset ] && [ ${#requirements[@]} -gt 2 ]; then
  RANKFORGE_SMOLLM2=$(scripts/fetch_smollm2.sh build/models) || RANKFORGE_SMOLLM2=
  export RANKFORGE_SMOLLM2
fi

# What the package says of types, and what the tests do with it.
$venv/bin/python -m mypy --strict -p rankforge
MYPYPATH=tests/python $venv/bin/python -m mypy --strict tests/python examples/python \
  examples/onnxruntime/masked_session.py scripts/transformers_speed.py
$venv/bin/python -m pytest -ra "$@"
