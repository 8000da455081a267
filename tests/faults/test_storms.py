"""Overloaded servers: 429 and 503 without end, and every form of retry-after."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_tito import AsyncTitoClient, RetryPolicy, TitoClient
from dynamo_tito._client.retry import retry_after
from dynamo_tito._errors import OverloadedError, ServerError
from support.driver import PROMPT, Driver
from support.raw_server import RawServer, reply

from .cases import LONG, Connect, whole

BUSY: dict[str, Any] = {
    "429": reply(429, {"error": "slow down"}),
    "429, closing": reply(429, {"error": "slow down"}, headers={"connection": "close"}),
    "429, empty": reply(429, b""),
    "503, not started": reply(503, {"message": "Generation is paused"}),
}


@pytest.mark.parametrize("busy", BUSY)
def test_attempts_are_counted(connect: Connect, server: RawServer, busy: str) -> None:
    server.play(BUSY[busy])
    client = connect(retries=RetryPolicy(attempts=5, initial=0.0, maximum=0.0))
    with pytest.raises(OverloadedError) as caught:
        client.generate(deadline=LONG)
    assert caught.value.retryable
    whole(client, server, hits=5)


def test_a_503_that_may_have_sampled_is_sent_once(connect: Connect, server: RawServer) -> None:
    server.play(reply(503, {"message": "upstream connect error"}, headers={"retry-after": "0"}))
    client = connect(retries=RetryPolicy(attempts=5, initial=0.0, maximum=0.0))
    with pytest.raises(OverloadedError) as caught:
        client.generate(deadline=LONG)
    assert not caught.value.retryable
    whole(client, server, hits=1)


@pytest.mark.parametrize("wanted", ["1e9", "99999999999999999999", "30", "a date"])
def test_a_wait_beyond_the_budget_is_not_begun(connect: Connect, server: RawServer, wanted: str) -> None:
    wish = formatdate(time.time() + 1e6, usegmt=True) if wanted == "a date" else wanted
    server.play(reply(429, headers={"retry-after": wish}))
    client = connect(retries=RetryPolicy(attempts=9, initial=0.0, maximum=0.0, retry_after=20.0, budget=10.0))
    with pytest.raises(OverloadedError):
        client.generate(deadline=LONG)
    whole(client, server, hits=1)


@pytest.mark.parametrize(
    "wanted",
    [
        "",
        "soon",
        "-5",
        "nan",
        "inf",
        "1e999",
        "0x10",
        "1, 2",
        "Fri, 31 Dec 9999 23:59:60 GMT",
        "Thu, 01 Jan 1970 00:00:00 GMT",
        "Mon, 99 Foo 0000 99:99:99 ZZZ",
        "1970-01-01",
        "9" * 5000,
    ],
)
def test_an_invalid_retry_after_is_ignored(connect: Connect, server: RawServer, wanted: str) -> None:
    """It never fails the call: it waits as if nothing had been said, or as long as the policy allows."""
    server.play(reply(429, headers={"retry-after": wanted}))
    client = connect(retries=RetryPolicy(attempts=3, initial=0.0, maximum=0.0, retry_after=0.01))
    with pytest.raises(OverloadedError):
        client.generate(deadline=LONG)
    whole(client, server, hits=3)


@given(st.text(max_size=60) | st.from_regex(r"[A-Z][a-z]{2}, \d{1,3} [A-Z][a-z]{2} \d{1,5} \d+:\d+:\d+ ?[A-Z+-]*\d*"))
def test_no_retry_after_raises(value: str) -> None:
    seconds = retry_after({"retry-after": value})
    assert seconds is None or seconds >= 0


def test_a_storm_ends(connect: Connect, server: RawServer) -> None:
    """Many calls at once against a server that refuses nine of ten: all come through, each sampled once."""
    sampled = []

    def answer(request: Any) -> Any:
        if server.hits % 10:
            return reply(429, {"error": "slow down"}, headers={"retry-after": "0"})
        sampled.append(request.json["token_ids"][0])
        return reply(200, {"choices": [{"index": 0, "token_ids": [request.json["token_ids"][0]]}]})

    server.play(answer)
    client = connect(retries=RetryPolicy(attempts=10_000, initial=0.0, maximum=0.001), max_concurrency=8)
    prompts = range(1, 31)
    assert _all(client, prompts) == list(prompts)
    assert sorted(sampled) == list(prompts)
    whole(client, server, hits=server.hits)


def test_a_storm_without_end_is_an_error_of_every_call(connect: Connect, server: RawServer) -> None:
    server.play(reply(503, {"message": "Generation is paused"}))
    client = connect(retries=RetryPolicy(attempts=3, initial=0.0, maximum=0.0), max_concurrency=8)
    assert _all(client, range(1, 21)) == [503] * 20
    whole(client, server, hits=60)


def _all(driver: Driver, prompts: range) -> list[int | None]:
    """The only token of each answer, or the status of its error."""
    options: dict[str, Any] = {"sampling_params": {"logprobs": 0}, "deadline": LONG}
    client = driver.client
    if isinstance(client, TitoClient):

        def call(token: int) -> int | None:
            try:
                return int(client.generate([token], **options).token_ids[0])
            except ServerError as error:
                return error.status

        with ThreadPoolExecutor(8) as threads:
            return list(threads.map(call, prompts))

    async def calls(client: AsyncTitoClient) -> list[int | None]:
        async def one(token: int) -> int | None:
            try:
                return int((await client.generate([token], **options)).token_ids[0])
            except ServerError as error:
                return error.status

        return await asyncio.gather(*(one(token) for token in prompts))

    return driver._runner.run(calls(client))


def test_the_deadline_ends_a_call_before_the_budget(connect: Connect, server: RawServer) -> None:
    server.play(reply(429, headers={"retry-after": "25"}))
    client = connect(retries=RetryPolicy(attempts=9, retry_after=30.0, budget=1000.0))
    with pytest.raises(OverloadedError):
        client.generate(PROMPT, deadline=20.0)
    whole(client, server, hits=1)
