#!/usr/bin/env bash
# Compares the functions and types that a shared library offers with the dump in
# generated/abi/. With --write, writes that dump. Exits 77 where libabigail is
# not installed. Usage: scripts/check_abi.sh [--write] LIBRARY...
set -euo pipefail
cd "$(dirname "$0")/.."
write=
if [ "${1-}" = --write ]; then write=1; shift; fi
command -v abidw abidiff >/dev/null || {
  echo "check_abi.sh: skipped: apt-get install abigail-tools" >&2
  exit 77
}

for library in "$@"; do
  name=$(basename "$library" | sed 's/\.so.*//')
  dump=generated/abi/$name.xml
  if [ -n "$write" ]; then
    mkdir -p generated/abi
    abidw --headers-dir include --drop-private-types --no-corpus-path \
      --no-show-locs --no-comp-dir-path --no-write-default-sizes \
      --type-id-style hash --out-file "$dump" "$library"
    continue
  fi
  abidiff --headers-dir2 include --drop-private-types "$dump" "$library" || {
    echo "$name differs from $dump. A change that no program notices:" \
      "scripts/check_abi.sh --write $library. Any other: raise the version." >&2
    exit 1
  }
done
