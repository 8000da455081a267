"""Streams of the embedded engine, read with plain httpx: what is sampled is what is sent, and what interrupts it."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest

from dynamo_tito import simulator
from dynamo_tito.simulator import Engine
from dynamo_tito.simulator.containers import containers
from dynamo_tito.simulator.model import Sample
from support.events import Seen, documents, joined

PROMPT, COUNT = [5, 6, 700, 8_000, 9], 7
MESSAGES = [{"role": "user", "content": "(tokens)"}]
GENERATE, CHAT = "/inference/v1/generate", "/v1/chat/completions"
_NVEXT = {"extra_fields": ["completion_token_ids", "routed_experts", "detailed_finish_reason"]}


@dataclass(frozen=True)
class Asked:
    """A server, and a request that it answers with a stream of ids, log-probabilities and what else the wire has."""

    settings: dict[str, Any]
    path: str
    body: dict[str, Any]
    #: The last chunk brings routed experts.
    routed: bool = True
    #: The last chunk brings weight versions.
    spans: bool = True
    #: How the server is asked to abort the request `mine`.
    abort: tuple[str, dict[str, Any]] = ("/abort_requests", {"request_ids": ["generate-tokens-mine"]})
    #: Its word for it.
    aborted: str = "abort"


def _vllm(version: str, **more: Any) -> Asked:
    params = {"max_tokens": COUNT, "logprobs": 1}
    body = {"token_ids": PROMPT, "sampling_params": params, "return_token_ids": True}
    return Asked({"backend": "vllm", "vllm_version": version}, GENERATE, body, spans=version != "0.31", **more)


def _chat(settings: dict[str, Any], path: str = CHAT, **more: Any) -> Asked:
    body = {"messages": MESSAGES, "tokens": PROMPT, "max_tokens": COUNT, "logprobs": True, "top_logprobs": 1}
    asked = body | {"return_token_ids": True, "return_weight_versions": True}
    return Asked(
        settings, path, asked, routed=False, abort=("/abort_requests", {"request_ids": ["chatcmpl-mine"]}), **more
    )


def _completions(version: str, **more: Any) -> Asked:
    body = {"prompt": PROMPT, "max_tokens": COUNT, "logprobs": 1}
    asked = body | {"return_token_ids": True, "return_weight_versions": True}
    settings = {"backend": "vllm", "vllm_version": version}
    abort = ("/abort_requests", {"request_ids": ["cmpl-mine-0"]})
    return Asked(settings, "/v1/completions", asked, routed=False, abort=abort, **more)


def _dynamo(path: str, body: dict[str, Any]) -> Asked:
    common = {"model": "tito-model", "max_tokens": COUNT}
    abort = ("/engine/abort_request", {"request_id": "mine"})
    return Asked({"backend": "dynamo"}, path, common | body, spans=False, abort=abort, aborted="cancelled")


def _sglang(settings: dict[str, Any]) -> Asked:
    body = {
        "input_ids": PROMPT, "sampling_params": {"max_new_tokens": COUNT}, "return_logprob": True, "rid": "mine",
        "return_routed_experts": True,
    }  # fmt: skip
    dynamo = settings["backend"] == "dynamo"
    abort = ("/engine/abort_request", {"request_id": "mine"}) if dynamo else ("/abort_request", {"rid": "mine"})
    return Asked(settings, "/generate", body, abort=abort)


WIRES: dict[str, Asked] = {
    "vllm 0.31": _vllm("0.31"),
    "vllm 0.32": _vllm("0.32"),
    "vllm 0.33": _vllm("0.33"),
    "vllm 0.31 chat": _chat({"backend": "vllm", "vllm_version": "0.31"}, spans=False),
    "vllm 0.32 chat": _chat({"backend": "vllm", "vllm_version": "0.32"}, spans=False),
    "vllm 0.33 chat": _chat({"backend": "vllm"}),
    "vllm 0.32 completions": _completions("0.32", spans=False),
    "vllm 0.33 completions": _completions("0.33"),
    "prime": Asked({"backend": "prime"}, GENERATE, _vllm("0.31").body, spans=False),
    "prime chat": _chat({"backend": "prime"}, "/v1/chat/completions/tokens", spans=False),
    "dynamo chat": _dynamo(CHAT, {"messages": MESSAGES, "logprobs": True, "nvext": _NVEXT | {"token_data": PROMPT}}),
    "dynamo completions": _dynamo("/v1/completions", {"prompt": PROMPT, "logprobs": 1, "nvext": _NVEXT}),
    "sglang": _sglang({"backend": "sglang"}),
    "sglang incremental": _sglang({"backend": "sglang", "incremental_streaming_output": True}),
    "sglang of dynamo": _sglang({"backend": "dynamo", "sglang_generate": True}),
}
NAMES = list(WIRES)


class Reader:
    """A stream that is read while the test goes on."""

    def __init__(self, engine: Engine, asked: Asked, **body: Any) -> None:
        self.body, self.status = b"", 0
        self._arrived = threading.Event()
        self._arguments = engine.url + asked.path, asked.body | {"stream": True} | body
        self.leave = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        url, body = self._arguments
        headers = {"x-request-id": "mine"}
        options: dict[str, Any] = {"timeout": 30.0, "trust_env": False, "verify": False}  # quicker without certificates
        with httpx.stream("POST", url, json=body, headers=headers, **options) as response:
            self.status = response.status_code
            self._arrived.set()
            for data in response.iter_bytes():
                self.body += data
                if self.leave.is_set():
                    return

    def begun(self) -> Reader:
        """Wait for the status: the engine samples."""
        assert self._arrived.wait(20)
        return self

    def tokens(self, count: int) -> None:
        """Wait until so many tokens of the first choice are here."""
        wait_for(lambda: len(joined(self.body[: self.body.rfind(b"\n\n") + 2]).get(0, Seen()).token_ids) >= count)

    def end(self) -> bytes:
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self.body


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def loop_of(engine: Engine) -> asyncio.AbstractEventLoop:
    assert engine.loop is not None
    return engine.loop


def post(url: str, **arguments: Any) -> httpx.Response:
    return httpx.post(url, trust_env=False, timeout=20.0, verify=False, **arguments)


def stream(engine: Engine, asked: Asked, **body: Any) -> bytes:
    """The body of one stream, when the engine is done with it."""
    answer = post(engine.url + asked.path, json=asked.body | {"stream": True} | body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    wait_for(lambda: engine.last.outcome)
    return answer.content


def same(seen: Seen, sample: Sample, asked: Asked, *, routed: bool | None = None) -> None:
    """The choice is what was sampled."""
    assert seen.token_ids == sample.token_ids.tolist()
    np.testing.assert_allclose(seen.logprobs, sample.logprobs, rtol=1e-6)
    if (asked.routed if routed is None else routed) and seen.token_ids:
        (container,) = containers({"choices": [{"routed_experts": seen.routed_experts}]}, sample.model)
        np.testing.assert_array_equal(container.rows, sample.routed_experts)
    else:
        assert seen.routed_experts is None
    if asked.spans:
        assert seen.spans == (sample.spans if seen.token_ids or "vllm" not in asked.settings["backend"] else [])


@contextmanager
def held(asked: Asked, after: int, **settings: Any) -> Iterator[Engine]:
    """An engine whose streams stand still after some steps."""
    with simulator.running(**asked.settings | settings) as engine:
        engine.pace.hold(after=after)
        yield engine


@pytest.mark.parametrize("chunk", [1, 3, COUNT])
@pytest.mark.parametrize("name", NAMES)
def test_the_stream_is_what_was_sampled(name: str, chunk: int) -> None:
    asked = WIRES[name]
    with simulator.running(**asked.settings, chunk_tokens=chunk) as engine:
        body = stream(engine, asked)
        record = engine.last
        (sample,) = record.samples
        (seen,) = joined(body).values()
        same(seen, sample, asked)
        assert seen.finish == "length"
        assert body.endswith(b"\n\ndata: [DONE]\n\n")
        assert (record.outcome, record.tokens_sent, record.sent) == ("finished", [COUNT], len(body))
        assert record.events_sent == len(documents(body))
        role = asked.path.startswith(CHAT) and not name.startswith("dynamo")
        assert seen.chunks == -(-COUNT // chunk) + role
        # The same request, whole.
        if name != "sglang of dynamo":
            post(engine.url + asked.path, json=asked.body)
            np.testing.assert_array_equal(engine.last.samples[0].token_ids, sample.token_ids)
            np.testing.assert_array_equal(engine.last.samples[0].routed_experts, sample.routed_experts)
        assert engine.admin.in_flight == 0


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("sglang of dynamo", "dynamo completions")])
def test_several_choices(name: str) -> None:
    asked = WIRES[name]
    more: dict[str, Any] = {"n": 3}
    if "sampling_params" in asked.body:
        more = {"sampling_params": asked.body["sampling_params"] | {"n": 3}}
    if name == "dynamo chat":  # names the ids of one choice only
        fields = ["routed_experts", "detailed_finish_reason"]
        more["nvext"] = asked.body["nvext"] | {"extra_fields": fields}
    with simulator.running(**asked.settings) as engine:
        seen = joined(stream(engine, asked, **more))
        samples = engine.last.samples
        assert len({sample.token_ids.tobytes() for sample in samples}) == len(seen) == 3
        assert engine.last.tokens_sent == [COUNT] * 3
        for number, sample in enumerate(samples):
            if name == "dynamo chat":
                seen[number].token_ids = sample.token_ids.tolist()
            same(seen[number], sample, asked)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("after", [0, 1, 4])
def test_an_abort_by_its_own_id(name: str, after: int) -> None:
    asked = WIRES[name]
    with held(asked, after) as engine:
        reader = Reader(engine, asked).begun()
        reader.tokens(after)
        path, body = asked.abort
        other = json.loads(json.dumps(body).replace("mine", "other"))
        assert post(engine.system_url + path, json=other).status_code == 200
        assert engine.admin.in_flight == 1
        assert post(engine.system_url + path, json=body).status_code == 200
        whole = reader.end()
        record = engine.last
        wait_for(lambda: record.outcome)
        (sample,) = record.samples
        assert (record.outcome, record.tokens_sent) == ("finished", [after])
        assert whole.endswith(b"data: [DONE]\n\n")
        assert (sample.finish_reason, len(sample.token_ids)) == ("abort", after)
        seen = joined(whole).get(0, Seen())
        # 0.31 and prime-rl's server do not say the end that brings no token; chat before 0.33 not if there was none.
        silent = name in ("vllm 0.31", "prime") and after
        silent = silent or (not after and not asked.routed and name not in ("vllm 0.33 chat", "vllm 0.33 completions"))
        assert seen.finish == (None if silent else asked.aborted)
        if not silent:
            same(seen, sample, asked)


@pytest.mark.parametrize("name", NAMES)
def test_a_client_that_leaves(name: str) -> None:
    asked = WIRES[name]
    with held(asked, 3) as engine:
        reader = Reader(engine, asked).begun()
        reader.tokens(3)
        reader.leave.set()
        engine.pace.step()
        reader.end()
        wait_for(lambda: engine.last.outcome)
        record = engine.last
        assert (record.outcome, record.disconnected) == ("cancelled", True)
        assert engine.admin.in_flight == 0
        assert record.tokens_sent[0] in (3, 4)
        assert [sample.finish_reason for sample in record.samples] == ["abort"]
        assert len(record.samples[0].token_ids) >= record.tokens_sent[0]
        assert engine.sampled() == engine.hits() == {"mine": 1}


def test_an_engine_that_stops_breaks_its_streams() -> None:
    asked = WIRES["vllm 0.33"]
    with held(asked, 2) as engine:
        request = httpx.Request("POST", engine.url + asked.path, json=asked.body | {"stream": True})
        with (
            httpx.Client(trust_env=False, verify=False, timeout=30.0) as client,
            closing(client.send(request, stream=True)) as answer,
        ):
            wait_for(lambda: engine.last.tokens_sent == [2])
            asyncio.run_coroutine_threadsafe(engine.stop(), loop_of(engine))
            with pytest.raises(httpx.RemoteProtocolError):
                answer.read()
    record = engine.last
    assert (record.outcome, record.tokens_sent, len(record.samples[0].token_ids)) == ("broken", [2], 2)


_PAUSE = {
    "vllm": ("/pause", "/resume"),
    "prime": ("/pause", "/resume"),
    "sglang": ("/pause_generation", "/continue_generation"),
    "dynamo": ("/engine/pause_generation", "/engine/resume_generation"),
}


def pause(engine: Engine, mode: str) -> None:
    """In the words of the server; SGLang knows no wait."""
    backend = engine.config.backend
    url = engine.system_url + _PAUSE[backend][0]
    if backend in ("vllm", "prime"):
        answer = post(url, params={"mode": mode, "clear_cache": "false"})
    else:
        answer = post(url, json={"mode": {"keep": "in_place"}.get(mode, mode) if backend == "sglang" else mode})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("name", NAMES)
def test_a_pause_that_keeps_stands_still(name: str) -> None:
    asked = WIRES[name]
    with held(asked, 3) as engine:
        reader = Reader(engine, asked).begun()
        reader.tokens(3)
        pause(engine, "keep")
        engine.pace.release()
        time.sleep(0.05)
        assert engine.last.tokens_sent == [3]
        assert engine.admin.in_flight == 1
        post(engine.system_url + _PAUSE[engine.config.backend][1], json={})
        (seen,) = joined(reader.end()).values()
        same(seen, engine.last.samples[0], asked)
        assert seen.finish == "length"


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("sglang") or "dynamo" in name])
def test_a_pause_that_waits_lets_it_end(name: str) -> None:
    asked = WIRES[name]
    with held(asked, 3) as engine:
        reader = Reader(engine, asked).begun()
        reader.tokens(3)
        pausing = threading.Thread(target=pause, args=(engine, "wait"), daemon=True)
        pausing.start()
        wait_for(lambda: engine.admin.paused == "wait")
        assert pausing.is_alive()
        engine.pace.release()
        (seen,) = joined(reader.end()).values()
        pausing.join(20)
        same(seen, engine.last.samples[0], asked)
        assert (seen.finish, engine.admin.paused) == ("length", "wait")


@pytest.mark.parametrize("name", NAMES)
def test_a_pause_that_aborts_ends_it(name: str) -> None:
    asked = WIRES[name]
    with held(asked, 3) as engine:
        reader = Reader(engine, asked).begun()
        reader.tokens(3)
        pause(engine, "abort")
        reader.end()
        wait_for(lambda: engine.last.outcome)
        assert len(engine.last.samples[0].token_ids) == 3
        assert (engine.last.samples[0].finish_reason, engine.last.outcome) == ("abort", "finished")


@pytest.mark.parametrize("after", [0, 1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_new_weights_in_the_middle(name: str, after: int) -> None:
    asked = WIRES[name]
    with held(asked, after) as engine:
        model = engine.model
        reader = Reader(engine, asked).begun()
        reader.tokens(after)
        old = engine.last.samples[0].prompt_ids if after else None
        engine.admin.load("step_2")
        engine.pace.step(2)
        reader.tokens(after + 2)
        engine.admin.name_version("named")  # the same weights
        engine.pace.release()
        (seen,) = joined(reader.end()).values()
        (sample,) = engine.last.samples
        same(seen, sample, asked)
        cuts = [("default", 0, after)] if after else []
        spans = [*cuts, ("step_2", after, after + 2), ("named", after + 2, COUNT)]
        assert [(span["version"], span["start"], span["end"]) for span in sample.spans] == spans
        # Token by token: of the weights that were in force, given all before it.
        ids = np.concatenate([sample.prompt_ids, sample.token_ids])
        assert old is None or old.tolist() == sample.prompt_ids.tolist()
        size = len(sample.prompt_ids)
        both = {weights: model.score(ids, version=weights, start=size).logprobs for weights in ("default", "step_2")}
        rows = {weights: model.routing(ids, version=weights) for weights in both}
        for at in range(COUNT):
            weights = "default" if at < after else "step_2"
            assert sample.logprobs[at] == both[weights][at]
            np.testing.assert_array_equal(sample.routed_experts[size + at - 1], rows[weights][size + at - 1])
        first = "default" if after else "step_2"
        np.testing.assert_array_equal(sample.routed_experts[:size], rows[first][:size])
        assert not np.array_equal(rows["default"], rows["step_2"])


def test_new_weights_for_an_answer_in_one_piece() -> None:
    asked = WIRES["vllm 0.33"]
    with simulator.running(**asked.settings, token_latency=0.05) as engine:
        thread = threading.Thread(
            target=post, args=(engine.url + asked.path,), kwargs={"json": asked.body}, daemon=True
        )
        thread.start()
        wait_for(lambda: engine.admin.in_flight)
        time.sleep(0.12)
        engine.admin.load("step_2")
        thread.join(20)
        versions = [span["version"] for span in engine.last.samples[0].spans]
        assert versions in (["default", "step_2"], ["step_2"])


@pytest.mark.parametrize("mode", ["abort", "wait"])
@pytest.mark.parametrize("path", [GENERATE, CHAT])
def test_033_refuses_within_the_stream_while_it_is_paused(mode: Any, path: str) -> None:
    asked = WIRES["vllm 0.33" if path == GENERATE else "vllm 0.33 chat"]
    with simulator.running(**asked.settings) as engine:
        engine.admin.pause(mode)
        body = stream(engine, asked)
        error, done = documents(body)
        message = "Generation is paused. Please retry after it resumes."
        expected = {"message": message, "type": "InternalServerError", "param": None, "code": 503}
        assert (error, done) == ({"error": expected}, "data: [DONE]")
        # The message dump of pydantic on one route, of json on the other.
        assert body.startswith(b'data: {"error": {"message": "' if path == GENERATE else b'data: {"error":{"message":"')
        assert (engine.last.samples, engine.last.outcome) == ([], "broken")


@pytest.mark.parametrize(
    "name", ["vllm 0.32", "vllm 0.33", "vllm 0.32 chat", "vllm 0.33 chat", "vllm 0.33 completions"]
)
def test_what_the_engine_refuses_within_the_stream(name: str) -> None:
    """As a vLLM 0.32 did: the server refuses with a status, the engine behind it in an event."""
    asked = WIRES[name]
    late: list[dict[str, Any]] = [{"top_logprobs": 21, "logprobs": 21}, {"routed_experts_prompt_start": 99}]
    at_once: list[dict[str, Any]] = [{"min_tokens": 8}, {"n": 0}]
    with simulator.running(**asked.settings, max_model_len=512) as engine:
        for more in [*late, *at_once]:
            params = asked.body.get("sampling_params", {}) | more
            body = asked.body | ({"sampling_params": params} if "sampling_params" in asked.body else more)
            answer = post(engine.url + asked.path, json=body | {"stream": True})
            assert answer.status_code == (200 if more in late else 400)
            error = documents(answer.content)[0] if more in late else answer.json()
            assert (error["error"]["type"], error["error"]["code"]) == ("BadRequestError", 400)
            assert post(engine.url + asked.path, json=body).status_code == 400
        if "token_ids" in asked.body:
            for ids in ([40_000], [1] * 512, [1] * 600):
                error, _ = documents(stream(engine, asked, token_ids=ids))
                assert "out of vocabulary" in str(error) or "maximum model length of 512" in str(error)
        if "prompt" in asked.body:
            (error, _), full = documents(stream(engine, asked, prompt=[40_000])), {"prompt": [1] * 512, "stream": True}
            assert "out of vocabulary" in str(error)
            assert post(engine.url + asked.path, json=asked.body | full).status_code == 400
        assert engine.total_sampled == 0


def test_sglang_refuses_within_the_stream() -> None:
    asked = WIRES["sglang"]
    with simulator.running(**asked.settings) as engine:
        error, _ = documents(stream(engine, asked, routed_experts_start_len=6))
        assert error["error"]["code"] == 400
        assert error["error"]["retryable"] is False
        assert engine.last.samples == []


def test_what_is_not_streamed() -> None:
    for settings, path, body in (
        ({"backend": "dynamo"}, GENERATE, WIRES["vllm 0.31"].body | {"stream": True}),
        ({"backend": "dynamo", "sglang_generate": True}, "/generate", WIRES["sglang"].body),
    ):
        with simulator.running(**settings) as engine:
            assert post(engine.url + path, json=body).status_code == 501
            assert (engine.last.samples, engine.total_sampled) == ([], 0)
    with simulator.running(backend="dynamo") as engine:
        assert post(engine.url + "/generate", json=WIRES["sglang"].body).status_code == 404


def test_tokens_come_at_their_pace() -> None:
    asked = WIRES["vllm 0.33"]
    with simulator.running(**asked.settings, latency=0.05, token_latency=0.02) as engine:
        began = time.monotonic()
        stream(engine, asked)
        assert time.monotonic() - began >= 0.05 + COUNT * 0.02


def test_two_hundred_streams_at_once() -> None:
    asked = WIRES["vllm 0.33"]
    with simulator.running(**asked.settings, token_latency=0.005) as engine:
        readers = [Reader(engine, asked) for _ in range(50)]
        for reader in readers:
            (seen,) = joined(reader.end()).values()
            assert len(seen.token_ids) == COUNT
        wait_for(lambda: all(record.outcome for record in engine.requests))
        assert engine.admin.in_flight == 0
