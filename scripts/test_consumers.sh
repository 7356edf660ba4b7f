#!/usr/bin/env bash
# Installs the library of a finished build into an empty folder, moves that, and
# builds programs in C11, C++17 and C++20 against it, by CMake and by pkg-config.
# Runs all of them. Usage: scripts/test_consumers.sh CMAKE BUILD CC CXX
set -euo pipefail
cmake=$1 build=$2 cc=$3 cxx=$4
source=$(cd "$(dirname "$0")/.." && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

for component in library dev; do
  "$cmake" --install "$build" --prefix "$scratch/first" \
    --component "$component" >"$scratch/log"
done
mv "$scratch/first" "$scratch/prefix"
prefix=$scratch/prefix
export PKG_CONFIG_PATH=$(dirname "$(find "$prefix" -name rankforge.pc)")
export LD_LIBRARY_PATH=$(dirname "$PKG_CONFIG_PATH")

echo "== CMake"
"$cmake" -G Ninja -S "$source/tests/capi/consumer" -B "$scratch/consumer" \
  -DCMAKE_PREFIX_PATH="$prefix" -DEXAMPLES="$source/examples/library" \
  -DCMAKE_C_COMPILER="$cc" -DCMAKE_CXX_COMPILER="$cxx" --log-level=WARNING
"$cmake" --build "$scratch/consumer" >"$scratch/log" ||
  { cat "$scratch/log" >&2; exit 1; }
for program in c11 c11_static cxx17 cxx20; do
  "$scratch/consumer/$program"
done
"$scratch/consumer/tuner" "$scratch/table.json"

echo "== pkg-config"
flags=(-Wall -Wextra -Wpedantic -Werror)
read -ra with <<<"$(pkg-config --cflags --libs rankforge)"
"$cc" -std=c11 "${flags[@]}" "$source/examples/library/column_mask.c" \
  -o "$scratch/c11" "${with[@]}"
"$scratch/c11"
read -ra with_static <<<"$(pkg-config --static --cflags --libs rankforge |
  sed 's/-lrankforge /-l:librankforge.a /')"
"$cc" -std=c11 "${flags[@]}" "$source/examples/library/column_mask.c" \
  -o "$scratch/c11_static" "${with_static[@]}"
"$scratch/c11_static"
"$cxx" -std=c++17 "${flags[@]}" "$source/examples/library/rank_adapter.cc" \
  -o "$scratch/cxx17" "${with[@]}"
"$scratch/cxx17"
pkg-config --exists 'rankforge-tuner = 0.2.0'
