"""A request is sampled at most once, by the count of the server."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Sequence
from email.utils import formatdate
from typing import Any

import pytest

from dynamo_tito._client.retry import RetryWaits, retried, retry_after
from dynamo_tito._client.steps import Send, Sleep
from dynamo_tito._config import RetryPolicy
from dynamo_tito._errors import BadRequestError, OverloadedError, ServerError, TitoError, TransportError
from dynamo_tito._http.base import HttpRequest, HttpResponse
from support.driver import Driver, Kind
from support.raw_server import Answer, Close, Pause, RawServer, Reset, Until, chunked, head, reply

Connect = Callable[..., Driver]
Recorded = Callable[[str], bytes]

QUICK = RetryPolicy(attempts=4, initial=0.01, maximum=0.02, retry_after=0.05)
PAUSED = {"error": {"message": "Generation is paused. Please retry after it resumes.", "code": 503}}
NOT_READY = {"message": "Model `m` is not ready to serve requests yet. Please retry shortly.", "code": 503}
OK = {"request_id": "r", "choices": [{"index": 0, "token_ids": [], "finish_reason": "stop"}]}


@pytest.mark.parametrize("refusal", [reply(429), reply(503, PAUSED), reply(503, NOT_READY)])
def test_refusals_before_sampling_are_retried(
    connect: Connect, server: RawServer, recorded: Recorded, refusal: Answer
) -> None:
    server.play(refusal, refusal, reply(200, recorded("generate_basic")))
    completion = connect(retries=QUICK).generate()
    assert completion.token_ids.tolist() == [1000, 1001, 1002, 1003]
    assert server.hits == 3
    assert len({request.body for request in server.requests}) == 1


def test_retries_end(connect: Connect, server: RawServer) -> None:
    server.play(reply(429, {"error": {"message": "busy"}}))
    with pytest.raises(OverloadedError, match="HTTP 429: busy"):
        connect(retries=QUICK).generate()
    assert server.hits == QUICK.attempts


def test_no_retries_on_request(connect: Connect, server: RawServer) -> None:
    server.play(reply(429))
    with pytest.raises(OverloadedError):
        connect(retries=None).generate()
    assert server.hits == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 409, 413, 422, 499, 500, 502, 503, 504])
def test_everything_else_surfaces_once(connect: Connect, server: RawServer, status: int) -> None:
    server.play(reply(status, {"message": "Service temporarily unavailable"}), reply(200, OK))
    with pytest.raises(ServerError) as caught:
        connect(retries=QUICK).generate()
    assert caught.value.status == status
    assert server.hits == 1


BODY = b'{"request_id":"r","choices":[{"index":0,"token_ids":[],"finish_reason":"stop"}]}'

FAULTS: dict[str, tuple[Answer, str | None]] = {
    "reset before an answer": ([Reset()], "headers"),
    "closed before an answer": ([Close()], "headers"),
    "reset within the headers": ([b"HTTP/1.1 200 OK\r\ncontent-le", Reset()], "headers"),
    "closed within the headers": ([b"HTTP/1.1 200 OK\r\ncontent-le", Close()], "headers"),
    "no http": ([b"SSH-2.0-OpenSSH_9.6\r\n\r\n", Close()], "headers"),
    "reset within the body": ([*reply(200, BODY, length=1000), Reset()], "body"),
    "fewer bytes than announced": ([*reply(200, BODY, length=1000), Close()], "body"),
    "one byte fewer than announced": ([*reply(200, BODY, length=len(BODY) + 1), Close()], "body"),
    "chunks without an end": ([*chunked(200, [BODY], end=False), Close()], "body"),
    "a broken chunk": ([head(200, {"transfer-encoding": "chunked"}), Pause(0.1), b"zz\r\n" + BODY, Close()], "body"),
    "cut within a chunk": ([head(200, {"transfer-encoding": "chunked"}) + b"ffff\r\n" + BODY, Close()], "body"),
    # What only the decoder can see.
    "one byte more than announced": ([*reply(200, BODY, length=len(BODY) - 1), Close()], None),
    "cut where nothing was announced": ([head(200, {"connection": "close"}) + BODY[:-1], Close()], None),
    "nothing": (reply(200, b""), None),
    "a page": (reply(200, b"<html></html>", content_type="text/html"), None),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_after_sending_is_an_error_and_never_a_second_request(
    connect: Connect, server: RawServer, recorded: Recorded, fault: str
) -> None:
    answer, phase = FAULTS[fault]
    server.play(answer, reply(200, recorded("generate_basic")))
    client = connect(retries=QUICK)
    with pytest.raises(TitoError) as caught:
        client.generate()
    assert server.hits == 1
    if phase is not None:
        assert isinstance(caught.value, TransportError)
        assert caught.value.phase == phase
    assert "\n" not in str(caught.value)
    # The client is as good as new.
    assert client.generate().token_ids.tolist() == [1000, 1001, 1002, 1003]
    assert server.hits == 2


def smuggled(token: int) -> bytes:
    document = {"choices": [{"index": 0, "token_ids": [token], "finish_reason": "stop"}]}
    return b"".join(step for step in reply(200, document) if isinstance(step, bytes))


def test_an_unrequested_answer_is_discarded(connect: Connect, server: RawServer) -> None:
    """A second answer in the same segment would be the next caller's, who asked something else."""
    server.play([smuggled(1) + smuggled(2)], [smuggled(3)])
    client = connect(retries=QUICK)
    seen = []
    for _ in range(4):
        try:
            seen.append(client.generate(sampling_params={"logprobs": 0}).token_ids.tolist())
        except TransportError:
            seen.append([])
    assert [2] not in seen
    assert seen[-1] == [3]


