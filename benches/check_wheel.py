"""Proves a wheel: its tag, its size, and that in a clean environment it installs, decodes and makes a page.

python -m benches.check_wheel dist
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]

_PROOF = """
import sys, time
import numpy
begin = time.perf_counter()
import dynamo_tito as tito
elapsed = (time.perf_counter() - begin) * 1e3
completion = tito.decode(open(sys.argv[1], "rb").read(), wire="vllm_generate", prompt_len=5)
assert completion.token_ids.tolist() == [1000, 1001, 1002, 1003], completion
assert completion.routed_experts.array.shape == (8, 4, 2), completion
assert not tito.__file__.startswith(sys.argv[2]), tito.__file__
print(f"imports in {elapsed:.1f} ms beyond numpy, decodes, kernel {tito.build_info()['kernel']}")
"""


def main() -> None:
    """Check the one wheel in a folder."""
    (wheel,) = Path(sys.argv[1]).resolve().glob("*.whl")
    tag = re.fullmatch(r"dynamo_tito-[\d.]+-cp311-abi3-manylinux_(\d+)_(\d+)_\w+\.whl", wheel.name)
    assert tag, f"{wheel.name} is no manylinux abi3 wheel"
    size = wheel.stat().st_size / 1e6
    assert size < 3, f"{size:.2f} MB"
    print(f"{wheel.name}: {size:.2f} MB, needs glibc {tag[1]}.{tag[2]}")
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / "bin" / "python"
        # Nothing to compile with, and nothing of this checkout to import by accident.
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "CARGO_HOME")}
        environment["PATH"] = f"{python.parent}:/usr/bin:/bin"
        _run(python, "-m", "pip", "install", "--quiet", "--only-binary", ":all:", f"{wheel}[cli]", env=environment)
        body = ROOT / "tests" / "data" / "captures" / "generate_basic.json"
        for _ in range(2):  # the second time with everything compiled to bytecode
            _run(python, "-c", _PROOF, str(body), str(ROOT), env=environment)
        _run(python.with_name("dynamo-tito"), "decode", str(body), "--wire", "vllm_generate", env=environment)
        page = Path(folder) / "page.html"
        _run(python.with_name("dynamo-tito"), "view", str(body), "--output", str(page), env=environment)
        assert page.stat().st_size < 200_000, page.stat().st_size


def _run(*command: str | Path, env: dict[str, str]) -> None:
    subprocess.run([str(word) for word in command], check=True, env=env, cwd="/")


if __name__ == "__main__":
    main()
