"""What goes wrong inside a stream, seen in its bytes on every wire that can say it."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, get_args
from urllib.parse import urlsplit

import httpx
import pytest

from dynamo_tito import simulator
from dynamo_tito.simulator import Engine, Fault
from dynamo_tito.simulator.contents import EDITS
from dynamo_tito.simulator.faults import ContentKind, FaultKind, StreamKind
from dynamo_tito.simulator.stream_faults import STREAM_FAULTS
from support.events import Seen, documents, joined

from .test_streams import COUNT, NAMES, WIRES, wait_for

CUMULATIVE = ("sglang",)
#: Wires of which this fault makes nothing, because they have no such part.
NOWHERE: dict[FaultKind, tuple[str, ...]] = {
    # None of these asks for an artifact.
    **dict.fromkeys(("artifact_cut", "artifact_size", "artifact_failed", "artifact_ids"), tuple(NAMES)),
    "contradiction": tuple(name for name in NAMES if name not in CUMULATIVE),
    "short_entries": tuple(name for name in NAMES if name.startswith("sglang")),
    **dict.fromkeys(
        ("unrouted_row", "unrouted_slot", "rows_behind_prompt", "no_rows"),
        tuple(name for name, asked in WIRES.items() if not asked.routed),
    ),
    **dict.fromkeys(
        ("spans_overlap", "spans_gap", "spans_bare"),
        tuple(name for name, asked in WIRES.items() if not asked.spans),
    ),
    **dict.fromkeys(
        ("mask_empty_row", "mask_without_token"),
        tuple(name for name in NAMES if name not in ("vllm 0.32", "vllm 0.33") and not name.startswith("sglang")),
    ),
    "prompt_count": tuple(name for name in NAMES if not name.startswith("sglang")),
    "completion_count": tuple(name for name in NAMES if not name.startswith("sglang")),
    "long_echo": tuple(name for name in NAMES if name.startswith(("dynamo", "sglang"))),
}
CONTENT = [kind for kind in get_args(ContentKind) if kind != "events"]


@pytest.fixture(scope="module")
def engines() -> Iterator[dict[str, Engine]]:
    with ExitStack() as stack:
        yield {name: stack.enter_context(simulator.running(**asked.settings)) for name, asked in WIRES.items()}


def play(engine: Engine, name: str, *faults: Fault) -> httpx.Response:
    asked = WIRES[name]
    engine.inject(*faults)
    url = engine.url + asked.path
    answer = httpx.post(url, json=asked.body | {"stream": True}, timeout=30.0, trust_env=False, verify=False)
    assert not engine.faults.pending()
    wait_for(lambda: engine.last.outcome)
    assert engine.admin.in_flight == 0
    return answer


def chunks(body: bytes) -> list[list[int]]:
    """The new ids of each chunk of the first choice that has some, of streams that bring deltas."""
    found = []
    for document in documents(body):
        for choice in document.get("choices", ()) if isinstance(document, dict) else ():
            named = (document.get("nvext") or {}).get("completion_token_ids") or choice.get("token_ids")
            found += [named] if named else []
        if isinstance(document, dict) and document.get("output_ids"):
            found.append(document["output_ids"])
    return found


DELTAS = [name for name in NAMES if name not in CUMULATIVE]


@pytest.mark.parametrize(
    ("kind", "order"),
    [("duplicate", [0, 1, 2, 2, 3, 4, 5, 6]), ("drop", [0, 1, 3, 4, 5, 6]), ("swap", [0, 1, 3, 2, 4, 5, 6])],
)
@pytest.mark.parametrize("at", [2, -5, 0.3])
@pytest.mark.parametrize("name", DELTAS)
def test_chunks_out_of_order(engines: dict[str, Engine], name: str, kind: Any, order: list[int], at: Any) -> None:
    plain = chunks(play(engines[name], name).content)
    assert len(plain) == COUNT
    assert chunks(play(engines[name], name, Fault(kind=kind, at=at)).content) == [plain[number] for number in order]


@pytest.mark.parametrize("name", NAMES)
def test_an_error_in_the_stream(engines: dict[str, Engine], name: str) -> None:
    engine = engines[name]
    answer = play(engine, name, Fault(kind="error_event", at=3, status=500, message="worker lost"))
    *before, error, done = documents(answer.content)
    assert (answer.status_code, len(before), done) == (200, 3, "data: [DONE]")
    assert error.keys() == {"error"}
    assert error["error"]["message"] == "worker lost"
    assert engine.last.outcome == "broken"
    assert 0 < len(engine.last.samples[0].token_ids) < COUNT
    body = play(engine, name, Fault(kind="error_event", body=b"{nonsense")).content
    assert body == b"data: {nonsense\n\ndata: [DONE]\n\n"


@pytest.mark.parametrize("name", NAMES)
def test_ends_that_are_missing(engines: dict[str, Engine], name: str) -> None:
    engine = engines[name]
    whole = play(engine, name).content
    body = play(engine, name, Fault(kind="no_done")).content
    assert b"[DONE]" not in body
    assert len(documents(body)) == len(documents(whole)) - 1
    assert engine.last.outcome == "broken"
    body = play(engine, name, Fault(kind="no_finish")).content
    assert body.endswith(b"[DONE]\n\n")
    assert joined(body)[0].finish is None
    assert joined(body)[0].token_ids == joined(whole)[0].token_ids


@pytest.mark.parametrize("name", CUMULATIVE)
def test_a_list_that_contradicts_what_was_said(engines: dict[str, Engine], name: str) -> None:
    for message, at in (("", 0), ("", 4), ("logprob", 2), ("", -1)):
        answer = play(engines[name], name, Fault(kind="contradiction", message=message, at=at))
        *events, _ = documents(answer.content)
        triples = [event["meta_info"]["output_token_logprobs"][0] for event in events]
        wrong = [number for number, triple in enumerate(triples) if triple != triples[0]]
        assert wrong == [(at % 6) + 1]
        assert (triples[wrong[0]][1] != triples[0][1]) is (message == "")
        assert [event["output_ids"][0] == triple[1] for event, triple in zip(events, triples, strict=True)] == [
            True
        ] * 7


@pytest.mark.parametrize("name", NAMES)
def test_wrong_ids_in_the_last_chunk(engines: dict[str, Engine], name: str) -> None:
    plain = joined(play(engines[name], name).content)[0]
    seen = joined(play(engines[name], name, Fault(kind="wrong_ids")).content)[0]
    assert seen.token_ids == [*plain.token_ids[:-1], plain.token_ids[-1] ^ 1]
    assert seen.logprobs == plain.logprobs


def test_wrong_ids_in_engine_data(engines: dict[str, Engine]) -> None:
    asked = WIRES["dynamo chat"]
    engine = engines["dynamo chat"]
    nvext = asked.body["nvext"] | {"extra_fields": ["engine_data", "completion_token_ids"]}
    engine.inject(Fault(kind="wrong_ids"))
    body = asked.body | {"nvext": nvext, "stream": True}
    answer = httpx.post(engine.url + asked.path, json=body, trust_env=False, verify=False).content
    ids = documents(answer)[-2]["nvext"]["engine_data"]["completion_token_ids"]
    deltas = joined(answer)[0].token_ids
    assert ids == [*deltas[:-1], deltas[-1] ^ 1]


@pytest.mark.parametrize("name", NAMES)
def test_a_huge_event(engines: dict[str, Engine], name: str) -> None:
    body = play(engines[name], name, Fault(kind="huge_event", at=1, by=3_000_000)).content
    sizes = [len(json.dumps(event)) > 3_000_000 for event in documents(body) if isinstance(event, dict)]
    assert [number for number, huge in enumerate(sizes) if huge] == [1]


@pytest.mark.parametrize("message", [None, "\r", "mixed"])
@pytest.mark.parametrize("name", ["vllm 0.33", "sglang", "dynamo chat"])
def test_line_ends(engines: dict[str, Engine], name: str, message: str | None) -> None:
    plain = play(engines[name], name).content
    body = play(engines[name], name, Fault(kind="line_ends", message=message)).content
    assert body != plain
    normal = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    assert normal.count(b"\n") == plain.count(b"\n")
    assert joined(normal) == joined(plain)
    assert body.count(b"\r\n") + body.count(b"\n\n") > 0 or message == "\r"


@pytest.mark.parametrize("name", ["vllm 0.33", "sglang", "dynamo chat"])
def test_bytes_that_readers_must_skip_or_join(engines: dict[str, Engine], name: str) -> None:
    engine, plain = engines[name], play(engines[name], name).content
    body = play(engine, name, Fault(kind="comments")).content
    kept = [line for line in body.split(b"\n") if line.startswith(b"data:")]
    assert joined(b"\n\n".join(kept)) == joined(plain)
    assert body.count(b": ping\n") == len(kept) == len(documents(plain))
    body = play(engine, name, Fault(kind="data_lines")).content
    frames = [frame.split("\n") for frame in body.decode().split("\n\n")[:-2]]
    assert all(len(lines) > 3 and all(line.startswith("data:") for line in lines) for lines in frames)
    one = b"".join(b"data: " + "".join(line[5:] for line in lines).encode() + b"\n\n" for lines in frames)
    assert joined(one) == joined(plain)


@pytest.mark.parametrize("chunk", [1, 2, 7])
def test_letters_of_several_bytes_in_pieces(engines: dict[str, Engine], chunk: int) -> None:
    engine = engines["vllm 0.33"]
    engine.inject(Fault(kind="utf8", chunk=chunk))
    raw = _raw(engine, "vllm 0.33")
    pieces: list[bytes] = []
    body = _unchunked(raw, pieces)
    assert {len(piece) for piece in pieces[:-1]} <= {*range(1, chunk + 1)}
    assert [event["note"] for event in documents(body) if isinstance(event, dict)] == ["é漢😀"] * COUNT
    assert any(piece.endswith(b"\xc3") for piece in pieces) or chunk == 7


def _raw(engine: Engine, name: str) -> bytes:
    asked, address = WIRES[name], urlsplit(engine.url)
    body = json.dumps(asked.body | {"stream": True}).encode()
    head = f"POST {asked.path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n"
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        connection.sendall(head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body)
        data = bytearray()
        try:
            while piece := connection.recv(1 << 16):
                data += piece
        except ConnectionResetError:
            data += b"(reset)"
    return bytes(data)


def _unchunked(raw: bytes, pieces: list[bytes]) -> bytes:
    rest = raw.partition(b"\r\n\r\n")[2]
    while rest and not rest.startswith(b"(reset)"):
        size, _, rest = rest.partition(b"\r\n")
        pieces.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]
    return b"".join(pieces)


@pytest.mark.parametrize("kind", ["truncate", "reset"])
@pytest.mark.parametrize(("unit", "at"), [("events", 0), ("events", 3), ("events", -1), ("events", 0.5), ("bytes", 0)])
@pytest.mark.parametrize("name", ["vllm 0.33", "sglang", "dynamo chat"])
def test_it_breaks_off_behind_an_event(engines: dict[str, Engine], name: str, kind: Any, unit: Any, at: Any) -> None:
    engine = engines[name]
    whole = play(engine, name).content
    total = len(documents(whole))
    count = int(at * total) if isinstance(at, float) else at % total
    engine.inject(Fault(kind=kind, unit=unit, at=at))
    raw = _raw(engine, name)
    assert raw.endswith(b"(reset)") is (kind == "reset")
    body = _unchunked(raw, [])
    assert len(documents(body)) == count
    wait_for(lambda: engine.last.outcome)
    record = engine.last
    assert (record.outcome, record.events_sent, record.sent) == ("broken", count, len(body))
    # What was sampled is known, and that it was so once.
    assert record.tokens_sent == [len(joined(body).get(0, Seen()).token_ids)]
    assert len(record.samples[0].token_ids) >= record.tokens_sent[0]


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_it_breaks_off_at_a_byte(engines: dict[str, Engine], framing: Any) -> None:
    engine, name = engines["vllm 0.33"], "vllm 0.33"
    whole = play(engine, name).content
    for at in (1, 40, len(whole) // 2, len(whole) - 1, -1, 0.25):
        cut = int(at * len(whole)) if isinstance(at, float) else at % len(whole)
        engine.inject(Fault(kind="truncate", at=at, framing=framing))
        raw = _raw(engine, name)
        body = raw.partition(b"\r\n\r\n")[2] if framing == "close" else _unchunked(raw, [])
        assert len(body) == cut
        wait_for(lambda: engine.last.outcome)
        assert (engine.last.outcome, engine.last.sent) == ("broken", cut)


def test_silence_and_drops_of_bytes(engines: dict[str, Engine]) -> None:
    engine, name = engines["vllm 0.33"], "vllm 0.33"
    whole = joined(play(engine, name).content)
    for fault in (
        Fault(kind="stall", unit="events", at=2, seconds=0.02),
        Fault(kind="trickle", at=100, chunk=50, seconds=0.0),
        Fault(kind="delay", seconds=0.01),
        Fault(kind="stall", phase="headers", at=20, seconds=0.01),
    ):
        assert joined(play(engine, name, fault).content) == whole
        assert engine.last.outcome == "finished"


@pytest.mark.parametrize("phase", ["request", "sampled"])
@pytest.mark.parametrize("name", NAMES)
def test_an_error_before_the_stream(engines: dict[str, Engine], name: str, phase: Any) -> None:
    engine = engines[name]
    answer = play(engine, name, Fault(kind="status", status=503, phase=phase, message="later"))
    assert "later" in answer.text
    # Of Dynamo's frontend the stream has begun when the worker fails.
    assert answer.status_code == (200 if engine.config.backend == "dynamo" else 503)
    assert (engine.last.samples == []) is (phase == "request")


@pytest.mark.parametrize("name", NAMES)
def test_another_form_than_was_asked_for(engines: dict[str, Engine], name: str) -> None:
    engine = engines[name]
    answer = play(engine, name, Fault(kind="unary"))
    document = answer.json()
    assert "choices" in document or "output_ids" in document
    assert answer.headers["content-type"].startswith("application/json")
    answer = play(engine, name, Fault(kind="content_type"))
    assert answer.headers["content-type"] == "application/json"
    assert answer.content.endswith(b"data: [DONE]\n\n")
    answer = play(engine, name, Fault(kind="error_body", body=b'{"error":"x"}'))
    assert (answer.status_code, answer.content) == (200, b'{"error":"x"}')


def test_faults_of_streams_wait_for_one(engines: dict[str, Engine]) -> None:
    engine, asked = engines["vllm 0.33"], WIRES["vllm 0.33"]
    engine.inject(Fault(kind="no_done"), Fault(kind="events"))
    plain = httpx.post(engine.url + asked.path, json=asked.body, trust_env=False, verify=False)
    assert plain.headers["content-type"].startswith("text/event-stream")
    assert [fault.kind for fault in engine.faults.pending()] == ["no_done"]
    assert b"[DONE]" not in play(engine, "vllm 0.33").content


@pytest.mark.parametrize("kind", [*CONTENT, *get_args(StreamKind)])
@pytest.mark.parametrize("name", NAMES)
def test_every_fault_is_played_or_said_to_be_nowhere(engines: dict[str, Engine], name: str, kind: Any) -> None:
    plain = play(engines[name], name).content
    body = play(engines[name], name, Fault(kind=kind, by=2)).content.replace(b"\r\n", b"\n")
    nowhere = f"the embedded engine cannot play {kind}".encode()
    assert (nowhere in body) is (name in NOWHERE.get(kind, ()))
    changed = [_timeless(one) != _timeless(two) for one, two in zip(documents(body), documents(plain), strict=False)]
    whole = any(changed) or len(documents(body)) != len(documents(plain))
    # The others change bytes, and not what they say.
    assert whole or kind in ("line_ends", "comments", "content_type") or (kind, name) == ("spans_bare", "sglang")


def _timeless(event: Any) -> Any:
    """Without what is of the moment."""
    if not isinstance(event, dict):
        return event
    kept = {key: value for key, value in event.items() if key not in ("id", "request_id", "created")}
    info = event.get("meta_info")
    return kept | ({} if info is None else {"meta_info": {**info, "id": "", "response_sent_to_client_ts": 0}})


def test_the_kinds_have_their_edits() -> None:
    elsewhere = {"content_type", "unary"}
    assert set(get_args(StreamKind)) == set(STREAM_FAULTS) | elsewhere
    assert set(CONTENT) == set(EDITS)


@pytest.mark.parametrize("kind", ["mask_empty_row", "mask_without_token"])
def test_masks_come_with_their_tokens(engines: dict[str, Engine], kind: Any) -> None:
    body = play(engines["vllm 0.33"], "vllm 0.33", Fault(kind=kind, at=2)).content
    rows = [event["choices"][0]["sampling_mask"] for event in documents(body) if isinstance(event, dict)]
    ids = joined(body)[0].token_ids
    assert [len(row) for row in rows] == [1] * COUNT
    assert [token in row[0] for token, row in zip(ids, rows, strict=True)] == [
        True,
        True,
        False,
        True,
        True,
        True,
        True,
    ]
    assert (rows[2] == [[]]) is (kind == "mask_empty_row")
