"""``score`` and ``score_many`` over every client: requests, results, and what is left when one fails."""

from __future__ import annotations

import asyncio
import json
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

import dynamo_tito as tito
from dynamo_tito import simulator
from dynamo_tito._client import AsyncTitoClient, TitoClient
from dynamo_tito._config import HttpLibrary, RendererTransport
from dynamo_tito._types import PromptLogprobs
from dynamo_tito.simulator import Engine, Fault
from support.driver import Driver, Kind
from support.raw_server import RawServer, reply

RNG = np.random.default_rng(3)
IDS = RNG.integers(256, 31_000, 40).tolist()
ROUTES: list[tuple[simulator.Backend, str, RendererTransport]] = [
    ("dynamo", "0.32", "dynamo_chat"),
    ("dynamo", "0.32", "dynamo_completions"),
    ("dynamo", "0.32", "vllm_generate"),
    ("vllm", "0.31", "vllm_generate"),
    ("vllm", "0.32", "vllm_generate"),
    ("vllm", "0.33", "vllm_generate"),
    ("prime", "0.32", "vllm_generate"),
    ("prime", "0.32", "prime_chat_tokens"),
    ("sglang", "0.32", "sglang_generate"),
]


@pytest.fixture(scope="module")
def engines() -> Iterator[dict[tuple[str, str], Engine]]:
    with ExitStack() as stack:
        yield {
            (backend, version): stack.enter_context(
                simulator.running(backend=backend, vllm_version=version, max_model_len=20_000)
            )
            for backend, version in sorted({(backend, version) for backend, version, _ in ROUTES})
        }


@pytest.fixture(params=ROUTES, ids="-".join)
def route(request: pytest.FixtureRequest, engines: dict[tuple[str, str], Engine]) -> tuple[Engine, RendererTransport]:
    backend, version, transport = request.param
    engine = engines[backend, version]
    engine.faults.clear()
    engine.forget()
    return engine, transport


def truth(ids: Any, start: int = 0) -> Any:
    """The model's own scores, float32 [N]."""
    values = simulator.Engine().model.score(np.asarray(ids, np.int64), version="default").logprobs.astype(np.float32)
    values[: max(start, 1)] = np.nan
    return values


def same(found: PromptLogprobs | tito.TitoError, ids: Any, start: int = 0) -> bool:
    assert isinstance(found, PromptLogprobs)
    assert found.logprobs.dtype == np.float64
    assert found.logprobs.shape == (len(ids),)
    assert len(found.top) == len(ids)
    return np.array_equal(found.logprobs.astype(np.float32), truth(ids, start), equal_nan=True)


# --- one ---


@pytest.mark.parametrize("start", [0, 1, 2, 25, 39, 40])
def test_the_truth(kind: Kind, route: tuple[Engine, RendererTransport], start: int) -> None:
    engine, transport = route
    with Driver(kind, engine.url, transport=transport, preflight=True) as client:
        assert same(client.score(IDS, start=start), IDS, start)
    (record,) = engine.requests
    assert [len(sample.token_ids) for sample in record.samples] == [1]


@pytest.mark.parametrize("start", [0, 25])
@pytest.mark.parametrize("top_k", [0, 1, 5])
def test_equal_over_all_backends(engines: dict[tuple[str, str], Engine], top_k: int, start: int) -> None:
    found = []
    for backend, version, transport in ROUTES:
        with TitoClient(engines[backend, version].url, model="tito-model", transport=transport) as client:
            found.append(client.score(np.array(IDS), start=start, top_k=top_k))
    for other in found:
        assert np.array_equal(found[0].logprobs.astype(np.float32), other.logprobs.astype(np.float32), equal_nan=True)
        assert np.array_equal(found[0].top.offsets, other.top.offsets)
        assert np.array_equal(found[0].top.token_ids, other.top.token_ids)
        assert np.array_equal(found[0].top.logprobs.astype(np.float32), other.top.logprobs.astype(np.float32))
    # The best k, and the token's own where it is not among them.
    sizes = np.diff(found[0].top.offsets)
    assert not sizes[: max(start, 1)].any()
    assert set(sizes[max(start, 1) :].tolist()) <= {max(top_k, 1), top_k + 1}


