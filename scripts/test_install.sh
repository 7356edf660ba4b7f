#!/usr/bin/env bash
# Installs the Python package from a clean copy of the last commit into an empty
# environment, by `pip install .` alone, and runs its examples and the first part
# of docs/python.md there. Then expects wrong environments to be told what they
# lack. Needs the network, or what pip is told to use in its place.
# Usage: scripts/test_install.sh [PYTHON]   (python3, 3.11 or later)
set -euo pipefail
source=$(cd "$(dirname "$0")/.." && pwd)
python=${1:-python3}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
if command -v ccache >/dev/null; then
  export CMAKE_C_COMPILER_LAUNCHER=ccache CMAKE_CXX_COMPILER_LAUNCHER=ccache
fi

git clone --quiet "$source" "$scratch/copy"
cd "$scratch/copy"
"$python" -m venv "$scratch/venv"

# refuses SENTENCE VARIABLE=VALUE...: the installation fails and says so.
refuses() {
  local sentence=$1
  shift
  if env "$@" "$scratch/venv/bin/python" -m pip install . >"$scratch/log" 2>&1; then
    echo "test_install.sh: $* installed" >&2
    exit 1
  fi
  grep -qF "$sentence" "$scratch/log" || {
    echo "test_install.sh: $*: no '$sentence' in" >&2
    cat "$scratch/log" >&2
    exit 1
  }
  echo "refused: $sentence"
  rm -rf build
}
echo "== wrong environments"
for package in hwy:libhwy-dev nlohmann_json:nlohmann-json3-dev \
  Python:python3-dev PkgConfig:pkg-config; do
  refuses "apt-get install ${package#*:}" \
    "CMAKE_ARGS=-DCMAKE_DISABLE_FIND_PACKAGE_${package%:*}=ON"
done
refuses "Could not find the compiler specified" CXX=/nowhere/c++

echo "== pip install ."
"$scratch/venv/bin/python" -m pip install --quiet .
cd "$scratch"
run() { "$scratch/venv/bin/python" "$@"; }
run copy/examples/python/masked_product.py
run copy/examples/python/generate.py copy/examples/models/llama-gqa-7m
# The blocks of the document that need no PyTorch.
run - copy/docs/python.md <<'INSIDE'
import os, pathlib, sys
text = pathlib.Path(sys.argv[1]).read_text()
os.chdir("copy")
scope = {}
for part in text.split("```python\n")[1:]:
    code = part.split("```")[0]
    if "import torch" not in code:
        exec(compile(code, sys.argv[1], "exec"), scope)
print(f"\nrankforge {scope['rankforge'].__version__}: docs/python.md runs")
INSIDE
