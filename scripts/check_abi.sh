#!/usr/bin/env bash
# Compares the functions and types that the headers of the C library offer with
# the dumps in generated/abi/. With --write, writes those. Exits 77 where
# libabigail is not installed. Usage: scripts/check_abi.sh [--write] CC
#
# The dumps are of libraries that have nothing but the functions of a header,
# with empty bodies: what programs see, and none of the library's insides.
# scripts/check_library.sh compares the headers with the libraries.
set -euo pipefail
cd "$(dirname "$0")/.."
write=
if [ "${1-}" = --write ]; then write=1; shift; fi
cc=$1
command -v abidw abidiff >/dev/null || {
  echo "check_abi.sh: skipped: apt-get install abigail-tools" >&2
  exit 77
}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

for name in rankforge rankforge_tuner; do
  perl -0pe 's/(\nRANKFORGE_API[^;]*);/$1 { __builtin_trap(); }/g' \
    "include/rankforge/$name.h" >"$scratch/$name.c"
  "$cc" -std=c11 -g -O0 -fPIC -shared -fno-eliminate-unused-debug-types \
    -Iinclude/rankforge -o "$scratch/lib$name.so" "$scratch/$name.c"
  dump=generated/abi/$name.xml
  # No function has the type of an enumerator, so that libabigail leaves it out.
  values=generated/abi/$name.txt
  grep -oE 'RANKFORGE_[A-Z0-9_]+ = -?[0-9]+' "include/rankforge/$name.h" \
    >"$scratch/values"
  if [ -n "$write" ]; then
    mkdir -p generated/abi
    abidw --no-corpus-path --no-show-locs --no-comp-dir-path \
      --type-id-style hash --out-file "$dump" "$scratch/lib$name.so"
    cp "$scratch/values" "$values"
  elif ! abidiff "$dump" "$scratch/lib$name.so" ||
    ! diff "$values" "$scratch/values"; then
    echo "$name.h differs from $dump. Where no program notices (a new function," \
      "a field at the end): scripts/check_abi.sh --write $cc. Otherwise raise" \
      "the minor version first." >&2
    exit 1
  fi
done
