#!/usr/bin/env bash
# Install NVIDIA's Dynamo frontend into a venv of its own and build the tokenizer it serves. No GPU, no torch: about 700 MB.
# Usage: install.sh DIR [VERSION]. Needs Python and uv (PYTHON and UV name them). A finished installation is left alone.
set -euo pipefail
dir=${1:?usage: install.sh DIR [VERSION]}
version=${2:-1.6.1}
here=$(cd "$(dirname "$0")" && pwd)
stamp=$dir/installed-$version
[ -e "$stamp" ] && exit 0
echo "Dynamo $version: installing into $dir"
mkdir -p "$dir"
rm -rf "$dir/venv" "$dir"/installed-*
uv=${UV:-uv}
"$uv" venv --quiet --clear --python "${PYTHON:-python3}" "$dir/venv"
install=("$uv" pip install --quiet --python "$dir/venv/bin/python")
"${install[@]}" "aiohttp>=3.14.3,<4" certifi "kubernetes>=32.0.1,<33" "msgspec>=0.19" numpy \
  "prometheus-client>=0.23.1,<1" "pydantic>=2.10.6,<=2.13.5" "pyzmq>=26" "redis>=6.2,<9" tqdm "transformers>=4.56" \
  "typing-extensions>=4.10" "uvloop>=0.21" "zstandard>=0.23,<1"
# --no-deps: a declared dependency, aisimulate, is a placeholder on PyPI; neither the frontend nor a worker needs it.
"${install[@]}" --no-deps "ai-dynamo==$version" "ai-dynamo-runtime==$version"
"$dir/venv/bin/python" "$here/tokenizer.py" "$dir/model"
touch "$stamp"
