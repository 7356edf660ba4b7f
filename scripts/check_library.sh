#!/usr/bin/env bash
# Fails unless a shared library exports what the headers in FOLDER declare with
# RANKFORGE_API, all or one header's part of it, and nothing else.
# Usage: scripts/check_library.sh NM LIBRARY FOLDER
set -euo pipefail
nm=$1 library=$2 folder=$3
header=rankforge.h
[[ $library == *tuner* ]] && header=rankforge_tuner.h

exported=$("$nm" -D --defined-only "$library" | awk '{print $3}' | sort)
declared=$(tr '\n' ' ' <"$folder/$header" |
  grep -oE 'RANKFORGE_API [^(;]*\(' | grep -oE 'rankforge_[a-z_0-9]+\(' |
  tr -d '(' | sort)
if ! difference=$(diff <(echo "$declared") <(echo "$exported")); then
  printf '%s declares (<) and %s exports (>):\n%s\n' "$header" "$library" \
    "$difference" >&2
  exit 1
fi
