#!/usr/bin/env bash
# Install renderers and verifiers, each pair at fixed versions, and the tests of their source distributions, into
# DIR/stable and DIR/dev. Usage: install.sh DIR. About a minute and 300 MB a pair.
# Needs Python 3.11 or newer and uv (PYTHON and UV name them). What is already as this directory says is left alone.
set -euo pipefail
dir=${1:?usage: install.sh DIR}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)

for pair in stable dev; do
    lock=$here/$pair.lock
    # A stamp is named after the contents of the file that decides what is made.
    stamp=$dir/$pair-$(sha256sum <"$lock" | cut -c1-16)
    [ -e "$stamp" ] && continue
    echo "renderers and verifiers: installing into $dir/$pair"
    rm -rf "$dir/$pair" "$dir/$pair"-*
    # With a pip (--seed): uv downloads no sources.
    "${UV:-uv}" venv --quiet --clear --seed --python "${PYTHON:-python3}" "$dir/$pair"
    python=$dir/$pair/bin/python
    "${UV:-uv}" pip install --quiet --python "$python" --no-deps --requirement "$lock"
    mkdir "$dir/$pair/sources"
    for source in $(grep -E '^(renderers|verifiers)==' "$lock"); do
        "$python" -m pip download --quiet --disable-pip-version-check --no-binary :all: --no-deps \
            --dest "$dir/$pair/sources" "$source"
    done
    for archive in "$dir/$pair"/sources/*.tar.gz; do
        tar -xzf "$archive" -C "$dir/$pair/sources"
    done
    touch "$stamp"
done