def test_maps_of_dynamo_are_shuffled(engines: dict[tuple[str, str], Engine]) -> None:
    """Else the equality above would prove little."""
    engine = engines["dynamo", "0.32"]
    with TitoClient(engine.url, model="tito-model", transport="dynamo_chat") as client:
        bodies = []
        inner = client._runner.transport

        class Listening:
            def send(self, exchange: Any) -> Any:
                response = inner.send(exchange)
                bodies.append(bytes(response.content))
                return response

            def close(self) -> None:
                inner.close()

        client._runner.transport = Listening()
        client.score(IDS, top_k=3)
    maps = json.loads(bodies[-1])["prompt_logprobs"]
    firsts = [next(iter(entries)) == str(token) for entries, token in zip(maps[1:], IDS[1:], strict=True)]
    assert not all(firsts)
    assert any(firsts)


def test_what_was_sampled_scores_as_it_was_sampled(route: tuple[Engine, RendererTransport]) -> None:
    engine, transport = route
    with TitoClient(engine.url, model="tito-model", transport=transport, experts="skip") as client:
        completion = client.generate(IDS, sampling_params={"max_tokens": 30})
        ids = np.concatenate([IDS, completion.token_ids])
        scored = client.score(ids, start=len(IDS))
    assert completion.logprobs is not None
    sampled = np.zeros(len(ids), bool)
    sampled[len(IDS) :] = True
    logprobs = np.concatenate([np.zeros(len(IDS)), completion.logprobs])
    found = tito.divergence(logprobs.astype(np.float32), scored.logprobs.astype(np.float32), sampled)
    assert found == tito.Divergence(30, 0, 0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("length", [1, 2])
def test_the_shortest_sequences(route: tuple[Engine, RendererTransport], length: int) -> None:
    engine, transport = route
    with TitoClient(engine.url, model="tito-model", transport=transport) as client:
        for start in range(length + 1):
            assert same(client.score(IDS[:length], start=start), IDS[:length], start)


def test_little_else_is_sent(route: tuple[Engine, RendererTransport]) -> None:
    """Not the routed experts of the whole prompt: they are a hundred times what is asked for."""
    engine, transport = route
    ids = RNG.integers(256, 31_000, 4_000).tolist()
    with TitoClient(engine.url, model="tito-model", transport=transport, max_response_bytes=110 * 4_000) as client:
        assert same(client.score(ids), ids)


def test_the_request_of_each_transport() -> None:
    neutral = {
        "temperature": 1.0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
    }  # fmt: skip
    wanted: dict[RendererTransport, dict[str, Any]] = {
        "vllm_generate": {
            "model": "m",
            "sampling_params": {
                **neutral, "top_k": 0, "max_tokens": 1, "prompt_logprobs": 2, "detokenize": False,
                "skip_special_tokens": False, "routed_experts_prompt_start": 2,
            },
            "cache_salt": "s", "priority": 3, "token_ids": [5, 6, 7],
        },
        "dynamo_chat": {
            "model": "m", "messages": [{"role": "user", "content": "(token-in mode)"}], "stream": False,
            **neutral, "top_k": -1, "prompt_logprobs": 2, "max_completion_tokens": 1,
            "nvext": {
                "cache_salt": "s", "agent_hints": {"priority": 3},
                "extra_fields": ["detailed_finish_reason", "completion_token_ids"], "token_data": [5, 6, 7],
            },
        },
        "dynamo_completions": {
            "model": "m", "stream": False, "max_tokens": 1, **neutral, "top_k": -1, "prompt_logprobs": 2,
            "nvext": {
                "cache_salt": "s", "agent_hints": {"priority": 3},
                "extra_fields": ["detailed_finish_reason", "completion_token_ids", "prompt_logprobs"],
            },
            "prompt": [5, 6, 7],
        },
        "prime_chat_tokens": {
            "model": "m", "messages": [{"role": "user", "content": "(token-in mode)"}], "max_tokens": 1,
            **neutral, "top_k": 0, "prompt_logprobs": 2, "return_token_ids": True, "cache_salt": "s", "priority": 3,
            "routed_experts_prompt_start": 2, "tokens": [5, 6, 7],
        },
        "sglang_generate": {
            "sampling_params": {**neutral, "top_k": -1, "max_new_tokens": 1}, "return_logprob": True,
            "top_logprobs_num": 2, "return_text_in_logprobs": False, "stream": False, "logprob_start_len": 1,
            "cache_salt": "s", "priority": 3, "input_ids": [5, 6, 7],
        },
    }  # fmt: skip
    for transport, members in wanted.items():
        model = None if transport == "sglang_generate" else "m"
        teacher = tito.MockTransport(lambda _: tito.HttpResponse(500, {}, b""))
        with (
            TitoClient("http://teacher", model=model, http_client=teacher, preflight=False) as client,
            pytest.raises(tito.EngineError),
        ):
            client.score([5, 6, 7], start=2, top_k=2, cache_salt="s", priority=3, transport=transport)
        assert [json.loads(request.content) for request in teacher.requests] == [members]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"token_ids": []}, ValueError),
        ({"token_ids": [1, -1]}, ValueError),
        ({"token_ids": [1, 2**31]}, ValueError),
        ({"token_ids": [1.5]}, TypeError),
        ({"token_ids": "12"}, TypeError),
        ({"token_ids": np.zeros((2, 2), int)}, ValueError),
        ({"start": -1}, ValueError),
        ({"start": 4}, ValueError),
        ({"start": 1.0}, TypeError),
        ({"start": True}, TypeError),
        ({"top_k": -1}, ValueError),
        ({"top_k": None}, TypeError),
        ({"transport": "vllm_chat"}, ValueError),
        ({"extra_body": {"sampling_params": {"n": 2}}, "transport": "vllm_generate"}, ValueError),
    ],
)
def test_wrong_arguments_send_nothing(
    kind: Kind, server: RawServer, arguments: dict[str, Any], error: type[Exception]
) -> None:
    with Driver(kind, server.url) as client, pytest.raises(error) as caught:
        client.score(**{"token_ids": [1, 2, 3], **arguments})
    assert not isinstance(caught.value, tito.TitoError)
    assert "prompt_ids" not in str(caught.value)
    assert server.hits == 0


