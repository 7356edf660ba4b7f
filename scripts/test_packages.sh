#!/usr/bin/env bash
# Installs the Debian packages of a folder (`cpack`) into an empty system, builds
# and runs a program with them, runs those that they bring, purges them, and
# fails if a file of theirs is left. As root; needs debootstrap and the network.
# Usage: scripts/test_packages.sh FOLDER
set -euo pipefail
source=$(cd "$(dirname "$0")/.." && pwd)
root=$(mktemp -d)
trap 'umount "$root/proc" 2>/dev/null || true; rm -rf --one-file-system "$root" "$root.log"' EXIT

debootstrap --variant=minbase --include=ca-certificates bookworm "$root" \
  "$(sed -nE 's/^(deb |URIs: )(\[[^]]*\] )?(https?:[^ ]+).*/\3/p' \
    /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
    grep -v security | head -1)" >"$root.log"
mount -t proc proc "$root/proc" 2>/dev/null || true
cp "$1"/*.deb "$root/tmp/"
cp "$source/examples/library/column_mask.c" "$root/tmp/"
cat >"$root/tmp/test.sh" <<'INSIDE'
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive
cd /tmp
apt-get update -qq
apt-get install -y -qq --no-install-recommends gcc libc6-dev pkg-config ./*.deb
gcc column_mask.c -o column_mask $(pkg-config --cflags --libs rankforge)
./column_mask
! command -v rankforge || rankforge env
apt-get purge -y -qq $(dpkg-query -W -f '${Package} ' '*rankforge*')
left=$(find / -xdev -name '*rankforge*' ! -path '/tmp/*' ! -path '/proc/*')
[ -z "$left" ] || { echo "left behind: $left" >&2; exit 1; }
INSIDE
chroot "$root" bash /tmp/test.sh
