"""Redirects are not followed, so no key and no prompt is sent to their target."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import httpx
import pytest

from dynamo_tito import AsyncTitoClient, TitoClient
from dynamo_tito._errors import ServerError
from support.driver import PROMPT
from support.raw_server import RawServer, reply

from .cases import GOOD, LONG, QUICK, Connect, whole

STATUSES = [300, 301, 302, 303, 307, 308]


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("target", ["another host", "another port", "itself", "a relative one", "nowhere", "nonsense"])
def test_no_redirect_is_followed(connect: Connect, server: RawServer, status: int, target: str) -> None:
    with RawServer([GOOD]) as elsewhere:
        location = {
            "another host": f"http://localhost:{elsewhere.port}/inference/v1/generate",
            "another port": f"{elsewhere.url}/inference/v1/generate",
            "itself": f"{server.url}/inference/v1/generate",
            "a relative one": "/elsewhere",
            "nowhere": "",
            "nonsense": "http://[",
        }[target]
        server.play(reply(status, b"", headers={"location": location}))
        client = connect(api_key="key", retries=QUICK)
        with pytest.raises(ServerError, match="redirects are not followed") as caught:
            client.generate(deadline=LONG)
        assert caught.value.status == status
        assert not caught.value.retryable
        assert (elsewhere.connections, server.lookups) == (0, [])
        whole(client, server, hits=1)


@pytest.mark.parametrize("status", STATUSES)
def test_a_client_of_the_caller_follows_no_redirect_either(server: RawServer, status: int) -> None:
    with RawServer([GOOD]) as elsewhere:
        server.play(reply(status, b"", headers={"location": f"{elsewhere.url}/inference/v1/generate"}))
        options: dict[str, Any] = {"model": "m", "preflight": False, "api_key": "key"}
        with (
            httpx.Client(follow_redirects=True) as own,
            TitoClient(server.url, http_client=own, **options) as client,
            pytest.raises(ServerError, match="redirects are not followed"),
        ):
            client.generate(PROMPT, deadline=LONG)

        async def both() -> None:
            async with httpx.AsyncClient(follow_redirects=True) as one, aiohttp.ClientSession() as another:
                for own in (one, another):
                    client = AsyncTitoClient(server.url, http_client=own, **options)
                    with pytest.raises(ServerError, match="redirects are not followed"):
                        await client.generate(PROMPT, deadline=LONG)

        asyncio.run(both())
        assert (elsewhere.connections, server.hits) == (0, 3)


def test_the_request_for_the_context_length_follows_no_redirect(connect: Connect, server: RawServer) -> None:
    with RawServer([GOOD]) as elsewhere:
        server.models = reply(302, b"", headers={"location": f"{elsewhere.url}/v1/models"})
        server.play(GOOD)
        client = connect(api_key="key", preflight=True)
        assert len(client.generate(deadline=LONG).token_ids) == 3
        assert (elsewhere.connections, len(server.lookups)) == (0, 1)
