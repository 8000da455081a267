"""The proxies that the environment names: used, refused, broken. None gets the key of the server."""

from __future__ import annotations

import os
import traceback

import pytest

from dynamo_tito._errors import TransportError, UnauthorizedError
from support.authority import Authority
from support.driver import Driver, Kind
from support.raw_server import Close, RawServer, Received, Reset, Script, Stall, reply

from .black_hole import refusing
from .cases import GOOD, LONG, QUICK, SHORT, answered
from .tunnel import Tunnel

KEY = "sk-of-the-engine-8f3a"
PASSWORD = "of-the-proxy-77c1"


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def proxied(monkeypatch: pytest.MonkeyPatch, address: str, scheme: str = "http") -> None:
    monkeypatch.setenv(f"{scheme.upper()}_PROXY", f"http://me:{PASSWORD}@{address.removeprefix('http://')}")


def unseen(error: BaseException) -> None:
    shown = "".join(traceback.format_exception(error)) + repr(error) + str(vars(error))
    assert KEY not in shown
    assert PASSWORD not in shown


def test_plain_requests_go_through_it(kind: Kind, server: RawServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.play(GOOD)
    proxied(monkeypatch, server.url)
    with Driver(kind, "http://engine.invalid:8000", api_key=KEY) as client:
        assert answered(client) == [7, 8, 9]
        assert answered(client) == [7, 8, 9]
    assert server.connections == 1
    assert server.requests[0].path == "http://engine.invalid:8000/inference/v1/generate"
    assert server.requests[0].headers["host"] == "engine.invalid:8000"


@pytest.mark.parametrize("exempt", ["127.0.0.1", "*", "localhost,127.0.0.1"])
def test_hosts_without_a_proxy(kind: Kind, server: RawServer, monkeypatch: pytest.MonkeyPatch, exempt: str) -> None:
    server.play(GOOD)
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.invalid:3128")
    monkeypatch.setenv("NO_PROXY", exempt)
    with Driver(kind, server.url) as client:
        assert answered(client) == [7, 8, 9]
    assert server.requests[0].path == "/inference/v1/generate"


def echo(request: Received) -> list[bytes]:
    head = "\n".join(f"{name}: {value}" for name, value in request.headers.items())
    return [step for step in reply(407, f"who are you? {head}".encode()) if isinstance(step, bytes)]


def test_a_proxy_that_refuses_the_credentials(kind: Kind, server: RawServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.play(echo)
    proxied(monkeypatch, server.url)
    with Driver(kind, "http://engine.invalid:8000", api_key=KEY, retries=QUICK) as client:
        with pytest.raises(UnauthorizedError, match="HTTP 407") as caught:
            client.generate(deadline=LONG)
        assert not caught.value.retryable
    assert server.hits == 1
    unseen(caught.value)


REFUSALS: dict[str, Script] = {
    "407": echo,
    "407, in the status line": lambda request: [
        f"HTTP/1.1 407 no {request.headers['proxy-authorization']}\r\ncontent-length: 0\r\n\r\n".encode()
    ],
    "502": reply(502, b"no route"),
    "a redirect": reply(302, b"", headers={"location": "http://elsewhere.invalid/"}),
    "closed": [Close()],
    "reset": [Reset()],
    "nonsense": [b"220 smtp.example ESMTP\r\n\r\n", Close()],
}


@pytest.mark.parametrize("how", REFUSALS)
def test_a_tunnel_that_is_refused(kind: Kind, server: RawServer, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    server.play(REFUSALS[how])
    proxied(monkeypatch, server.url, "https")
    with Driver(kind, "https://engine.invalid:8443", api_key=KEY, retries=None) as client:
        with pytest.raises(TransportError) as caught:
            client.generate(deadline=LONG)
        assert "deadline" not in str(caught.value)
    unseen(caught.value)
    # The proxy gets the host name of the tunnel, and no header for the engine.
    assert [request.method for request in server.requests] == ["CONNECT"]
    assert server.requests[0].path == "engine.invalid:8443"
    assert "authorization" not in server.requests[0].headers
    assert KEY not in str(server.requests[0])


def test_a_tunnel_that_is_never_opened(kind: Kind, server: RawServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.play([Stall()])
    proxied(monkeypatch, server.url, "https")
    with Driver(kind, "https://engine.invalid:8443", retries=None) as client:
        with pytest.raises(TransportError) as caught:
            client.generate(deadline=SHORT)
        server.wait_until(lambda: server.open_connections == 0)
    unseen(caught.value)


def test_through_a_tunnel(
    kind: Kind, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    authority = Authority(tmp_path_factory.mktemp("authority"))
    with Tunnel() as proxy, RawServer([GOOD], tls=authority.server()) as server:
        proxied(monkeypatch, proxy.address, "https")
        with Driver(kind, server.url, tls=authority.trusted(), api_key=KEY) as client:
            for _ in range(3):
                assert answered(client) == [7, 8, 9]
        assert (server.hits, server.connections, len(proxy.requests)) == (3, 1, 1)
        assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
        assert "proxy-authorization" not in server.requests[0].headers
        assert KEY not in proxy.requests[0]
        # Who is not trusted is not trusted behind a proxy either.
        with Driver(kind, server.url, retries=None) as client, pytest.raises(TransportError, match=r"(?i)certificate"):
            client.generate(deadline=LONG)
        assert server.hits == 3


def test_a_proxy_that_is_not_there(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    with refusing() as url:
        proxied(monkeypatch, url)
        with Driver(kind, "http://engine.invalid:8000", api_key=KEY, retries=QUICK) as client:
            with pytest.raises(TransportError) as caught:
                client.generate(deadline=LONG)
            assert caught.value.phase == "connect"
    unseen(caught.value)


@pytest.mark.parametrize("url", ["socks5://me:{}@p:1", "ftp://me:{}@p", "http://me:{}@p:port", "http://me:{}@:1"])
def test_a_proxy_that_is_none(kind: Kind, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("HTTP_PROXY", url.format(PASSWORD))
    with pytest.raises(ValueError, match="the environment's proxy must be an http or https URL") as caught:
        Driver(kind, "http://engine.invalid:8000")
    unseen(caught.value)
    with Driver(kind, "http://engine.invalid:8000", trust_env=False):
        pass
