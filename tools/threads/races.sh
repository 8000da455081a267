#!/usr/bin/env bash
# The core's own tests under ThreadSanitizer, optimised as in a release: tools/threads/races.sh DIR
# The standard library is compiled for it too: without that its locks are not seen, and what they guard looks like a race. Its
# sources are the toolchain's (`rustup component add rust-src`), else Debian's of the same version, kept in DIR.
set -euo pipefail
cd "$(dirname "$0")/../.."
into=$(realpath -m "${1:?a directory}")
cargo=${CARGO:-cargo}
rustc=${RUSTC:-rustc}
version=$("$rustc" -vV | sed -n 's/^release: //p')
host=$("$rustc" -vV | sed -n 's/^host: //p')
advice='Elsewhere: rustup component add rust-src'
. tools/threads/debian.sh

if [ ! -e "$("$rustc" --print sysroot)/lib/rustlib/src/rust/library/Cargo.lock" ]; then
    if [ ! -e "$into/$version" ]; then
        rm -rf "$into"
        mkdir -p "$into"
        debian "$into/state" deb unstable testing stable-backports stable
        package=$(apt-cache "${own[@]}" madison rust-src | awk -F ' *[|] *' -v "v=$version+" 'index($2, v) == 1 { print $2; exit }')
        [ -n "$package" ] || stop "Debian has no sources of Rust $version. $advice"
        (cd "$into" && apt-get "${own[@]}" download "rust-src=$package" && dpkg-deb --extract rust-src_*.deb root)
        rm -rf "$into/state" "$into"/*.deb
        ln -s "root/usr/src/rustc-$version/library" "$into/$version"
    fi
    # Where cargo looks for them instead of in the toolchain.
    export __CARGO_TESTS_ONLY_SRC_ROOT=$into/$version
fi
# The flags are not stable ones, hence RUSTC_BOOTSTRAP. Some tests fork while other threads run.
export RUSTC_BOOTSTRAP=1 RUSTFLAGS='-Zsanitizer=thread --cfg no_mremap' TSAN_OPTIONS=die_after_fork=0:allocator_may_return_null=1
"$cargo" test -Zbuild-std --locked --quiet --profile checked --target "$host" \
    --no-default-features --lib -- "${@:2}"