def test_a_wrong_answer_is_refused(kind: Kind, server: RawServer) -> None:
    scores = [None, {"8": {"logprob": -1}}, {"3": {"logprob": -1}}]
    document = {"choices": [{"token_ids": [9]}], "prompt_logprobs": scores}
    server.play(reply(body=document))
    with Driver(kind, server.url) as client, pytest.raises(tito.AlignmentError, match="does not name 2"):
        client.score([1, 2, 3])


def test_a_missing_logprob_follows_the_clients_policy(server: RawServer) -> None:
    scores = [None, {"2": {"logprob": -9999.0}}, {"3": {"logprob": -1.5}}]
    scored = reply(body={"choices": [{"token_ids": [9]}], "prompt_logprobs": scores})
    server.play(scored, scored)
    with TitoClient(server.url, model=None, preflight=False) as client, pytest.raises(tito.MissingFieldError):
        client.score([1, 2, 3])
    with TitoClient(server.url, model=None, preflight=False, missing_logprob="nan") as client:
        assert np.array_equal(client.score([1, 2, 3]).logprobs, [np.nan, np.nan, -1.5], equal_nan=True)


def test_the_type_of_scores_is_the_clients(route: tuple[Engine, RendererTransport]) -> None:
    engine, transport = route
    found = []
    for dtype in ("float64", "float32"):
        options: Any = {"transport": transport, "logprobs_dtype": dtype, "preflight": False}
        with TitoClient(engine.url, model="tito-model", **options) as client:
            found.append(client.score(IDS, top_k=2))
    wide, narrow = found
    for one, other in ((wide, narrow), (wide.top, narrow.top)):
        assert [one.logprobs.dtype.name, other.logprobs.dtype.name] == ["float64", "float32"]
        assert np.array_equal(one.logprobs.astype(np.float32), other.logprobs, equal_nan=True)


