#!/usr/bin/env bash
# Fails when an object defines a function, other than those whose names the
# pattern finds, that the linker could choose for other objects too: objects
# compiled for a later instruction set must not lend code to the rest.
# Usage: scripts/check_exports.sh NM PATTERN OBJECT...
set -euo pipefail
nm=$1
pattern=$2
shift 2
[ $# -gt 0 ] || { echo "check_exports.sh: no objects" >&2; exit 2; }

# T, W and i: functions, weak and indirect ones. Data holds no instructions.
for object in "$@"; do
  functions=$("$nm" --defined-only --extern-only -C "$object" |
    grep -E '^[0-9a-f]+ [TWi] ' | cut -d' ' -f3-)
  grep -qE "$pattern" <<<"$functions" || {
    echo "$object defines nothing named $pattern" >&2
    exit 1
  }
  if lent=$(grep -vE "$pattern" <<<"$functions"); then
    printf '%s lends to others:\n%s\n' "$object" "$lent" >&2
    exit 1
  fi
done
