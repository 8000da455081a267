"""Making clients: options, HTTP clients of the caller, certificates, proxies, processes, and many calls at once."""

from __future__ import annotations

import asyncio
import copy
import inspect
import os
import pickle
import resource
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
import httpx
import pytest

import dynamo_tito as tito
from dynamo_tito import _native
from dynamo_tito._client import AsyncTitoClient, ClientOptions, TitoClient, connect, decoding
from dynamo_tito._client.base import BaseClient
from dynamo_tito._errors import ServerError, TransportError
from dynamo_tito._http.base import HttpRequest, HttpResponse
from dynamo_tito._http.environment import proxy_for, tls_context
from dynamo_tito._http.mock import MockTransport
from support.driver import KINDS, PROMPT, Driver, Kind
from support.raw_server import Pause, RawServer, Received, Reset, Until, reply

Recorded = Callable[[str], bytes]


# ------------------------------------------------------------------------------------------------ options


@pytest.mark.parametrize(
    ("backend", "transport"),
    [("vllm", "vllm_generate"), ("prime", "vllm_generate"), ("dynamo", "dynamo_chat"), ("sglang", "sglang_generate")],
)
def test_connect(backend: Any, transport: str) -> None:
    client = connect("http://h:1/v1", backend=backend, model="m", timeout=3.0)
    assert isinstance(client, AsyncTitoClient)
    assert (client.transport, client.model, client.base_url) == (transport, "m", "http://h:1")


def test_connect_to_something_else() -> None:
    with pytest.raises(ValueError, match="backend must be one of vllm, prime, dynamo, sglang"):
        connect("http://h", backend="tgi", model="m")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("key", "fault"),
    [
        ("", r"it is empty \(None for no key\)"),
        ("sk-secret\n", r"it begins or ends with white space \(strip it\)"),
        (" sk-secret", r"it begins or ends with white space \(strip it\)"),
        ("sk-se\ncret", "character 5 is a control character"),
        ("sk-\u0161ecret", "character 3 is not Latin-1"),
    ],
)
@pytest.mark.parametrize("make", [AsyncTitoClient, TitoClient])
def test_an_api_key_that_cannot_be_sent_is_named(make: Any, key: str, fault: str) -> None:
    with pytest.raises(ValueError, match=f"^api_key cannot be sent: {fault}$") as caught:
        make("http://h", model=None, api_key=key)
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize("make", [AsyncTitoClient, TitoClient])
def test_a_client_stays_in_its_process(make: Any) -> None:
    client = make("http://h", model="m", api_key="sk-secret")
    for leave in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(
            TypeError, match=f"{make.__name__} cannot be pickled or copied: a client stays in its process"
        ):
            leave(client)


def test_the_options_of_connect_are_those_of_the_clients() -> None:
    parameters = set(inspect.signature(BaseClient.__init__).parameters)
    assert set(ClientOptions.__annotations__) == parameters - {"self", "base_url", "model", "transport"}


def test_both_clients_take_the_same_arguments() -> None:
    ours, theirs = (inspect.signature(each.generate) for each in (AsyncTitoClient, TitoClient))
    assert ours == theirs


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"transport": "vllm_chat"}, ValueError, "vllm_chat takes no token ids"),
        ({"http": "curl"}, ValueError, "http must be 'native' or 'httpx'"),
        ({"http_client": object()}, TypeError, "http_client must be one of httpx"),
        ({"timeout": 0}, ValueError, "timeout must be a positive number"),
        ({"connect_timeout": -1}, ValueError, "connect_timeout must be a positive number"),
        ({"tls": "off"}, ValueError, "tls must be 'verify', 'insecure'"),
        ({"api_key": b"k"}, TypeError, "api_key must be a string"),
        ({"retries": 0}, TypeError, "retries must be a RetryPolicy or None, not 0"),
        ({"headers": {"a": 1}}, TypeError, "headers must map strings to strings"),
    ],
)
@pytest.mark.parametrize("made", [AsyncTitoClient, TitoClient])
def test_options_that_make_no_sense(made: Any, options: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        made("http://h", **{"model": "m", **options})


@pytest.mark.parametrize("made", [AsyncTitoClient, TitoClient])
def test_an_engine_that_is_none(made: Any) -> None:
    with pytest.raises(ValueError, match="http must be 'native' or 'httpx', not 'requests'"):
        made("http://h", model="m", http="requests")
    with pytest.raises(ValueError, match="a session of aiohttp is given as http_client"):
        made("http://h", model="m", http="aiohttp")


def test_the_wrong_kind_of_client() -> None:
    with httpx.Client() as blocking, pytest.raises(TypeError, match=r"not httpx\.Client"):
        AsyncTitoClient("http://h", model="m", http_client=blocking)
    with pytest.raises(TypeError, match=r"not httpx\.AsyncClient"):
        TitoClient("http://h", model="m", http_client=httpx.AsyncClient())


def test_no_more_connections_than_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 4096))
    assert TitoClient("http://h", model="m")._concurrency == 128
    assert TitoClient("http://h", model="m", max_concurrency=5)._concurrency == 5


