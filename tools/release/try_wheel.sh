#!/usr/bin/env bash
# The one wheel in dist/ as its users have it, in a clean environment of each interpreter: the blocks of README.md, every
# example and `dynamo-tito doctor` on the embedded engine.
#
#   tools/release/try_wheel.sh PYTHON...      EXTRAS=cli,renderers,safetensors,ray adds the example that needs ray
set -euo pipefail
cd "$(dirname "$0")/../.."
wheels=(dist/*.whl)
if [ ! -e "${wheels[0]}" ] || [ "${#wheels[@]}" != 1 ]; then
    echo 'dist/ must hold one wheel: make wheel' >&2
    exit 1
fi
wheel=$(realpath "${wheels[0]}")

# The pages, examples and tests without the package, so that there is only the installed one to import.
away=$(mktemp -d)
trap 'rm -rf "$away"' EXIT
cp -r Makefile README.md pyproject.toml docs examples tests "$away"
cd "$away"
unset PYTHONPATH

for python in "$@"; do
    "$python" -m venv --clear venv
    venv/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
    venv/bin/python -m pip install --quiet --only-binary :all: "$wheel[$EXTRAS]" --group test
    venv/bin/python -c "import sys, dynamo_tito as t; print(sys.version); sys.exit('$away/venv/' not in t.__file__)"
    venv/bin/python -m pytest -q -p no:cacheprovider tests/surface/test_pages.py tests/examples tests/control/test_doctor.py \
        tests/transports/test_engines.py
    venv/bin/python - <<'END'
import subprocess
from dynamo_tito import simulator

for backend in ("dynamo", "prime", "sglang", "vllm"):
    with simulator.running(backend=backend) as engine:
        command = ["venv/bin/dynamo-tito", "doctor", engine.url]
        if backend == "dynamo":
            command += ["--rl-url", engine.rl_url]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout.partition("\n")[0])
END
done
