"""The clients that ``benches.transport`` measures: each fetches the answer of a case, and does with it what it does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import aiohttp
import httpx
import httpx2
import numpy as np
import openai
import pyqwest

import dynamo_tito as tito
from benches.cases import CASES, Case, Truth
from benches.rivals import contenders

Get: TypeAlias = Callable[[str], Awaitable[Any]]
"""Fetches the answer of a case and does with it what this client does."""

NATIVE = "dynamo-tito"
AIOHTTP = "dynamo-tito over aiohttp"
TODAY = "httpx + renderers/verifiers"
RECEIVE = "AsyncOpenAI.post, received only"
PYQWEST = "pyqwest, received only"

LARGE, MIDDLE, SMALL = "c_vllm", "b_vllm", "a_vllm"
"""Answers of 35 MB, of 4.6 MB, and of 256 tokens."""


@asynccontextmanager
async def _openai(url: str) -> AsyncIterator[Get]:
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=600) as client:

        async def get(case: str) -> bytes:
            response = await client.post(f"{url}/{case}/x", cast_to=httpx2.Response, body={})
            content: bytes = response.content
            return content

        yield get


@asynccontextmanager
async def _today(url: str) -> AsyncIterator[Get]:
    limits = httpx.Limits(max_connections=1_000, max_keepalive_connections=1_000)
    async with httpx.AsyncClient(timeout=600, limits=limits, trust_env=False) as client:

        async def get(case: str) -> Any:
            response = await client.post(f"{url}/{case}/x", content=b"{}")
            decode = next(iter(contenders(CASES[case]).values()))
            return decode(response.content, CASES[case].prompt)

        yield get


@asynccontextmanager
async def _native(url: str) -> AsyncIterator[Get]:
    async with _ours(url) as get:
        yield get


@asynccontextmanager
async def _aiohttp(url: str) -> AsyncIterator[Get]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session, _ours(url, session) as get:
        yield get


@asynccontextmanager
async def _ours(url: str, session: aiohttp.ClientSession | None = None) -> AsyncIterator[Get]:
    prompts = {name: np.random.RandomState(0).randint(0, 151_936, case.prompt) for name, case in CASES.items()}
    clients = {
        name: tito.AsyncTitoClient(f"{url}/{name}", model="m", http_client=session, preflight=False)
        for name in (LARGE, MIDDLE, SMALL)
    }

    async def get(case: str) -> tito.Completion:
        prompt = prompts[case]
        return await clients[case].generate(prompt, routed_experts_prompt_start=len(prompt))

    try:
        yield get
    finally:
        for client in clients.values():
            await client.aclose()


@asynccontextmanager
async def _pyqwest(url: str) -> AsyncIterator[Get]:
    client = pyqwest.Client(pyqwest.HTTPTransport())

    async def get(case: str) -> Any:
        response = await client.post(f"{url}/{case}/x", content=b"{}")
        return response.content

    yield get


CLIENTS: dict[str, Callable[[str], Any]] = {
    NATIVE: _native,
    AIOHTTP: _aiohttp,
    TODAY: _today,
    RECEIVE: _openai,
    PYQWEST: _pyqwest,
}


def prove(completion: tito.Completion, case: Case, truth: Truth) -> None:
    truth = truth.without_prompt(case)
    assert np.array_equal(completion.token_ids, truth.token_ids)
    assert np.array_equal(completion.logprobs, truth.logprobs)  # type: ignore[arg-type]
    assert completion.routed_experts is not None
    assert np.array_equal(completion.routed_experts.array, truth.experts)  # type: ignore[arg-type]