def test_systems_without_descriptors_to_count(monkeypatch: pytest.MonkeyPatch, server: RawServer) -> None:
    """Windows has no ``resource``."""
    monkeypatch.setitem(sys.modules, "resource", None)
    assert TitoClient("http://h", model="m")._concurrency == 2048
    server.play(reply(200, {"choices": [{"index": 0, "token_ids": [1]}]}))
    for kind in KINDS:
        with Driver(kind, server.url) as client:
            for _ in range(2):
                client.generate(sampling_params={"logprobs": 0})
    assert (server.hits, server.connections) == (2 * len(KINDS), len(KINDS))


def test_importing_without_what_only_unix_has() -> None:
    code = "import sys; sys.modules['resource'] = None; import dynamo_tito._client, dynamo_tito._http.native"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_importing_the_package_imports_no_client() -> None:
    names = ("httpx", "aiohttp", "tenacity", "ssl", "asyncio")
    code = f"import sys, dynamo_tito; print([name for name in {names} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "[]"


def test_the_default_imports_no_http_library() -> None:
    code = (
        "import asyncio, sys\n"
        "for name in ('httpx', 'httpx2', 'httpcore', 'h11', 'aiohttp', 'anyio', 'certifi', 'sniffio', 'openai'):\n"
        "    sys.modules[name] = None\n"
        "import dynamo_tito as tito, dynamo_tito.control\n"
        "tito.TitoClient('https://h', model='m').close()\n"
        "async def main():\n"
        "    async with tito.AsyncTitoClient('https://h', model='m'): pass\n"
        "asyncio.run(main())"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


@pytest.mark.parametrize("made", [AsyncTitoClient, TitoClient])
def test_httpx_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, made: Any) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'dynamo-tito\[httpx\]'"):
        made("http://h", model="m", http="httpx")


# ------------------------------------------------------------------------------------------------ clients of one's own


def test_an_httpx_client_of_ones_own(server: RawServer, recorded: Recorded) -> None:
    server.play(reply(200, recorded("generate_basic")))
    with httpx.Client(headers={"x-mine": "1"}, timeout=0.001) as own:
        with TitoClient(server.url, model="m", http_client=own) as client:
            assert len(client.generate(PROMPT).token_ids) == 4
        assert not own.is_closed
    assert server.requests[0].headers["x-mine"] == "1"


@pytest.mark.parametrize("library", ["httpx", "aiohttp"])
def test_an_asynchronous_client_of_ones_own(server: RawServer, recorded: Recorded, library: str) -> None:
    server.play([Pause(0.1), *reply(200, recorded("generate_basic"))])

    async def run() -> None:
        own: Any = (
            httpx.AsyncClient(headers={"x-mine": "1"}, timeout=0.01)
            if library == "httpx"
            else aiohttp.ClientSession(headers={"x-mine": "1"}, timeout=aiohttp.ClientTimeout(0.01))
        )
        async with own:
            async with AsyncTitoClient(server.url, model="m", http_client=own) as client:
                assert len((await client.generate(PROMPT)).token_ids) == 4
            assert not (own.is_closed if library == "httpx" else own.closed)

    asyncio.run(run())
    assert server.requests[0].headers["x-mine"] == "1"


def test_a_handler_of_httpx(recorded: Recorded) -> None:
    """Its answers have been read before they arrive."""
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, content=recorded("generate_basic"))

    with httpx.Client(transport=httpx.MockTransport(handler)) as own:
        client = TitoClient("http://test", model="m", http_client=own)
        assert len(client.generate(PROMPT).token_ids) == 4
    assert [request.method for request in seen] == ["GET", "POST"]


@pytest.mark.parametrize("library", ["httpx", "aiohttp"])
def test_faults_over_a_client_of_ones_own(server: RawServer, library: str) -> None:
    """Where the phase of a failure is not known, the request is not sent again."""
    server.play([Reset()])

    async def run() -> None:
        own: Any = httpx.AsyncClient() if library == "httpx" else aiohttp.ClientSession()
        async with own:
            client = AsyncTitoClient(server.url, model="m", http_client=own, preflight=False)
            with pytest.raises(TransportError) as caught:
                await client.generate(PROMPT)
            assert caught.value.phase != "connect"

    asyncio.run(run())
    assert server.hits == 1


