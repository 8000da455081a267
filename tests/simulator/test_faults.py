"""Faults at any byte, seen from a socket, and the records that the engine keeps of them."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from dynamo_tito import simulator
from dynamo_tito.simulator import Engine, Fault

BODY = json.dumps({"token_ids": [1, 2, 3], "sampling_params": {"max_tokens": 4, "logprobs": 1}}).encode()
PATH = "/inference/v1/generate"


@pytest.fixture
def engine() -> Iterator[Engine]:
    with simulator.running(backend="vllm") as running:
        yield running


class Client:
    """One connection, one request, and every byte that comes back."""

    def __init__(self, engine: Engine) -> None:
        address = urlsplit(engine.url)
        self.socket = socket.create_connection((address.hostname, address.port), timeout=10)

    def send(self, *, headers: str = "", body: bytes = BODY) -> None:
        head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{headers}"
        self.socket.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)

    def receive(self) -> tuple[bytes, str]:
        """(everything until the end, how it ended): "closed" or "reset"."""
        data = bytearray()
        with self.socket:
            end = self.receive_into(data)
        return bytes(data), end

    def receive_into(self, data: bytearray) -> str:
        while True:
            try:
                piece = self.socket.recv(1 << 16)
            except ConnectionResetError:
                return "reset"
            if not piece:
                return "closed"
            data += piece


def exchange(engine: Engine, *faults: Fault, headers: str = "connection: close\r\n") -> tuple[bytes, str]:
    engine.inject(*faults)
    client = Client(engine)
    client.send(headers=headers)
    return client.receive()


def good(engine: Engine) -> tuple[bytes, bytes]:
    """Head and body of an undisturbed answer; the date is the only part that changes."""
    head, _, body = exchange(engine)[0].partition(b"\r\n\r\n")
    return head + b"\r\n\r\n", body


@pytest.mark.parametrize("at", [0, 1, 100, -1, 0.5])
@pytest.mark.parametrize(("kind", "end"), [("reset", "reset"), ("truncate", "closed")])
@pytest.mark.parametrize("phase", ["headers", "body"])
def test_it_breaks_off_at_the_byte(engine: Engine, kind: Any, end: str, phase: Any, at: Any) -> None:
    head, body = good(engine)
    total = len(head) if phase == "headers" else len(body)
    cut = int(at * total) if isinstance(at, float) else at % total
    data, ended = exchange(engine, Fault(kind=kind, phase=phase, at=at))
    expected = cut if phase == "headers" else len(head) + cut
    assert (len(data), ended) == (expected, end)
    # What came is the beginning of a good answer, but for the date and the id of the request.
    assert data[:15] == (head + body)[: min(15, expected)]
    assert phase == "headers" or len(data.partition(b"\r\n\r\n")[2]) == cut
    assert engine.last.disconnected
    assert engine.last.sent == (cut if phase == "body" else 0)
    assert len(engine.last.samples) == 1


@pytest.mark.parametrize("phase", ["accept", "request", "sampled"])
def test_reset_before_the_first_byte(engine: Engine, phase: Any) -> None:
    engine.inject(Fault(kind="reset", phase=phase))
    try:
        client = Client(engine)
    except ConnectionResetError:
        assert phase == "accept"
    else:
        if phase != "accept":
            client.send()
        assert client.receive() == (b"", "reset")
    samples = [len(record.samples) for record in engine.requests]
    assert samples == {"accept": [], "request": [0], "sampled": [1]}[phase]


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_framing(engine: Engine, framing: Any) -> None:
    head, body = good(engine)
    assert b"content-length: %d" % len(body) in head
    data, end = exchange(
        engine, Fault(kind="delay", framing=framing), headers="" if framing == "close" else "connection: close\r\n"
    )
    answered, _, rest = data.partition(b"\r\n\r\n")
    assert end == "closed"
    assert (b"content-length" in answered) is (framing == "length")
    assert (b"transfer-encoding: chunked" in answered) is (framing == "chunked")
    if framing == "chunked":
        size, _, rest = rest.partition(b"\r\n")
        assert int(size, 16) == len(body)
        assert rest.endswith(b"\r\n0\r\n\r\n")
        rest = rest[: len(body)]
    assert len(rest) == len(body)
    json.loads(rest)


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_a_cut_without_a_length(engine: Engine, framing: Any) -> None:
    _, body = good(engine)
    data, end = exchange(engine, Fault(kind="truncate", at=-10, framing=framing))
    rest = data.partition(b"\r\n\r\n")[2]
    if framing == "chunked":
        rest = rest.partition(b"\r\n")[2]
    assert (len(rest), end) == (len(body) - 10, "closed")


@pytest.mark.parametrize("by", [-1, 1, 7])
def test_a_wrong_content_length(engine: Engine, by: int) -> None:
    _, body = good(engine)
    data, _ = exchange(engine, Fault(kind="length", by=by))
    head, _, rest = data.partition(b"\r\n\r\n")
    assert b"content-length: %d" % (len(body) + by) in head
    assert len(rest) == len(body)


@pytest.mark.parametrize("fault", [Fault(kind="stall", at=20), Fault(kind="trickle", at=20, seconds=1_000.0)])
def test_silence_until_the_client_leaves(engine: Engine, fault: Fault) -> None:
    engine.inject(fault)
    client = Client(engine)
    client.send()
    client.socket.settimeout(0.2)
    received = bytearray()
    with pytest.raises(TimeoutError):
        client.receive_into(received)
    assert len(received.partition(b"\r\n\r\n")[2]) == 20
    client.socket.close()
    wait_for(lambda: engine.last.disconnected)
    assert engine.last.sent == 20


@pytest.mark.parametrize("phase", ["accept", "request", "sampled", "headers", "body"])
def test_a_stall_that_ends(engine: Engine, phase: Any) -> None:
    data, end = exchange(engine, Fault(kind="stall", phase=phase, seconds=0.05))
    json.loads(data.partition(b"\r\n\r\n")[2])
    assert end == "closed"


@pytest.mark.parametrize("chunk", [1, 50, 1_000_000])
def test_trickled_bodies_are_whole(engine: Engine, chunk: int) -> None:
    data, _ = exchange(engine, Fault(kind="trickle", chunk=chunk, seconds=0.0, at=100))
    json.loads(data.partition(b"\r\n\r\n")[2])
    assert engine.last.sent == len(data.partition(b"\r\n\r\n")[2])


def test_the_connection_stays_and_serves_the_next(engine: Engine) -> None:
    with httpx.Client(base_url=engine.url, timeout=None, trust_env=False, verify=False) as client:
        for _ in range(3):
            assert client.post(PATH, content=BODY, headers={"content-type": "application/json"}).status_code == 200
        assert [connection.is_idle() for connection in client._transport._pool.connections] == [True]  # type: ignore[attr-defined]
    assert len(engine.requests) == 3


def test_requests_in_pieces_and_chunks(engine: Engine) -> None:
    client = Client(engine)
    head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n"
    for piece in (head[:10], head[10:], "transfer-encoding: chunked\r\n\r\n", "5\r\n"):
        client.socket.sendall(piece.encode())
        time.sleep(0.01)
    client.socket.sendall(BODY[:5] + b"\r\n%x\r\n" % (len(BODY) - 5) + BODY[5:] + b"\r\n0\r\n\r\n")
    data, _ = client.receive()
    json.loads(data.partition(b"\r\n\r\n")[2])
    assert engine.last.body == BODY


@pytest.mark.parametrize("head", [b"nonsense\r\n\r\n", b"GET /\r\n\r\n", b"POST /x HTTP/1.1\r\nno colon\r\n\r\n"])
def test_what_is_no_http(engine: Engine, head: bytes) -> None:
    client = Client(engine)
    client.socket.sendall(head)
    data, end = client.receive()
    assert data.startswith(b"HTTP/1.1 400")
    assert end == "closed"


def test_gzip_for_clients_that_accept_it() -> None:
    with simulator.running(backend="vllm", gzip=True) as engine:
        plain, _ = exchange(engine)
        assert b"content-encoding" not in plain.partition(b"\r\n\r\n")[0]
        packed, _ = exchange(engine, headers="accept-encoding: gzip\r\nconnection: close\r\n")
        head, _, body = packed.partition(b"\r\n\r\n")
        assert b"content-encoding: gzip" in head
        json.loads(zlib.decompress(body, 31))
        cut, _ = exchange(
            engine,
            Fault(kind="truncate", at=-20, framing="close"),
            headers="accept-encoding: gzip\r\nconnection: close\r\n",
        )
        unpacker = zlib.decompressobj(31)
        unpacker.decompress(cut.partition(b"\r\n\r\n")[2])
        assert not unpacker.eof


@pytest.mark.parametrize("backend", ["dynamo", "vllm", "prime", "sglang"])
def test_errors_in_the_envelope_of_the_backend(backend: Any) -> None:
    with (
        simulator.running(backend=backend) as engine,
        httpx.Client(base_url=engine.url, timeout=None, trust_env=False, verify=False) as client,
    ):
        path = "/generate" if backend == "sglang" else PATH
        body = {"input_ids": [1], "token_ids": [1], "sampling_params": {}}
        engine.inject(Fault(kind="status", status=429, headers={"retry-after": "2"}, message="slow down"))
        response = client.post(path, json=body)
        assert (response.status_code, response.headers["retry-after"]) == (429, "2")
        assert response.json()["error"]["message"] == "slow down"
        assert engine.last.samples == []

        engine.inject(Fault(kind="status", phase="sampled", status=503))
        assert client.post(path, json=body).status_code == 503
        assert len(engine.last.samples) == 1

        engine.inject(Fault(kind="not_ready"))
        response = client.post(path, json=body)
        assert response.status_code == 503
        expected = {"dynamo": "not ready to serve requests yet", "sglang": "not ready"}
        assert expected.get(backend, "Generation is paused") in response.text
        assert engine.last.samples == []

        engine.inject(Fault(kind="error_body"), Fault(kind="error_body", body=b'{"error":"x"}'))
        response = client.post(path, json=body)
        assert response.status_code == 200
        assert "error" in response.json()
        assert client.post(path, json=body).content == b'{"error":"x"}'
        assert client.post(path, json=body).status_code == 200


def test_the_script_is_followed_in_order_and_by_path(engine: Engine) -> None:
    engine.inject(
        Fault(kind="status", status=500, path="/v1/models"),
        Fault(kind="status", status=501),
        Fault(kind="status", status=502),
    )
    with httpx.Client(base_url=engine.url, timeout=None, trust_env=False, verify=False) as client:
        arguments: dict[str, Any] = {"content": BODY, "headers": {"content-type": "application/json"}}
        assert client.post(PATH, **arguments).status_code == 501
        assert client.get("/v1/models").status_code == 500
        assert client.get("/v1/models").status_code == 200
        assert client.post(PATH, **arguments).status_code == 502
        assert client.post(PATH, **arguments).status_code == 200
    assert engine.faults.pending() == ()


def test_faults_at_a_rate_are_the_same_in_every_run() -> None:
    random_faults = (Fault(kind="status", status=500), Fault(kind="status", status=503))
    runs = []
    for _ in range(2):
        settings: dict[str, Any] = {"backend": "vllm", "fault_rate": 0.3, "random_faults": random_faults, "seed": 4}
        with (
            simulator.running(**settings) as engine,
            httpx.Client(base_url=engine.url, timeout=None, trust_env=False, verify=False) as client,
        ):
            arguments: dict[str, Any] = {"content": BODY, "headers": {"content-type": "application/json"}}
            runs.append([client.post(PATH, **arguments).status_code for _ in range(200)])
            assert client.get("/v1/models").status_code == 200
    assert runs[0] == runs[1]
    assert set(runs[0]) == {200, 500, 503}
    assert 30 < sum(status != 200 for status in runs[0]) < 90


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "nope"},
        {"kind": "abort", "phase": "body"},
        {"kind": "status", "phase": "accept"},
        {"kind": "truncate", "phase": "sampled"},
    ],
)
def test_faults_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"kind must be|happens in phase"):
        Fault(**wrong)


@pytest.mark.parametrize("wrong", [{"backend": "tgi"}, {"prompt_start": "x"}, {"fault_rate": 0.1}, {"latency": -1.0}])
def test_settings_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Engine(**wrong)


def test_a_closed_connection_is_recorded() -> None:
    with simulator.running(backend="vllm", latency=30.0) as engine:
        client = Client(engine)
        client.send(headers="x-request-id: gone\r\n")
        wait_for(lambda: len(engine.requests) == 1)
        client.socket.close()
        wait_for(lambda: engine.last.disconnected)
        assert engine.last.samples == []
        wait_for(lambda: engine.admin.in_flight == 0)


def test_hits_by_request_id(engine: Engine) -> None:
    with httpx.Client(base_url=engine.url, timeout=None, trust_env=False, verify=False) as client:
        for name in ("a", "b", "a"):
            client.post(PATH, content=BODY, headers={"content-type": "application/json", "x-request-id": name})
        named = json.loads(BODY) | {"request_id": "c"}
        client.post(PATH, json=named)
        engine.inject(Fault(kind="status"))
        client.post(PATH, json=named)
        client.post(PATH, json=json.loads(BODY))
    assert engine.hits()["a"] == 2
    assert engine.hits()["c"] == 2
    assert engine.sampled()["c"] == 1
    assert len(engine.hits()) == 4
    assert (engine.total_requests, engine.total_sampled) == (6, 5)


def test_the_record_is_bounded() -> None:
    with simulator.running(backend="vllm", keep_records=3) as engine:
        with httpx.Client(base_url=engine.url, timeout=None, trust_env=False, verify=False) as client:
            for _ in range(5):
                client.post(PATH, content=BODY, headers={"content-type": "application/json"})
        assert (len(engine.calls), engine.total_requests) == (3, 5)
        engine.forget()
        assert engine.calls == []


def test_two_hundred_at_once() -> None:
    async def main(engine: Engine) -> list[int]:
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(
            base_url=engine.url, limits=limits, timeout=None, trust_env=False, verify=False
        ) as client:

            async def one(number: int) -> int:
                body = {"token_ids": [number + 1], "sampling_params": {"max_tokens": 3, "logprobs": 1}}
                answer = (await client.post(PATH, json=body, headers={"x-request-id": str(number)})).json()
                return len(answer["choices"][0]["token_ids"])

            return await asyncio.gather(*(one(number) for number in range(200)))

    with simulator.running(backend="vllm", latency=0.2) as engine:
        assert asyncio.run(main(engine)) == [3] * 200
        assert set(engine.sampled().values()) == {1}
        assert len(engine.sampled()) == 200


def test_the_async_face() -> None:
    async def main() -> int:
        async with (
            simulator.serve(backend="sglang") as engine,
            httpx.AsyncClient(timeout=None, trust_env=False, verify=False) as client,
        ):
            response = await client.post(f"{engine.url}/generate", json={"input_ids": [1], "sampling_params": {}})
            return response.status_code

    assert asyncio.run(main()) == 200


def test_stopping_drops_what_is_in_flight() -> None:
    answers: list[str] = []

    def ask(url: str) -> None:
        try:
            headers = {"content-type": "application/json"}
            httpx.post(url + PATH, content=BODY, headers=headers, timeout=None, trust_env=False, verify=False)
        except httpx.HTTPError as error:
            answers.append(type(error).__name__)

    with simulator.running(backend="vllm", latency=60.0) as engine:
        thread = threading.Thread(target=ask, args=(engine.url,), daemon=True)
        thread.start()
        wait_for(lambda: engine.admin.in_flight == 1)
    thread.join(60)
    assert len(answers) == 1
    assert answers[0] in {"RemoteProtocolError", "ReadError"}


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
