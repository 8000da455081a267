"""The check that follows every fault: the same client sends another request, which succeeds."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeAlias

from dynamo_tito._config import RetryPolicy
from support.driver import Driver
from support.raw_server import Answer, RawServer, reply
from support.small import generated

Connect: TypeAlias = Callable[..., Driver]

QUICK = RetryPolicy(attempts=3, initial=0.0, maximum=0.0)
"""What would send again would do it at once."""

TOKENS = [7, 8, 9]
DOCUMENT = generated(TOKENS)
BODY = json.dumps(DOCUMENT).encode()
GOOD: Answer = reply(200, BODY)

SHORT = 0.3
"""Seconds after which a call gives up on a server that says nothing."""
LONG = 60.0
"""Seconds that nothing takes, however slow the machine."""


def whole(client: Driver, server: RawServer, *, hits: int) -> None:
    """The client is none the worse: the next call succeeds at once, and each request was sampled at most once."""
    assert server.hits == hits
    server.play(GOOD)
    for call in range(1, 3):
        assert client.generate(deadline=LONG).token_ids.tolist() == TOKENS
        assert server.hits == hits + call


def answered(client: Driver, **arguments: Any) -> list[int]:
    """The tokens of a call that takes as long as it needs."""
    tokens: list[int] = client.generate(deadline=LONG, **arguments).token_ids.tolist()
    return tokens
