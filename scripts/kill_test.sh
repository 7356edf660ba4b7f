#!/bin/bash
# Kills `rankforge tune` at random moments. After each kill there must be a valid
# table or none, and a run with --resume must complete from the journal.
#
#   scripts/kill_test.sh PROGRAM [MOMENTS [SEED]]
set -euo pipefail

program=$1
moments=${2:-50}
RANDOM=${3:-1}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
table=$folder/table.json

cat > "$folder/shapes.json" <<SHAPES
[{"operation": "column_mask", "rows": 512, "cols": 768, "dtype": "bf16", "density": 0.4},
 {"operation": "row_mask", "rows": 768, "cols": 512, "dtype": "f32", "density": 0.6},
 {"operation": "dense", "rows": 512, "cols": 512, "dtype": "bf16"}]
SHAPES

arguments=(tune --shapes "$folder/shapes.json" --rigor estimate --budget 60s
           --threads 1 --allow-noise --out "$table")
tune() { "$program" "${arguments[@]}" "$@" 2> "$folder/err"; }
fail() {
  echo "kill_test: $1" >&2
  cat "$folder/err" >&2
  exit 1
}

start=$(date +%s%N)
tune > /dev/null || fail "an undisturbed run fails"
length_ms=$((($(date +%s%N) - start) / 1000000 + 1))

for ((i = 1; i <= moments; ++i)); do
  # Every third time, the run that is killed is a resumed one.
  resume=()
  if ((i % 3 == 0)); then resume=(--resume); else rm -f "$table"*; fi
  "$program" "${arguments[@]}" "${resume[@]}" > /dev/null 2>&1 &
  running=$!
  moment=$((RANDOM * length_ms / 32768))
  sleep "$((moment / 1000)).$(printf %03d $((moment % 1000)))"
  kill -9 "$running" 2> /dev/null || true
  wait "$running" 2> /dev/null || true

  if [[ -e $table ]]; then
    "$program" table show "$table" > /dev/null 2> "$folder/err" ||
      fail "moment $i (${moment} ms): the table is damaged"
    [[ ! -s $folder/err ]] || fail "moment $i: the table has complaints"
  fi
  tune --resume > "$folder/out" || fail "moment $i (${moment} ms): no resuming"
  "$program" table show "$table" > /dev/null 2> "$folder/err" ||
    fail "moment $i: the resumed run left no table"
  grep -q '3 entries' "$folder/out" || fail "moment $i: entries are missing"
  # Nothing but the table and its journal is left.
  [[ $(ls "$folder" | grep -c '^table') == 2 ]] || fail "moment $i: other files"
done
echo "kill_test: $moments kills within $length_ms ms, all resumed"
