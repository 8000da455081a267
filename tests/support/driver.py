"""The same calls through every client: each test of a client runs over all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Literal, Self, TypeAlias, TypeVar

import aiohttp
import pytest

from dynamo_tito import StreamDelta
from dynamo_tito._client import AsyncTitoClient, AsyncTitoStream, TitoClient, TitoStream
from dynamo_tito._config import HttpLibrary
from dynamo_tito._errors import TitoError
from dynamo_tito._types import Completion, PromptLogprobs

T = TypeVar("T")

Kind: TypeAlias = Literal["native", "blocking", "httpx", "httpx, blocking", "aiohttp", "openai", "openai, blocking"]

KINDS: tuple[Kind, ...] = ("native", "blocking")
"""The core's engine, which keeps every promise."""
ADAPTERS: tuple[Kind, ...] = ("httpx", "httpx, blocking", "aiohttp", "openai", "openai, blocking")
"""Engines over a library: ``tests/faults/test_adapters.py`` says what they promise."""
ASYNC: tuple[HttpLibrary, ...] = ("native",)
"""The engines of which every await of a call may be cancelled. httpx leaves a handshake to the collector."""
PROMPT = [1, 2, 3, 4, 5]
OPENAI_KEY = "sk-of-the-carrier"
"""What an OpenAI client is made with; a client of ours that it carries has none."""


class Driver:
    """A client of one kind, called from a test that does not care which."""

    def __init__(self, kind: Kind, url: str, **options: Any) -> None:
        self._runner = asyncio.Runner(loop_factory=options.pop("loop_factory", None))
        options = {"model": "tito-model", "preflight": False, **options}
        self.kind = kind
        self._carrier: Any = None
        self.client: AsyncTitoClient | TitoClient
        match kind:
            case "native" | "httpx":
                self.client = AsyncTitoClient(url, http=kind, **options)
            case "blocking":
                self.client = TitoClient(url, **options)
            case "httpx, blocking":
                self.client = TitoClient(url, http="httpx", **options)
            case "aiohttp":
                self._carrier = self._runner.run(_session())
                self.client = AsyncTitoClient(url, http_client=self._carrier, **options)
            case "openai":
                self._carrier = pytest.importorskip("openai").AsyncOpenAI(base_url=f"{url}/v1", api_key=OPENAI_KEY)
                self.client = AsyncTitoClient(url, http_client=self._carrier, **options)
            case "openai, blocking":
                self._carrier = pytest.importorskip("openai").OpenAI(base_url=f"{url}/v1", api_key=OPENAI_KEY)
                self.client = TitoClient(url, http_client=self._carrier, **options)

    def generate(self, prompt: Any = None, **arguments: Any) -> Completion:
        """One call, to its end."""
        prompt = PROMPT if prompt is None else prompt
        if isinstance(self.client, TitoClient):
            return self.client.generate(prompt, **arguments)
        return self._runner.run(self.client.generate(prompt, **arguments))

    def stream(self, prompt: Any = None, **arguments: Any) -> tuple[list[StreamDelta], AsyncTitoStream | TitoStream]:
        """A stream to its end: the new tokens as they came, and what is left of it."""
        stream = self.client.stream(PROMPT if prompt is None else prompt, **arguments)
        return self.rest(stream), stream

    def rest(
        self, stream: AsyncTitoStream | TitoStream, after: Callable[[], object] = lambda: None
    ) -> list[StreamDelta]:
        """The rest of a stream; ``after`` is called after each delta."""
        if not isinstance(stream, TitoStream):
            return self._runner.run(self._rest(stream, after))
        found = []
        with stream:
            for delta in stream:
                found.append(delta)
                after()
        return found

    def abort(self, request_id: str, **arguments: Any) -> None:
        """One request aborted."""
        done = self.client.abort(request_id, **arguments)
        if done is not None:
            self._runner.run(done)

    def score(self, token_ids: Any, **arguments: Any) -> PromptLogprobs:
        """One sequence scored."""
        if isinstance(self.client, TitoClient):
            return self.client.score(token_ids, **arguments)
        return self._runner.run(self.client.score(token_ids, **arguments))

    def score_many(self, sequences: Any, **arguments: Any) -> list[PromptLogprobs | TitoError]:
        """Several."""
        if isinstance(self.client, TitoClient):
            return self.client.score_many(sequences, **arguments)
        return self._runner.run(self.client.score_many(sequences, **arguments))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Something else, on the loop of the calls."""
        return self._runner.run(work)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if isinstance(self.client, TitoClient):
            self.client.close()
        else:
            self._runner.run(self._close(self.client))
        if self._carrier is not None:
            closed = self._carrier.close()
            if closed is not None:
                self._runner.run(_settled(closed))
        self._runner.close()

    @staticmethod
    async def _rest(stream: AsyncTitoStream, after: Callable[[], object]) -> list[StreamDelta]:
        found = []
        async with stream:
            async for delta in stream:
                found.append(delta)
                after()
        return found

    @staticmethod
    async def _close(client: AsyncTitoClient) -> None:
        await _settled(client.aclose())


async def _session() -> Any:
    return aiohttp.ClientSession()


async def _settled(closing: Coroutine[Any, Any, None]) -> None:
    await closing
    # TLS and aiohttp close sockets a turn of the loop later.
    await asyncio.sleep(0)
