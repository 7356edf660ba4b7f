#!/usr/bin/env bash
# Installs what is missing, builds and tests: formatting, the release build with
# all default tests, and under the address and undefined-behaviour sanitizers the
# rooms that handle memory and files of others (CMakePresets.json), all but the long
# tests. CI calls this; scripts/test_full.sh adds what is slow.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/install_deps.sh clang-format-14 abigail-tools
scripts/check_format.sh

if command -v ccache >/dev/null; then
  export CMAKE_C_COMPILER_LAUNCHER=ccache CMAKE_CXX_COMPILER_LAUNCHER=ccache
fi

# Without network, python_test is skipped.
python=(-DRANKFORGE_BUILD_PYTHON=OFF)
if nanobind=$(scripts/fetch_nanobind.sh); then
  python=(-DRANKFORGE_BUILD_PYTHON=ON "-Dnanobind_DIR=$nanobind")
fi

for preset in ci asan; do
  echo "== $preset: configure, build, test"
  options=()
  [ "$preset" != ci ] || options=("${python[@]}")
  cmake --preset "$preset" --log-level=WARNING "${options[@]}"
  cmake --build --preset "$preset"
  ctest --preset "$preset" --output-log "build/$preset/ctest.log"
done

# Repeated at the end, where the eye looks: the closing line of each run.
for preset in ci asan; do
  echo "$preset: $(grep 'tests passed' "build/$preset/ctest.log")"
  grep -hE '\(Skipped\)|^SKIPPED' "build/$preset/ctest.log" \
    "build/$preset/Testing/Temporary/LastTest.log" || true
done