def test_an_overlong_sequence_is_not_sent(route: tuple[Engine, RendererTransport]) -> None:
    engine, transport = route
    with (
        TitoClient(engine.url, model="tito-model", transport=transport) as client,
        pytest.raises(tito.OverlongPromptError),
    ):
        client.score([300] * 20_001)
    assert engine.requests == []


# --- many ---


@pytest.mark.parametrize("concurrency", [1, 7, 100])
def test_many_in_order(kind: Kind, route: tuple[Engine, RendererTransport], concurrency: int) -> None:
    engine, transport = route
    lengths = [3, 1, 40, 17, 2, 25, 9, 33, 12, 5, 30, 8]
    sequences = [np.array(IDS[:length], np.int32) for length in lengths]
    starts = [length // 2 for length in lengths]
    seen: list[tuple[int, int]] = []
    with Driver(kind, engine.url, transport=transport) as client:
        found = client.score_many(
            sequences, start=starts, concurrency=concurrency, progress=lambda done, total: seen.append((done, total))
        )
    assert [len(one.logprobs) for one in found if isinstance(one, PromptLogprobs)] == lengths
    for one, ids, start in zip(found, sequences, starts, strict=True):
        assert same(one, ids, start)
    assert seen == [(number, 12) for number in range(1, 13)]


@pytest.mark.parametrize("start", [4, np.int64(4)])
def test_one_start_for_all(kind: Kind, engines: dict[tuple[str, str], Engine], start: Any) -> None:
    with Driver(kind, engines["vllm", "0.32"].url) as client:
        found = client.score_many(iter([IDS[:9], IDS[:4]]), start=start, top_k=1)
    assert same(found[0], IDS[:9], 4)
    assert same(found[1], IDS[:4], 4)


def test_none_at_all(kind: Kind, server: RawServer) -> None:
    with Driver(kind, server.url) as client:
        assert client.score_many([]) == []
    assert server.hits == 0


@pytest.mark.parametrize("concurrency", [1, 3])
def test_one_failure_keeps_the_other_results(
    kind: Kind, route: tuple[Engine, RendererTransport], concurrency: int
) -> None:
    engine, transport = route
    engine.inject(
        Fault(kind="status", status=500),
        Fault(kind="truncate", at=0.5),
        Fault(kind="error_body"),
    )
    sequences = [*(IDS[:length] for length in range(10, 20)), [300] * 20_001]
    seen: list[int] = []
    with Driver(kind, engine.url, transport=transport, preflight=True) as client:
        found = client.score_many(sequences, concurrency=concurrency, progress=lambda done, _: seen.append(done))
    failed = [number for number, one in enumerate(found) if isinstance(one, tito.TitoError)]
    # One at a time they reach the engine in order, so each gets its fault.
    assert len(failed) == 4 if concurrency > 1 else failed == [0, 1, 2, 10]
    assert isinstance(found[10], tito.OverlongPromptError)
    for number, one in enumerate(found):
        if number not in failed:
            assert same(one, sequences[number])
    assert seen == list(range(1, 12))


def test_an_error_that_is_kept_holds_no_bodies(kind: Kind, engines: dict[tuple[str, str], Engine]) -> None:
    engine = engines["vllm", "0.32"]
    engine.faults.clear()
    engine.inject(Fault(kind="reset", phase="headers"), Fault(kind="error_body"))
    with Driver(kind, engine.url) as client:
        errors = client.score_many([IDS, IDS], concurrency=1)
    for error in errors:
        link: BaseException | None = error if isinstance(error, tito.TitoError) else None
        assert link is not None
        while link is not None:
            assert link.__traceback__ is None
            link = link.__cause__ or link.__context__


@pytest.mark.parametrize(
    ("arguments", "error", "number"),
    [
        ({"sequences": [[1], []]}, ValueError, 1),
        ({"sequences": [[1], [2], [-1]]}, ValueError, 2),
        ({"sequences": [[1], [True]]}, TypeError, 1),
        ({"sequences": [[1], "2"]}, TypeError, 1),
        ({"sequences": [[1, 2], [1]], "start": 2}, ValueError, 1),
        ({"sequences": [[1], [1]], "start": [0, 2]}, ValueError, 1),
        ({"sequences": [[1], [1]], "start": [0]}, ValueError, None),
        ({"sequences": [[1]], "concurrency": 0}, ValueError, None),
        ({"sequences": [[1]], "concurrency": 1.5}, TypeError, None),
        ({"sequences": [[1]], "request_id": "x"}, TypeError, None),
    ],
)
def test_a_wrong_argument_sends_none_of_them(
    kind: Kind, server: RawServer, arguments: dict[str, Any], error: type[Exception], number: int | None
) -> None:
    with Driver(kind, server.url) as client, pytest.raises(error) as caught:
        client.score_many(**arguments)
    notes = getattr(caught.value, "__notes__", [])
    assert notes == ([] if number is None else [f"in sequences[{number}]"])
    assert server.hits == 0


def test_what_the_callback_raises_surfaces(kind: Kind, engines: dict[tuple[str, str], Engine]) -> None:
    engine = engines["vllm", "0.32"]
    engine.faults.clear()
    engine.forget()

    def progress(done: int, total: int) -> None:
        assert total == 200
        if done == 3:
            raise KeyError("enough")

    with Driver(kind, engine.url) as client:
        with pytest.raises(KeyError, match="enough"):
            client.score_many([IDS] * 200, concurrency=2, progress=progress)
        assert same(client.score(IDS), IDS)
    assert len(engine.requests) < 100


@pytest.mark.parametrize("kind", ["blocking"])
def test_the_callback_of_the_blocking_client_is_called_on_the_calling_thread(
    kind: Kind, engines: dict[tuple[str, str], Engine]
) -> None:
    threads = set()
    with Driver(kind, engines["vllm", "0.32"].url) as client:
        client.score_many([IDS] * 5, progress=lambda *_: threads.add(threading.get_ident()))
    assert threads == {threading.get_ident()}


@pytest.mark.parametrize("library", ["native", "httpx"])
def test_cancelling_ends_the_calls_in_flight(library: HttpLibrary) -> None:
    async def main(engine: Engine) -> None:
        async with AsyncTitoClient(engine.url, model=None, http=library, preflight=False) as client:
            call = asyncio.ensure_future(client.score_many([IDS] * 20, concurrency=4))
            await _until(lambda: len(engine.requests) == 4)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await _until(lambda: all(record.disconnected for record in engine.requests))
            assert len(engine.requests) == 4
            assert asyncio.all_tasks() == {asyncio.current_task()}

    with simulator.running(backend="vllm", latency=30.0) as engine:
        asyncio.run(main(engine))


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - the engine is on another loop
            await asyncio.sleep(0.005)


def test_the_deadline_is_each_sequences_own(kind: Kind) -> None:
    with (
        simulator.running(backend="vllm", latency=0.25) as engine,
        Driver(kind, engine.url) as client,
    ):
        # Nine take longer than that together, and each an eighth of it.
        found = client.score_many([IDS] * 9, concurrency=1, deadline=2.0)
        assert all(same(one, IDS) for one in found)
        late = client.score_many([IDS] * 2, deadline=0.05)
    assert all(isinstance(one, tito.TransportError) for one in late)


def test_never_more_at_once_than_asked_for(kind: Kind) -> None:
    with simulator.running(backend="vllm", latency=0.05) as engine, Driver(kind, engine.url) as client:
        most = 0

        def progress(_done: int, _total: int) -> None:
            nonlocal most
            most = max(most, engine.admin.in_flight)

        client.score_many([IDS] * 12, concurrency=3, progress=progress)
    assert most <= 3
    assert not math.isnan(most)


@pytest.mark.parametrize("library", ["native", "httpx"])
def test_calls_share_a_semaphore_the_first_one_first(library: HttpLibrary) -> None:
    most = 0

    async def main(engine: Engine) -> list[list[PromptLogprobs | tito.TitoError]]:
        shared = asyncio.Semaphore(3)

        def progress(_done: int, _total: int) -> None:
            nonlocal most
            most = max(most, engine.admin.in_flight)

        async with AsyncTitoClient(engine.url, model=None, http=library, preflight=False) as client:
            calls = (client.score_many([IDS[:n]] * 12, concurrency=shared, progress=progress) for n in (5, 9))
            found = await asyncio.gather(*calls)
        assert not shared.locked()
        return found

    with simulator.running(backend="vllm", latency=0.02) as engine:
        found = asyncio.run(main(engine))
        asked = [len(record.json()["token_ids"]) for record in engine.requests]
    assert all(same(one, IDS[:5]) for one in found[0])
    assert all(same(one, IDS[:9]) for one in found[1])
    assert most <= 3
    # The second call's begin when no more than two of the first one's are in flight.
    assert set(asked[:10]) == {5}
    assert len(asked) == 24


# --- another temperature ---


@pytest.mark.parametrize("transport", ["vllm_generate", "dynamo_chat", "dynamo_completions", "prime_chat_tokens"])
def test_a_route_without_a_temperature_says_so(transport: RendererTransport) -> None:
    teacher = tito.MockTransport(lambda _: tito.HttpResponse(500, {}, b""))
    with TitoClient("http://teacher", model="m", http_client=teacher, preflight=False) as client:
        with pytest.raises(ValueError, match=f"temperature is 0.5; servers of {transport} score a prompt at 1 only"):
            client.score(IDS, temperature=0.5, transport=transport)
        for extra_body in ({"temperature": 0.5}, {"sampling_params": {"temperature": 0.5}}):
            with pytest.raises(ValueError, match=r"give score\(temperature=\.\.\.\)"):
                client.score(IDS, extra_body=extra_body, transport=transport)
    assert not teacher.requests


@pytest.mark.parametrize(
    ("wrong", "error"), [(0, ValueError), (math.inf, ValueError), (True, TypeError), ("1", TypeError)]
)
def test_temperatures_that_are_none(wrong: Any, error: type[Exception]) -> None:
    with (
        TitoClient("http://teacher", model=None, transport="sglang_generate") as client,
        pytest.raises(error, match="temperature"),
    ):
        client.score(IDS, temperature=wrong)


@pytest.mark.parametrize("said", [0.5, 1.0, None])
def test_sglang_has_to_say_that_it_scored_at_the_temperature(kind: Kind, said: float | None) -> None:
    meta: dict[str, Any] = {"finish_reason": None, "input_token_logprobs": [[None, 5, None], [-0.75, 6, None]]}
    if said is not None:
        meta["input_logprob_temperature"] = said
    with RawServer() as server:
        server.play(reply(200, {"output_ids": [7], "meta_info": meta}))
        with Driver(kind, server.url, model=None, transport="sglang_generate") as client:
            if said == 0.5:
                assert client.score([5, 6], temperature=0.5).logprobs[1] == -0.75
            else:
                with pytest.raises(tito.MissingFieldError, match="does not say that it scores at another") as caught:
                    client.score([5, 6], temperature=0.5)
                assert (caught.value.kind, caught.value.path) == ("temperature", "meta_info.input_logprob_temperature")
            assert server.requests[-1].json["input_logprob_temperature"] == 0.5
            assert client.score([5, 6]).logprobs[1] == -0.75
            assert "input_logprob_temperature" not in server.requests[-1].json


def test_a_broken_answer_is_named_before_its_temperature(kind: Kind) -> None:
    with RawServer() as server:
        server.play(reply(200, b"no JSON"))
        with (
            Driver(kind, server.url, model=None, transport="sglang_generate") as client,
            pytest.raises(tito.MalformedBodyError),
        ):
            client.score([5, 6], temperature=0.5)
