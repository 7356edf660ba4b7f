#!/usr/bin/env bash
# Installs nanobind, which Debian 12 has no package of, from PyPI into build/tools,
# in the version of pyproject.toml, and prints the folder of its CMake package:
#
#   cmake --preset ci -DRANKFORGE_BUILD_PYTHON=ON -Dnanobind_DIR=$(scripts/fetch_nanobind.sh)
set -euo pipefail
cd "$(dirname "$0")/.."
requirement=$(grep -oE 'nanobind==[0-9.]+' pyproject.toml)
folder=$PWD/build/tools/$requirement
if [ ! -d "$folder" ]; then
  mkdir -p build/tools
  scratch=$(mktemp -d build/tools/fetch-XXXXXX)
  trap 'rm -rf "$scratch"' EXIT
  /usr/bin/python3 -m venv "$scratch/venv"
  "$scratch/venv/bin/python" -m pip install --quiet --no-deps \
    --target "$scratch/nanobind" "$requirement" >&2
  mv "$scratch/nanobind" "$folder"
fi
PYTHONPATH=$folder /usr/bin/python3 -m nanobind --cmake_dir
