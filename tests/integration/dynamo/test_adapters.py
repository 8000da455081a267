"""Adapters on Dynamo's system server, with the adapter handlers of its own vLLM worker."""

from __future__ import annotations

import asyncio
import json
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dynamo_tito import AdminError
from dynamo_tito.control import Fleet, FleetLimits, PhaseLimit, make_admin
from support.dynamo_stack import DynamoStack

LIMIT = PhaseLimit(5.0, 10.0)
LIMITS = FleetLimits(
    gate=LIMIT, pause=LIMIT, update=LIMIT, verify=LIMIT, flush=LIMIT, resume=LIMIT, attempts=2, wait=0.1
)


@pytest.fixture(scope="module")
def system_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("dynamo")
    (directory / "venv").symlink_to(Path(os.environ["DYNAMO_DIR"]).resolve() / "venv")
    with DynamoStack.adapters_only(directory) as url:
        yield url


def held(url: str) -> dict[str, Any]:
    """What the worker holds: the path of each adapter's name, and whether it is paused."""
    request = urllib.request.Request(f"{url}/engine/held", b"{}", method="POST")
    with urllib.request.urlopen(request, timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def test_a_name_that_is_loaded_again_has_the_new_adapter(system_url: str, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("first", "second")]
    for path in paths:
        path.mkdir()
        (path / "adapter_config.json").write_text("{}")

    def answer(name: str, path: Path) -> Any:
        body = json.dumps({"lora_name": name, "source": {"uri": path.as_uri()}}).encode()
        request = urllib.request.Request(f"{system_url}/engine/load_lora", body, method="POST")
        with urllib.request.urlopen(request, timeout=10) as reply:
            return json.load(reply)

    async def main() -> None:
        admin = await make_admin(system_url, "dynamo", openai_url=system_url, trust_env=False)
        async with Fleet([admin], limits=LIMITS) as fleet:
            await fleet.load_lora("ad", paths[0])
            # The worker itself keeps the first adapter, and calls that a success.
            refused = answer("ad", paths[1])
            assert refused["status"] == "success"
            assert "already loaded" in refused["message"]
            assert held(system_url)["paths"] == {"ad": str(paths[0])}
            (result,) = (await fleet.load_lora("ad", paths[1])).workers
            assert (result.updated, result.state) == (True, "running")
            assert held(system_url)["paths"] == {"ad": str(paths[1])}
            # A refused load changes nothing, and the worker runs.
            with pytest.raises(AdminError) as caught:
                await fleet.load_lora("ad", tmp_path / "none", check_files=False)
            assert [each.updated for each in caught.value.results] == [False]
            assert held(system_url) == {"status": "ok", "paths": {"ad": str(paths[1])}, "paused": False}
            await fleet.unload_lora("ad")
            assert held(system_url)["paths"] == {}

    asyncio.run(main())
