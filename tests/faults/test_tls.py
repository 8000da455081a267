"""Servers with wrong certificates, and connections that fail during the handshake."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from dynamo_tito._errors import TransportError
from support.authority import Authority
from support.driver import Driver, Kind
from support.raw_server import Answer, Close, Early, RawServer, Reset, Stall

from .cases import BODY, GOOD, LONG, QUICK, SHORT, answered, whole


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"))


UNTRUSTED: dict[str, Callable[[Authority, Authority], ssl.SSLContext]] = {
    "signed by a stranger": lambda _, stranger: stranger.server(),
    "another host": lambda authority, _: authority.server("engine.example"),
    "expired": lambda authority, _: authority.server(days=(-9, -2)),
    "not valid yet": lambda authority, _: authority.server(days=(2, 9)),
}


@pytest.mark.parametrize("why", UNTRUSTED)
def test_an_untrusted_certificate(kind: Kind, authority: Authority, stranger: Authority, why: str) -> None:
    context = UNTRUSTED[why](authority, stranger)
    with RawServer([GOOD], tls=context) as server:
        with Driver(kind, server.url, tls=authority.trusted(), retries=QUICK, api_key="secret-key") as client:
            with pytest.raises(TransportError, match=r"(?i)certificate") as caught:
                client.generate(deadline=LONG)
            assert caught.value.phase == "connect"
        # Nothing was sent, so it was tried again, and nothing was sent again.
        assert server.hits == 0
        # In words, anything goes.
        with Driver(kind, server.url, tls="insecure") as client:
            assert answered(client) == [7, 8, 9]


def test_a_trusted_certificate(kind: Kind, authority: Authority) -> None:
    with (
        RawServer([GOOD], tls=authority.server()) as server,
        Driver(kind, server.url, tls=authority.trusted()) as client,
    ):
        whole(client, server, hits=0)
        assert server.connections == 1


def test_a_certificate_that_the_system_does_not_know(kind: Kind, authority: Authority) -> None:
    with RawServer([GOOD], tls=authority.server()) as server, Driver(kind, server.url, retries=None) as client:
        with pytest.raises(TransportError, match=r"(?i)certificate"):
            client.generate(deadline=LONG)
        assert server.hits == 0


def test_the_environment_names_trusted_certificates(
    kind: Kind, authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    with RawServer([GOOD], tls=authority.server()) as server, Driver(kind, server.url) as client:
        assert answered(client) == [7, 8, 9]


PLAIN: dict[str, Answer] = {
    "plain HTTP": [b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n", Close()],
    "reset within the handshake": [Reset()],
    "closed within the handshake": [Close()],
    "nonsense": [b"\x16\x03\x01\x00\x05hello", Close()],
    "an alert": [b"\x15\x03\x03\x00\x02\x02\x28", Close()],
}


@pytest.mark.parametrize("fault", PLAIN)
def test_a_handshake_that_fails(kind: Kind, authority: Authority, fault: str) -> None:
    with RawServer([Early(PLAIN[fault])]) as server:
        url = server.url.replace("http:", "https:")
        with Driver(kind, url, tls=authority.trusted(), retries=None) as client:
            with pytest.raises(TransportError) as caught:
                client.generate(deadline=LONG)
            assert caught.value.phase == "connect"
            assert "deadline" not in str(caught.value)
        assert server.hits == 0


def test_a_handshake_that_never_ends(kind: Kind, authority: Authority) -> None:
    with RawServer([Early([Stall()])]) as server:
        url = server.url.replace("http:", "https:")
        for options, deadline in (({"connect_timeout": SHORT}, LONG), ({}, SHORT)):
            with Driver(kind, url, tls=authority.trusted(), retries=None, **options) as client:
                with pytest.raises(TransportError) as caught:
                    client.generate(deadline=deadline)
                assert caught.value.phase == "connect"
            server.wait_until(lambda: server.open_connections == 0)
        assert server.hits == 0


def test_tls_to_a_port_of_plain_http(kind: Kind, authority: Authority) -> None:
    with RawServer([GOOD], tls=authority.server()) as server:
        url = server.url.replace("https:", "http:")
        with Driver(kind, url, retries=QUICK) as client, pytest.raises(TransportError) as caught:
            client.generate(deadline=LONG)
        assert caught.value.phase in {"send", "headers"}
        assert server.hits == 0


@pytest.mark.parametrize("size", [len(BODY), 500_000])
def test_a_connection_that_ends_without_close_notify(kind: Kind, authority: Authority, size: int) -> None:
    """Whoever cuts the TCP connection below TLS must not be able to cut the body."""
    body = BODY + b" " * (size - len(BODY))
    head = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % (size + 1)
    with (
        RawServer([[head + body, Reset()], GOOD], tls=authority.server()) as server,
        Driver(kind, server.url, tls=authority.trusted(), retries=QUICK) as client,
    ):
        with pytest.raises(TransportError):
            client.generate(deadline=LONG)
        whole(client, server, hits=1)
