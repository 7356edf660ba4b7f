#!/usr/bin/env bash
# Installs the Debian packages of a folder (`cpack`) into an empty system, builds
# and runs a program with them, runs the program that they bring, reads its manual
# and its completions, purges them, and fails if a file of theirs is left. As root;
# needs debootstrap and the network. Usage: scripts/test_packages.sh FOLDER
set -euo pipefail
source=$(cd "$(dirname "$0")/.." && pwd)
root=$(mktemp -d)
chmod 755 "$root"  # for the user of apt
clean() {
  local folder
  # debootstrap may have left one of its own there.
  for folder in proc sys; do
    while umount "$root/$folder" 2>/dev/null; do :; done
  done
  rm -rf --one-file-system "$root" "$root.log"
}
trap clean EXIT

mirror=$(sed -nE 's/^(deb |URIs: )(\[[^]]*\] )?(https?:[^ ]+).*/\3/p' \
  /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
  grep -v security | head -1) || true
debootstrap --variant=minbase --include=ca-certificates bookworm "$root" \
  "${mirror:-http://deb.debian.org/debian}" >"$root.log" 2>&1 ||
  { cat "$root.log" >&2; exit 1; }
mount -t proc proc "$root/proc" 2>/dev/null || true
mount -t sysfs -o ro sysfs "$root/sys" 2>/dev/null || true  # hwloc reads it
mkdir "$root/tmp/packages"
cp "$1"/*.deb "$root/tmp/packages/"
cp "$source/examples/library/column_mask.c" "$root/tmp/"
cp -r "$source/examples/models/llama-gqa-7m" "$root/tmp/model"
cat >"$root/tmp/test.sh" <<'INSIDE'
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
cd /tmp
apt-get update -qq
apt-get install -y -qq --no-install-recommends gcc libc6-dev pkg-config man-db \
  ./packages/*.deb
echo "== the library"
gcc column_mask.c -o column_mask $(pkg-config --cflags --libs rankforge)
./column_mask
echo "== the program"
rankforge env
rankforge generate --model model --prompt "Once upon a time" -n 8
# A page that is shown by its name stays in the cache of man.
man -l "$(man -w rankforge-tune)" | grep -q -- --rigor
(source /usr/share/bash-completion/completions/rankforge
 COMP_WORDS=(rankforge tune --rig) COMP_CWORD=2
 _rankforge
 [ "${COMPREPLY[*]}" = --rigor ])
[ -s /usr/share/zsh/vendor-completions/_rankforge ]
echo "== purged"
packages=$(dpkg-query -W -f '${Package} ' '*rankforge*')
apt-get purge -y -qq $packages
left=$(find / -xdev -name '*rankforge*' ! -path '/tmp/*' ! -path '/proc/*')
[ -z "$left" ] || { echo "left behind: $left" >&2; exit 1; }
INSIDE
chroot "$root" bash /tmp/test.sh
echo "test_packages.sh: all passed"