def test_a_function_instead_of_a_server(recorded: Recorded) -> None:
    def handler(request: HttpRequest) -> HttpResponse:
        if request.method == "GET":
            return HttpResponse(404, {}, b"")
        return HttpResponse(200, {"Content-Type": "application/json"}, recorded("generate_basic"))

    mock = MockTransport(handler)
    assert len(TitoClient("http://test", model="m", http_client=mock).generate(PROMPT).token_ids) == 4
    client = AsyncTitoClient("http://test", model="m", http_client=mock)
    assert len(asyncio.run(client.generate(PROMPT)).token_ids) == 4
    assert [request.url for request in mock.requests][1::2] == ["http://test/inference/v1/generate"] * 2


def test_what_a_handler_raises() -> None:
    def handler(_: HttpRequest) -> HttpResponse:
        raise TransportError("lost", phase="body")

    client = tito.TitoClient("http://test", model="m", http_client=MockTransport(handler))
    with pytest.raises(TransportError, match="lost"):
        client.generate(PROMPT)
    broken = MockTransport(lambda _: HttpResponse(200, {"content-length": "100"}, b"{}"))
    with pytest.raises(TransportError, match="2 of 100 bytes"):
        tito.TitoClient("http://test", model="m", http_client=broken).generate(PROMPT)


# ------------------------------------------------------------------------------------------------ certificates, proxies


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", f"{path}.key", "-out", f"{path}.crt", "-days", "2", "-subj", "/CN=127.0.0.1"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    return str(path)


def test_certificates_are_verified_unless_told_otherwise(kind: Kind, certificate: str, recorded: Recorded) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate + ".crt", certificate + ".key")
    trusting = ssl.create_default_context(cafile=certificate + ".crt")
    with RawServer([reply(200, recorded("generate_basic"))], tls=context) as server:
        with Driver(kind, server.url, retries=None) as client, pytest.raises(TransportError) as caught:
            client.generate()
        assert caught.value.phase == "connect"
        assert "certificate" in str(caught.value).lower()
        assert server.hits == 0
        for tls in ("insecure", trusting):
            with Driver(kind, server.url, tls=tls) as client:
                assert len(client.generate().token_ids) == 4


def test_contexts() -> None:
    assert tls_context("verify").verify_mode == ssl.CERT_REQUIRED
    assert tls_context("verify").check_hostname
    assert tls_context("insecure").verify_mode == ssl.CERT_NONE
    own = ssl.create_default_context()
    assert tls_context(own) is own


