#!/usr/bin/env bash
# Installs what is missing, builds, and runs the main job: adapt a trained
# checkpoint with RaNA, tune its kernels for this CPU, compare the adapted with
# the dense model; then the shape of Llama-2-7B, where the speed shows.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/install_deps.sh
cmake --preset release --log-level=WARNING -DRANKFORGE_BUILD_BENCH=OFF \
  -DRANKFORGE_BUILD_TESTS=OFF
cmake --build --preset release

rankforge=build/release/rankforge
model=examples/models/llama-gqa-7m
text=examples/models/text
out=build/demo
mkdir -p "$out"
title() { printf '\n== %s\n' "$1"; }

title "This machine"
"$rankforge" env

title "RaNA adapter for llama-gqa-7m, keeping 0.6 of the multiply-adds"
"$rankforge" adapt --model "$model" --calibration "$text/calibration.txt" \
  --keep 0.6 --out "$out/rana.safetensors"

title "Kernels tuned for the dense and the adapted model on this CPU"
"$rankforge" tune --allow-noise --model "$model" --adapter "$out/rana.safetensors" \
  --dtype bf16 --budget 20s --out "$out/llama-gqa-7m.json"

evaluate=("$rankforge" eval --model "$model" --text "$text/evaluation.txt"
  --windows 40 --dtype bf16 --table "$out/llama-gqa-7m.json")
generate=("$rankforge" generate --model "$model" --dtype bf16
  --table "$out/llama-gqa-7m.json" --prompt "Once upon a time" -n 120)
title "Perplexity and work, dense"
"${evaluate[@]}"
title "Perplexity and work, adapted"
"${evaluate[@]}" --adapter "$out/rana.safetensors"
title "Text and tokens/s, dense"
"${generate[@]}"
title "Text and tokens/s, adapted"
"${generate[@]}" --adapter "$out/rana.safetensors"

title "The shape of Llama-2-7B with synthetic weights: tune, then decode"
"$rankforge" tune --allow-noise --preset llama-2-7b --keep 0.56 --dtype bf16 --budget 40s \
  --rigor estimate --out "$out/llama-2-7b.json"
"$rankforge" bench --preset llama-2-7b --keep 0.56 --dtype bf16 \
  --table "$out/llama-2-7b.json"