def test_a_late_unrequested_answer_is_discarded(connect: Connect, server: RawServer) -> None:
    read = threading.Event()
    server.play([smuggled(1), Until(read.is_set), smuggled(2)], [smuggled(3)])
    client = connect(retries=QUICK)
    assert client.generate(sampling_params={"logprobs": 0}).token_ids.tolist() == [1]
    read.set()
    server.wait_until(lambda: server.busy == 0)
    assert client.generate(sampling_params={"logprobs": 0}).token_ids.tolist() == [3]


@pytest.mark.parametrize("first", [b"", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_an_interim_answer_is_not_the_answer(connect: Connect, server: RawServer, first: bytes) -> None:
    server.play([first + smuggled(1)])
    client = connect()
    for _ in range(2):
        assert client.generate(sampling_params={"logprobs": 0}).token_ids.tolist() == [1]


def test_a_refusal_before_the_request_is_all_there(kind: Kind) -> None:
    """A server may answer and close without reading megabytes: the answer counts if it can be had, else it is lost."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def refuse() -> None:
            for _ in range(2):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(100)
                    connection.sendall(
                        b"".join(s for s in reply(413, {"message": "too large"}) if isinstance(s, bytes))
                    )

        thread = threading.Thread(target=refuse, daemon=True)
        thread.start()
        with Driver(kind, f"http://127.0.0.1:{listener.getsockname()[1]}", retries=QUICK) as client:
            for _ in range(2):
                with pytest.raises((BadRequestError, TransportError)) as caught:
                    client.generate([1] * 2_000_000, deadline=20.0)
                assert getattr(caught.value, "phase", None) != "connect"
        thread.join()


def test_a_large_request_to_a_server_that_reads_slowly(kind: Kind) -> None:
    """The request is many times what sockets buffer, so that sending has to wait for the server."""
    prompt = list(range(1, 1_000_001))
    document = {"choices": [{"index": 0, "token_ids": [1], "finish_reason": "stop"}]}
    answer = b"".join(step for step in reply(200, document) if isinstance(step, bytes))
    received = bytearray()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def read_slowly() -> None:
            connection, _ = listener.accept()
            with connection:
                while not received.endswith(b"1000000]}"):
                    received.extend(connection.recv(1 << 18))
                    time.sleep(0.001)
                connection.sendall(answer)

        thread = threading.Thread(target=read_slowly, daemon=True)
        thread.start()
        with Driver(kind, f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
            client.generate(prompt, sampling_params={"logprobs": 0}, deadline=60.0)
        thread.join()
    assert json.loads(received.partition(b"\r\n\r\n")[2])["token_ids"] == prompt


def test_a_kept_connection_that_the_server_drops(connect: Connect, server: RawServer, recorded: Recorded) -> None:
    """The request was sent on it, and it is not known whether it was read."""
    good = reply(200, recorded("generate_basic"))
    server.play(good, [Reset()], good)
    client = connect(retries=QUICK)
    client.generate()
    with pytest.raises(TransportError) as caught:
        client.generate()
    assert caught.value.phase in ("send", "headers")
    assert server.hits == 2
    client.generate()


def test_failed_connects_are_retried(kind: Kind) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with Driver(kind, url, retries=QUICK) as client, pytest.raises(TransportError) as caught:
            client.generate()
    assert caught.value.phase == "connect"


def test_a_server_that_starts_late_is_reached(kind: Kind, recorded: Recorded) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        policy = RetryPolicy(attempts=5_000, initial=0.05, maximum=0.05)
        with Driver(kind, f"http://127.0.0.1:{port}", retries=policy) as client:

            def answer() -> None:
                time.sleep(0.15)
                listener.listen()
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(
                        b"".join(step for step in reply(200, recorded("generate_basic")) if isinstance(step, bytes))
                    )

            thread = threading.Thread(target=answer, daemon=True)
            thread.start()
            assert len(client.generate().token_ids) == 4
            thread.join()


def test_retry_after_is_honoured_up_to_a_cap(connect: Connect, server: RawServer, recorded: Recorded) -> None:
    server.play(reply(429, headers={"retry-after": "0.2"}), reply(200, recorded("generate_basic")))
    started = time.monotonic()
    connect(retries=RetryPolicy(initial=0.0, maximum=0.0, retry_after=1.0)).generate()
    assert time.monotonic() - started >= 0.2


def test_no_wait_is_begun_that_the_deadline_would_cut(connect: Connect, server: RawServer) -> None:
    server.play(reply(429, headers={"retry-after": "20"}))
    with pytest.raises(OverloadedError):
        connect().generate(deadline=5.0)
    assert server.hits == 1


# ------------------------------------------------------------------------------------------------ the policy alone


def steps_of(policy: RetryPolicy, errors: Sequence[TitoError], **options: Any) -> tuple[list[float], object]:
    """The waits that a policy has between attempts that fail, and what came of it in the end."""
    left = iter(errors)

    def judged(_answer: HttpResponse) -> str:
        for error in left:
            raise error
        return "done"

    send, answer = Send(HttpRequest("POST", "http://server", {})), HttpResponse(200, {}, b"")
    steps = retried(RetryWaits(policy, deadline=None, rng=lambda: 1.0, **options), send, judged)
    waits: list[float] = []
    step: object = None
    while True:
        try:
            step = steps.send(answer if step is send else None)
        except StopIteration as stop:
            return waits, stop.value
        except TitoError as error:
            return waits, error
        if isinstance(step, Sleep):
            waits.append(step.seconds)


def refused() -> TransportError:
    return TransportError("refused", phase="connect")


def test_waits_grow_to_a_ceiling() -> None:
    policy = RetryPolicy(attempts=6, initial=1.0, maximum=3.0, budget=100.0)
    assert steps_of(policy, [refused() for _ in range(5)]) == ([1.0, 2.0, 3.0, 3.0, 3.0], "done")


def test_the_budget_ends_it() -> None:
    policy = RetryPolicy(attempts=100, initial=1.0, maximum=1.0, budget=2.5)
    errors = [refused() for _ in range(5)]
    assert steps_of(policy, errors) == ([1.0, 1.0], errors[2])


@pytest.mark.parametrize("phase", ["send", "headers", "body"])
def test_only_failed_connects_are_retried(phase: Any) -> None:
    error = TransportError("lost", phase=phase)
    assert steps_of(RetryPolicy(), [error]) == ([], error)


def test_jitter_is_full() -> None:
    policy = RetryPolicy(initial=1.0, maximum=8.0)
    waits = {RetryWaits(policy, deadline=None).next_wait(4) for _ in range(50)}
    assert len(waits) > 40
    assert all(0.0 <= wait <= 8.0 for wait in waits)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("3", 3.0), ("0.5", 0.5), (" 7 ", 7.0), ("-3", 0.0), ("nan", None), ("inf", None), ("soon", None), ("", None)],
)
def test_retry_after(value: str, expected: float | None) -> None:
    assert retry_after({"retry-after": value}) == expected


def test_retry_after_as_a_date() -> None:
    seconds = retry_after({"retry-after": formatdate(time.time() + 100, usegmt=True)})
    assert seconds is not None
    assert 90 < seconds <= 100
    assert retry_after({"retry-after": formatdate(time.time() - 100, usegmt=True)}) == 0.0
    assert retry_after({}) is None


@pytest.mark.parametrize(
    "wrong", [{"attempts": 0}, {"initial": -1.0}, {"budget": float("nan")}, {"maximum": float("inf")}]
)
def test_policies_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        RetryPolicy(**wrong)
