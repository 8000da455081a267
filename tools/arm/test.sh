#!/usr/bin/env bash
# The tests of the core and the oracle for aarch64, compiled here and run under an emulator; then pytest's of decoding, by
# an emulated interpreter. What it needs is in DIR, by install.sh.
#
#   tools/arm/test.sh DIR [ARGUMENT...]      arguments of pytest, in the place of the tests of decoding
set -euo pipefail
cd "$(dirname "$0")/../.."
dir=$(realpath "${1:?a directory}")
shift
# Without those that start programs: the machine itself cannot run one for aarch64.
[ $# = 0 ] && set -- tests/unit tests/property --ignore-glob='*/test_cli_*' --ignore=tests/unit/test_robustness.py
target=aarch64-unknown-linux-gnu
mkdir -p "$dir/crates" "$dir/build" "$dir/root/checkout" "$dir/root/crates" "$dir/root/build"

# The root has no certificates: this machine fetches what the tests are made of.
"${CARGO:-cargo}" vendor --locked --quiet "$dir/crates" >/dev/null
interpreter=$(basename "$dir"/root/aarch64/usr/bin/python3.??)
"${UV:-uv}" pip install --quiet --target "$dir/build/site" --python-platform aarch64-manylinux_2_28 \
    --python-version "${interpreter#python}" --requirement pyproject.toml --extra cli --group test

# Runs a command in the root: the checkout cannot be written, and the mounts end with the command. Random changes of
# bodies are fewer than elsewhere.
inside() {
    unshare --mount bash -euc '
        mount --bind . "$0/root/checkout" && mount -o remount,ro,bind "$0/root/checkout"
        mount --bind "$0/crates" "$0/root/crates"
        mount --bind "$0/build" "$0/root/build"
        mount --rbind /dev "$0/root/dev"
        mount -t proc proc "$0/root/proc"
        exec chroot "$0/root" /usr/bin/env -i --chdir /checkout PATH=/usr/bin HOME=/build CARGO_HOME=/build/cargo \
            CARGO_TARGET_DIR=/build/target CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
            CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=qemu-aarch64 DYNAMO_TITO_MUTATIONS=1000 \
            PYO3_BUILD_EXTENSION_MODULE=1 "$@"
    ' "$dir" "$@"
}
crates=(--config 'source.crates-io.replace-with="vendored"' --config 'source.vendored.directory="/crates"')
# Optimised: an emulator is slow.
build=(--offline --locked --quiet --target "$target" --profile checked)

echo "cargo test for $target"
SECONDS=0
inside cargo test "${crates[@]}" "${build[@]}" --workspace --no-default-features --no-run
echo "compiled in $SECONDS s"
SECONDS=0
inside cargo test "${crates[@]}" "${build[@]}" --workspace --no-default-features
echo "run in $SECONDS s"

echo "pytest for $target"
inside cargo build "${crates[@]}" "${build[@]}"
rm -rf "$dir/build/package"
mkdir "$dir/build/package"
cp -r python/dynamo_tito "$dir/build/package/"
rm -f "$dir/build/package/dynamo_tito/"*.so
cp "$dir/build/target/$target/checked/libdynamo_tito.so" "$dir/build/package/dynamo_tito/_core.abi3.so"
SECONDS=0
emulated=(env PYTHONPATH=/build/package:/build/site PYTHONDONTWRITEBYTECODE=1 HYPOTHESIS_STORAGE_DIRECTORY=/build/hypothesis
    qemu-aarch64 -L /aarch64 "/aarch64/usr/bin/$interpreter")
inside "${emulated[@]}" -c 'import dynamo_tito as t; print(t.build_info()); assert t.build_info()["kernel"] == "neon"'
inside "${emulated[@]}" -m pytest -q -p no:cacheprovider "$@"
echo "run in $SECONDS s"