@pytest.mark.parametrize(
    ("environment", "url", "expected"),
    [
        ({}, "http://h", None),
        ({"http_proxy": "http://p:1"}, "http://h", "http://p:1"),
        ({"HTTP_PROXY": "p:1"}, "http://h", "http://p:1"),
        ({"https_proxy": "http://p:1"}, "http://h", None),
        ({"https_proxy": "http://p:1"}, "https://h", "http://p:1"),
        ({"all_proxy": "http://p:1"}, "https://h", "http://p:1"),
        ({"http_proxy": "http://p:1", "no_proxy": "h"}, "http://h:8000", None),
        ({"http_proxy": "http://p:1", "no_proxy": "other"}, "http://h:8000", "http://p:1"),
        ({"http_proxy": "http://p:1", "no_proxy": "*"}, "http://h", None),
    ],
)
def test_proxies_of_the_environment(
    environment: dict[str, str], url: str, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert proxy_for(url) == expected


def test_a_proxy_is_used_and_may_be_ignored(
    kind: Kind, server: RawServer, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.play(reply(200, recorded("generate_basic")))
    monkeypatch.setenv("http_proxy", server.url.replace("//", "//me:secret@"))
    monkeypatch.setenv("no_proxy", "")
    with Driver(kind, "http://engine.invalid:8000") as client:
        assert len(client.generate().token_ids) == 4
    assert server.requests[0].path == "http://engine.invalid:8000/inference/v1/generate"
    assert server.requests[0].headers["proxy-authorization"] == "Basic bWU6c2VjcmV0"
    with Driver(kind, server.url, trust_env=False) as client:
        client.generate()
    assert server.requests[1].path == "/inference/v1/generate"
    with (
        Driver(kind, "http://engine.invalid:8000", trust_env=False, retries=None) as client,
        pytest.raises(TransportError),
    ):
        client.generate()


# ------------------------------------------------------------------------------------------------ many at once


def test_many_calls_share_the_connections(kind: Kind, server: RawServer, recorded: Recorded) -> None:
    body = recorded("generate_basic")
    server.play([Pause(0.05), *reply(200, body)])
    calls, at_once = 150, 20
    with Driver(kind, server.url, max_concurrency=at_once) as client:
        if isinstance(client.client, AsyncTitoClient):
            client._runner.run(_gather(client.client, calls))
        else:
            with ThreadPoolExecutor(40) as threads:
                list(threads.map(lambda _: client.generate(), range(calls)))
    assert server.hits == calls
    assert server.most_at_once <= at_once
    assert server.connections <= at_once


async def _gather(client: AsyncTitoClient, calls: int) -> None:
    completions = await asyncio.gather(*(client.generate(PROMPT) for _ in range(calls)))
    assert all(len(completion.token_ids) == 4 for completion in completions)


def test_two_hundred_calls_in_flight(server: RawServer, recorded: Recorded) -> None:
    """At the same time; a pool that queued some would deadlock here."""
    body = recorded("generate_basic")
    calls = 200

    def answer(_: Received) -> list[Any]:
        return [Until(lambda: server.hits >= calls), *reply(200, body)]

    server.play(answer)
    with Driver("native", server.url) as client:
        assert isinstance(client.client, AsyncTitoClient)
        client._runner.run(_gather(client.client, calls))
        before = server.connections
        client._runner.run(_gather(client.client, calls))
    assert server.hits == 2 * calls
    assert before > 64
    assert server.connections <= before + 64


def test_each_answer_goes_to_its_own_caller(kind: Kind, server: RawServer) -> None:
    def answer(request: Received) -> list[Any]:
        token = request.json["token_ids"][0]
        document = {"choices": [{"index": 0, "token_ids": [token] * 3, "finish_reason": "stop"}]}
        return [Pause(0.001 * (token % 7)), *reply(200, document)]

    server.play(answer)
    with Driver(kind, server.url, max_concurrency=8) as client:
        prompts = [[token] for token in range(100)]
        options: dict[str, Any] = {"sampling_params": {"logprobs": 0}}
        if isinstance(client.client, AsyncTitoClient):
            completions = client._runner.run(_each(client.client, prompts, options))
        else:
            with ThreadPoolExecutor(20) as threads:
                completions = list(threads.map(lambda prompt: client.generate(prompt, **options), prompts))
    assert [completion.token_ids.tolist() for completion in completions] == [prompt * 3 for prompt in prompts]


async def _each(client: AsyncTitoClient, prompts: list[list[int]], options: dict[str, Any]) -> list[tito.Completion]:
    return await asyncio.gather(*(client.generate(prompt, **options) for prompt in prompts))


@pytest.mark.parametrize("kind", ["native", "httpx"])
def test_the_loop_runs_on_while_a_large_body_is_decoded(
    kind: Kind, server: RawServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decode of a large body happens elsewhere: while it blocks, the loop ticks."""
    decode = _native.decode
    ticked = threading.Event()

    def slow(*arguments: Any, **options: Any) -> Any:
        assert ticked.wait(20), "the loop stands still"
        return decode(*arguments, **options)

    monkeypatch.setattr(decoding, "decode", slow)
    document = {"choices": [{"index": 0, "token_ids": [1], "finish_reason": "stop"}], "padding": "x" * 200_000}
    server.play(reply(200, document))

    async def ticks(client: AsyncTitoClient) -> int:
        call = asyncio.create_task(client.generate(PROMPT, sampling_params={"logprobs": 0}))
        count = 0
        while not call.done():
            await asyncio.sleep(0.001)
            count += 1
            if server.hits and count > 20:
                ticked.set()
        await call
        return count

    with Driver(kind, server.url, thread_from_bytes=100_000) as client:
        assert isinstance(client.client, AsyncTitoClient)
        assert client._runner.run(ticks(client.client)) > 20


# ------------------------------------------------------------------------------------------------ processes


def test_a_forked_child_gets_an_error(server: RawServer, recorded: Recorded) -> None:
    server.play(reply(200, recorded("generate_basic")))
    with Driver("blocking", server.url) as client:
        client.generate()
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                client.generate()
                said = b"nothing"
            except RuntimeError as error:
                said = str(error).encode()
            os.write(write, said)
            os._exit(0)
        os.waitpid(child, 0)
        assert b"made in another process" in os.read(read, 1000)
        os.close(read)
        os.close(write)
        client.generate()
    assert server.hits == 2


def test_an_error_leaves_nothing_behind(kind: Kind, server: RawServer) -> None:
    server.play(reply(500, b"x"))
    with Driver(kind, server.url) as client:
        for _ in range(20):
            with pytest.raises(ServerError):
                client.generate()
    assert server.connections == 1
