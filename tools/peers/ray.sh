#!/usr/bin/env bash
# Make an environment with Ray in DIR, for tests/peers/ray: the package's extra `ray` and what its tests need.
# Usage: ray.sh DIR. 1 GB from PyPI. Needs Python 3.11 or newer (PYTHON names it). What is there already is left alone.
set -euo pipefail
dir=${1:?usage: ray.sh DIR}
root=$(cd "$(dirname "$0")/../.." && pwd)
stamp=$dir/.ready-$(cat "$0" "$root/pyproject.toml" | sha256sum | cut -c1-16)
[ ! -e "$stamp" ] || exit 0
rm -rf "$dir"
"${PYTHON:-python3}" -m venv "$dir"
"$dir/bin/python" -m pip install --quiet --disable-pip-version-check 'pip>=25.1'
# The package itself is imported from python/, with the extension that `make build` leaves there.
read -ra needed < <("$dir/bin/python" - "$root/pyproject.toml" <<'PYTHON'
import sys
import tomllib

project = tomllib.load(open(sys.argv[1], "rb"))["project"]
print(*project["dependencies"], *project["optional-dependencies"]["aiohttp"], "pyarrow>=15")
PYTHON
)
"$dir/bin/python" -m pip install --quiet --disable-pip-version-check "${needed[@]}" 'ray[data]==2.60.0'
cd "$root"
"$dir/bin/python" -m pip install --quiet --disable-pip-version-check --group test
touch "$stamp"
