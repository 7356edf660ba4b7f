#!/usr/bin/env bash
# What is too slow for every change: scripts/test.sh, then every variant under
# the address and undefined-behaviour sanitizers, the thread sanitizer, clang,
# clang-tidy, the kernels for 64-bit Arm under emulation, the benchmark beside
# other libraries, and the page of `rankforge report` in a browser. This takes
# hours. Arguments select parts: default asan tsan clang tidy neon peers report
# packages python.
set -euo pipefail
cd "$(dirname "$0")/.."
parts=("$@")
[ ${#parts[@]} -gt 0 ] ||
  parts=(default asan tsan clang tidy neon peers report packages python)

if command -v ccache >/dev/null; then
  export CMAKE_C_COMPILER_LAUNCHER=ccache CMAKE_CXX_COMPILER_LAUNCHER=ccache
fi

run_preset() {
  cmake --preset "$1" --log-level=WARNING
  cmake --build --preset "$1"
  ctest --preset "$1"
}

run_default() { scripts/test.sh; }

run_asan() {
  scripts/install_deps.sh
  cmake --preset asan -B build/asan-all -DRANKFORGE_DEFAULT_VARIANTS=OFF \
    -DRANKFORGE_TEST_ROOMS="base;kernels;runtime;model;tuner;capi;adapt;optimize;cli;forge" \
    --log-level=WARNING
  cmake --build build/asan-all
  ctest --test-dir build/asan-all --output-on-failure -j 2
}

# Races in our own executors; libraries of the system are not instrumented
# (scripts/tsan.supp).
run_tsan() {
  scripts/install_deps.sh
  run_preset tsan
}

run_clang() {
  scripts/install_deps.sh clang-14
  run_preset clang
}

# Without bench, where the analyzer complains of Google Benchmark's headers, what
# another build compiles (python, examples, integrations), and without precompiled
# headers, which clang cannot read from g++.
run_tidy() {
  scripts/install_deps.sh clang-tidy-14
  cmake --preset release -B build/tidy -DCMAKE_DISABLE_PRECOMPILE_HEADERS=ON \
    -DRANKFORGE_UNITY_BUILD=OFF --log-level=WARNING
  git ls-files -z '*.cc' ':!tests' ':!generated' ':!bench' ':!python' ':!examples' \
    ':!integrations' |
    xargs -0 -n 1 -P 2 clang-tidy-14 -p build/tidy --quiet \
      --extra-arg=-fconstexpr-steps=16777216 --warnings-as-errors='*'
}

# NEON: every kernel entry against the scalar reference, under qemu.
run_neon() {
  scripts/install_deps.sh g++-aarch64-linux-gnu qemu-user
  scripts/aarch64_sysroot.sh build/aarch64-sysroot
  cmake -G Ninja -S . -B build/aarch64 --log-level=WARNING \
    -DCMAKE_TOOLCHAIN_FILE=cmake/aarch64.cmake \
    -DRANKFORGE_SYSROOT="$PWD/build/aarch64-sysroot" \
    -DRANKFORGE_BUILD_BENCH=OFF -DRANKFORGE_WERROR=ON
  cmake --build build/aarch64 --target tests/kernels/all
  ctest --test-dir build/aarch64/tests/kernels --output-on-failure
}

run_peers() {
  scripts/install_deps.sh --peers
  cmake --preset ci -B build/peers -DRANKFORGE_BUILD_PEERS=ON \
    --log-level=WARNING
  cmake --build build/peers --target peers_test
  ctest --test-dir build/peers/tests/bench --output-on-failure -R peers_test
}

# scripts/test.sh leaves the browser out: its package takes 350 MB. Screenshots
# stay in build/ci/report.
run_report() {
  scripts/install_deps.sh chromium
  cmake --preset ci -DRANKFORGE_TEST_BROWSER=chromium --log-level=WARNING
  cmake --build --preset ci --target rankforge_cli
  ctest --preset ci -R report_test
}

# Debian packages, in an empty system.
run_packages() {
  scripts/install_deps.sh debootstrap
  cmake --preset ci -B build/packages -DRANKFORGE_BUILD_TESTS=OFF \
    -DRANKFORGE_BUILD_BENCH=OFF -DRANKFORGE_BUILD_INTEGRATIONS=OFF \
    --log-level=WARNING
  cmake --build build/packages
  (cd build/packages && cpack)
  scripts/test_packages.sh build/packages/packages
}

# The Python package from a clean copy, as wheels, and with PyTorch.
run_python() {
  scripts/install_deps.sh
  scripts/test_install.sh
  scripts/build_wheels.sh
  scripts/test_python.sh
}

for part in "${parts[@]}"; do
  echo "== $part"
  "run_$part"
done
