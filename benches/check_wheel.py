"""Proves what a release uploads: tag, size, bill of materials, licences; installed alone it decodes and makes a page.

python -m benches.check_wheel dist

The folder holds one wheel, which is installed without a compiler, or one source distribution, which is compiled.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]

_ABI = "cp311-abi3|cp314-cp314t"
_PLATFORM = r"(?:manylinux2014_\w+\.)?manylinux_2_17_\w+|musllinux_1_2_\w+|macosx_\d+_\d+_\w+"

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
    """Check the one distribution in a folder."""
    folder = Path(sys.argv[1]).resolve()
    (distribution,) = [*folder.glob("*.whl"), *folder.glob("*.tar.gz")]
    wheel = distribution.suffix == ".whl"
    if wheel:
        _check(distribution)
    with tempfile.TemporaryDirectory() as scratch:
        venv.create(scratch, with_pip=True)
        python = Path(scratch) / "bin" / "python"
        # Nothing of this checkout to import by accident; for a wheel, nothing to compile with.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        if wheel:
            environment.pop("CARGO_HOME", None)
            environment["PATH"] = f"{python.parent}:/usr/bin:/bin"
        binaries = ["--only-binary", ":all:" if wheel else "numpy"]
        _run(python, "-m", "pip", "install", "--quiet", *binaries, f"{distribution}[cli]", env=environment)
        body = ROOT / "tests" / "data" / "captures" / "generate_basic.json"
        for _ in range(2):  # the second time with everything compiled to bytecode
            _run(python, "-c", _PROOF, str(body), str(ROOT), env=environment)
        _run(python.with_name("dynamo-tito"), "decode", str(body), "--wire", "vllm_generate", env=environment)
        page = Path(scratch) / "page.html"
        _run(python.with_name("dynamo-tito"), "view", str(body), "--output", str(page), env=environment)
        assert page.stat().st_size < 200_000, page.stat().st_size


def _check(wheel: Path) -> None:
    tag = re.fullmatch(rf"dynamo_tito-[\d.]+-({_ABI})-({_PLATFORM})\.whl", wheel.name)
    assert tag, f"{wheel.name} has a tag that no release has"
    size = wheel.stat().st_size / 1e6
    assert size < 4, f"{size:.2f} MB"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert any(name.endswith(".cyclonedx.json") for name in names), "no bill of materials"
    for licence in ("LICENSE", "LICENSE-crates.txt"):
        assert any(name.endswith(f"/licenses/{licence}") for name in names), f"no {licence}"
    print(f"{wheel.name}: {size:.2f} MB for {tag[2]}")


def _run(*command: str | Path, env: dict[str, str]) -> None:
    subprocess.run([str(word) for word in command], check=True, env=env, cwd="/")


if __name__ == "__main__":
    main()
