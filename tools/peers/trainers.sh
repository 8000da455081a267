#!/usr/bin/env bash
# Install the trainers of trainers.txt into DIR, to be imported beside the packages of VENV, which has torch and vLLM.
# Usage: trainers.sh DIR VENV, with VENV as tools/vllm/install.sh makes it. 630 MB. Needs uv (UV names it).
# What is already as this directory says is left alone.
set -euo pipefail
dir=${1:?usage: trainers.sh DIR VENV}
venv=${2:?usage: trainers.sh DIR VENV}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$(dirname "$dir")"

stamp=$dir/.installed-$(cat "$here/trainers.txt" | sha256sum | cut -c1-16)
if [ ! -e "$stamp" ]; then
    echo "trainers: installing into $dir"
    rm -rf "$dir"
    "${UV:-uv}" pip install --quiet --python "$venv/bin/python" --no-deps --target "$dir" \
        --requirement "$here/trainers.txt"
    # Two of them bring top-level packages of tests and scripts.
    rm -rf "$dir"/tests "$dir"/scripts "$dir"/bin
    touch "$stamp"
fi
