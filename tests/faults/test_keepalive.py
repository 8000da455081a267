"""Connections that are kept alive, and that the server closes as a request is sent."""

from __future__ import annotations

import pytest

from dynamo_tito._errors import TransportError
from support.raw_server import Answer, Close, Early, RawServer, Reset

from .cases import GOOD, LONG, QUICK, Connect, answered, whole


def test_an_idle_connection_that_ends_is_not_used(connect: Connect, server: RawServer) -> None:
    server.play(GOOD)
    client = connect(retries=QUICK)
    for call in range(1, 6):
        answered(client)
        server.drop_connections()
        server.wait_until(lambda: server.open_connections == 0)
        assert (server.hits, server.connections) == (call, call)


@pytest.mark.parametrize(
    "race",
    [
        Early([Close()]),
        Early([Reset()]),
        Early([Close()], after_headers=True),
        Early([Reset()], after_headers=True),
        [Close()],
        [Reset()],
    ],
    ids=["closed", "reset", "closed within", "reset within", "closed behind", "reset behind"],
)
def test_a_connection_that_ends_as_it_is_used(connect: Connect, server: RawServer, race: Answer | Early) -> None:
    """It is not known whether the request was read, so the call fails and sends no second request."""
    server.play(GOOD)
    client = connect(retries=QUICK)
    answered(client)
    server.play(race, GOOD)
    hits = 2 if isinstance(race, list) else 1
    with pytest.raises(TransportError) as caught:
        client.generate(deadline=LONG)
    assert caught.value.phase in {"send", "headers"}
    assert (server.hits, server.connections) == (hits, 1)
    whole(client, server, hits=hits)


def test_a_close_at_the_same_time_as_a_request(connect: Connect, server: RawServer) -> None:
    """The server drops connections while calls are sent: each is sampled at most once."""
    server.play(GOOD)
    client = connect(retries=QUICK)
    answers = lost = 0
    for _ in range(60):
        server.drop_connections()
        before = server.hits
        try:
            answered(client)
            answers += 1
        except TransportError:
            lost += 1
        assert server.hits - before <= 1
    assert answers + lost == 60
    whole(client, server, hits=server.hits)
