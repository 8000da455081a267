#!/usr/bin/env bash
# What tests of aarch64 need on a machine of x86_64, from Debian's packages, into a directory: tools/arm/install.sh DIR
# Two roots of the unstable suite: one with a compiler, of this machine's kind, and the emulator; one with an interpreter
# for aarch64. So nothing is compiled under emulation.
set -euo pipefail
into=$(realpath -m "${1:?a directory}")
[ -e "$into/.ready" ] && exit 0

missing() {
    echo "$1" >&2
    exit 1
}
[ "$(uname -sm)" = 'Linux x86_64' ] || missing 'make test-arm emulates aarch64 on Linux and x86_64. On aarch64: make test'
[ "$(id -u)" = 0 ] || missing 'make test-arm makes a root of Debian and changes into it: run it as root'
command -v mmdebstrap >/dev/null || missing 'make test-arm needs mmdebstrap: apt-get install mmdebstrap'
unshare --mount true || missing 'make test-arm mounts the checkout into a root of Debian; this machine lets nobody mount'

rm -rf "$into"
mkdir -p "$into"
# A mirror that stands still will do: what it lists is signed. What mmdebstrap mounts ends with it, also where it is killed.
debian=(unshare --mount mmdebstrap --quiet --mode=root --aptopt='Acquire::Check-Valid-Until "false"')
"${debian[@]}" --variant=apt --architectures=amd64,arm64 \
    --include=cargo,gcc-aarch64-linux-gnu,libc6-dev:arm64,libstd-rust-dev:arm64,qemu-user,rustc unstable "$into/root"
"${debian[@]}" --variant=extract --architectures=arm64 --include=python3 unstable "$into/root/aarch64"
# The loader's place in a root whose packages are only unpacked.
ln -s usr/lib "$into/root/aarch64/lib"
touch "$into/.ready"
