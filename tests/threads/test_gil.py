"""A free-threaded interpreter stays one, whatever of the package is used."""

from __future__ import annotations

import pytest

from support.processes import run
from support.threads import FREE_THREADED

pytestmark = pytest.mark.skipif(not FREE_THREADED, reason="needs a free-threaded interpreter")

PARTS = {
    "the core": "import dynamo_tito as tito",
    "decoding": """
from support.small import GENERATE
import dynamo_tito as tito
body = tito.Body()
body.append(GENERATE)
tito.decode(body, wire="vllm_generate")
try:
    tito.decode(b"{", wire="vllm_generate")
except tito.MalformedBodyError:
    pass
""",
    "clients": """
import asyncio
import dynamo_tito as tito
from dynamo_tito import simulator

async def ask(url):
    async with tito.connect(url, backend="vllm", model=None) as client:
        await client.generate([1, 2], sampling_params={"max_tokens": 3})

with simulator.running(backend="vllm") as engine:
    with tito.TitoClient(engine.url, model=None) as client:
        client.generate([1, 2], sampling_params={"max_tokens": 3})
    asyncio.run(ask(engine.url))
""",
    "rollouts": """
import dynamo_tito as tito
from dynamo_tito import simulator
from dynamo_tito.rollout import Rollout
from support.chat import ChatRenderer

with simulator.running(backend="vllm") as engine, tito.TitoClient(engine.url, model=None) as client:
    rollout = Rollout(ChatRenderer())
    rollout.append(client.generate(**rollout.request([{"role": "user", "content": "hello"}])))
    rollout.sample()
""",
    "every other module": """
import importlib, pkgutil, sys, dynamo_tito

for found in pkgutil.walk_packages(dynamo_tito.__path__, "dynamo_tito."):
    name = found.name
    if name.startswith("dynamo_tito.integrations.") or name == "dynamo_tito.__main__":
        continue
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        assert not (error.name or "dynamo_tito").startswith("dynamo_tito"), name
    # What an extra brings may need the GIL, and says so itself.
""",
}


@pytest.mark.parametrize("part", PARTS)
def test_the_gil_stays_off(part: str) -> None:
    code = f"{PARTS[part]}\nimport sys\nassert not sys._is_gil_enabled()"
    done = run("-W", "error", "-c", code, within=["env", "-u", "PYTHON_GIL"])
    assert (done.returncode, done.stderr) == (0, "")
