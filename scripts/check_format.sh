#!/usr/bin/env bash
# Fails when clang-format-14 would change a tracked source file.
set -euo pipefail
cd "$(dirname "$0")/.."
git ls-files -z '*.h' '*.hpp' '*.c' '*.cc' | xargs -0 -r clang-format-14 --dry-run -Werror
