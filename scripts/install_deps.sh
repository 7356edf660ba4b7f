#!/usr/bin/env bash
# Installs what the build needs from Debian 12 packages, and prints nothing when
# all of it is there. Extra packages may be named as arguments. --peers, in front
# of them, stands for what bench/peers_bench runs against.
set -euo pipefail

if [ "${1-}" = --peers ]; then
  shift
  set -- libopenblas-dev libblis-dev libeigen3-dev libdnnl-dev ocl-icd-opencl-dev "$@"
fi

packages=(
  g++ cmake ninja-build pkg-config
  libhwy-dev libxsimd-dev libhwloc-dev nlohmann-json3-dev libfmt-dev
  libcli11-dev libopenblas-pthread-dev libsentencepiece-dev
  libpcre2-dev libutf8proc-dev
  libgtest-dev libbenchmark-dev python3-jinja2 python3-jsonschema
  python3-matplotlib python3-numpy python3-pytest python3-dev python3-venv
  man-db zsh
  "$@"
)
missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$status" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || {
    echo "install_deps.sh: as root, run: apt-get install ${missing[*]}" >&2
    exit 3
  }
  as_root=(sudo)
fi
echo "Installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}"
