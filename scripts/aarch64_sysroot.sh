#!/usr/bin/env bash
# Unpacks the arm64 packages that the kernels and their tests link into a
# folder, without touching the architectures of this system's package manager.
# Usage: scripts/aarch64_sysroot.sh FOLDER
set -euo pipefail
folder=$(realpath -m "$1")
packages=(
  libhwy-dev libhwloc-dev nlohmann-json3-dev libfmt-dev libcli11-dev
  libopenblas-pthread-dev libsentencepiece-dev libpcre2-dev libutf8proc-dev
  libgtest-dev
)
complete=$folder/complete
[ "$(cat "$complete" 2>/dev/null)" != "${packages[*]}" ] || exit 0
rm -rf "$folder"

apt="$folder.apt"
mkdir -p "$folder" "$apt/lists/partial" "$apt/cache/archives/partial"
: >"$apt/status"
options=(
  -o APT::Architecture=arm64 -o APT::Architectures=arm64
  -o Dir::State="$apt" -o Dir::State::status="$apt/status"
  -o Dir::Cache="$apt/cache" -o Debug::NoLocking=1 -o APT::Sandbox::User=root
)
apt-get "${options[@]}" update -qq
apt-get "${options[@]}" install -y -qq --download-only --no-install-recommends \
  "${packages[@]}" >/dev/null
for package in "$apt"/cache/archives/*.deb; do
  dpkg -x "$package" "$folder"
done
rm -rf "$apt"
echo "${packages[*]}" >"$complete"
