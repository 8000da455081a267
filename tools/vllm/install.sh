#!/usr/bin/env bash
# Install a real vLLM that runs on a CPU into DIR/venv, and make the tiny models that tests serve in DIR/models.
# Usage: install.sh DIR. About two minutes and 6.2 GB (PyPI's torch links against the CUDA libraries; no GPU is used).
# Needs Python 3.11 or newer and uv (PYTHON and UV name them), and gcc. What is already as this directory says is left alone.
set -euo pipefail
dir=${1:?usage: install.sh DIR}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
cd "$here"
python=$dir/venv/bin/python

# A stamp is named after the contents of the files that decide what is made.
stamp() { echo "$dir/$1-$(cat "${@:2}" | sha256sum | cut -c1-16)"; }

venv=$(stamp venv requirements.lock)
if [ ! -e "$venv" ]; then
    echo "vLLM: installing into $dir/venv"
    rm -rf "$dir/venv" "$dir"/venv-*
    "${UV:-uv}" venv --quiet --clear --python "${PYTHON:-python3}" "$dir/venv"
    "${UV:-uv}" pip install --quiet --python "$python" --no-deps --requirement requirements.lock
    touch "$venv"
fi

models=$(stamp models models.py checkpoints.py)
if [ ! -e "$models" ]; then
    rm -rf "$dir/models" "$dir"/models-*
    OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 "$python" models.py "$dir/models"
    touch "$models"
fi
