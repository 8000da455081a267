#!/usr/bin/env bash
# The core's own tests and pytest's decode tests under AddressSanitizer, optimised as in a release, overflow checks on.
# The flag is not a stable one (hence RUSTC_BOOTSTRAP), its runtime comes with the stable toolchain.
#
#   tools/sanitize.sh PYTHON      an interpreter with the development tools
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1
cargo=${CARGO:-cargo}
host=$("${RUSTC:-rustc}" -vV | sed -n 's/^host: //p')
export RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address
build=(--locked --quiet --profile checked --target "$host")

echo 'cargo test, leaks included'
ASAN_OPTIONS=detect_leaks=1 "$cargo" test "${build[@]}" --workspace --no-default-features --lib

echo 'pytest: the extension, its input allocated where the sanitizer sees the end of it'
PYO3_PYTHON=$python "$cargo" build "${build[@]}"
rm -rf build/sanitize
mkdir -p build/sanitize
cp -r python/dynamo_tito build/sanitize/
rm -f build/sanitize/dynamo_tito/*.so
cp "${CARGO_TARGET_DIR:-target}/$host/checked/libdynamo_tito.so" build/sanitize/dynamo_tito/_core.abi3.so
# An interpreter without the sanitizer loads a runtime that is shared, the compiler's. What CPython itself never frees is no concern.
runtime=$("${CC:-gcc}" -print-file-name=libasan.so)
LD_PRELOAD=$runtime ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc PYTHONPATH=build/sanitize \
    "$python" -c 'import dynamo_tito as t, sys; sys.exit("build/sanitize" not in t._core.__file__)'
LD_PRELOAD=$runtime ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc PYTHONPATH=build/sanitize \
    "$python" -m pytest -q -n 2 --dist worksteal --timeout=600 tests/unit tests/property
