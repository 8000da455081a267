"""Streams of the embedded engine: the truth, its beginning, or a typed error; and never two samples for one call."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from dynamo_tito import (
    AsyncTitoClient,
    AsyncTitoStream,
    Completion,
    DecodeError,
    ServerError,
    TitoError,
    TitoStream,
    TransportError,
    simulator,
)
from dynamo_tito._config import HttpLibrary, RendererTransport, RetryPolicy
from dynamo_tito.simulator import Engine, Fault
from support.driver import Driver, Kind

PROMPT = list(range(100, 120))
TOKENS = 12
NUMBERS = itertools.count()
BACKENDS: dict[str, dict[str, Any]] = {
    "dynamo": {"backend": "dynamo", "sglang_generate": True},
    "vllm": {"backend": "vllm"},
    "prime": {"backend": "prime"},
    "sglang": {"backend": "sglang"},
    "sglang, incremental": {"backend": "sglang", "incremental_streaming_output": True, "chunk_tokens": 2},
}
ROUTES: list[tuple[str, RendererTransport]] = [
    ("dynamo", "dynamo_chat"),
    ("dynamo", "dynamo_completions"),
    ("dynamo", "sglang_generate"),
    ("vllm", "vllm_generate"),
    ("prime", "vllm_generate"),
    ("prime", "prime_chat_tokens"),
    ("sglang", "sglang_generate"),
    ("sglang, incremental", "sglang_generate"),
]

HARMLESS = [
    Fault(kind="delay", seconds=0.02),
    Fault(kind="trickle", chunk=997, seconds=0.0),
    Fault(kind="line_ends"),
    Fault(kind="line_ends", message="mixed"),
    Fault(kind="comments"),
    Fault(kind="data_lines"),
    Fault(kind="utf8", chunk=7),
    Fault(kind="huge_event", at=2, by=3 << 20),
    Fault(kind="content_type"),
    Fault(kind="abort", at=7),
]
INTERRUPTIONS = [
    *(Fault(kind="reset", at=at, unit="events") for at in (0, 1, 4)),
    *(Fault(kind="truncate", at=at, unit="events") for at in (1, 4)),
    *(Fault(kind="truncate", at=at) for at in (1, 0.5, -1)),
    Fault(kind="stall", at=1, unit="events"),
    Fault(kind="stall", phase="sampled"),
    *(Fault(kind="reset", phase=phase) for phase in ("sampled", "headers")),
    Fault(kind="truncate", phase="headers"),
    Fault(kind="no_done"),
]
REFUSED = [
    Fault(kind="error_event", at=3),
    Fault(kind="error_event", at=0, status=503, message="not ready to serve requests yet"),
    Fault(kind="wrong_rows", by=1),
    Fault(kind="unary"),
    *(Fault(kind="status", status=status) for status in (400, 500, 503)),
]


def name(fault: Fault) -> str:
    changed = (getattr(fault, key) for key in ("phase", "status", "at", "message") if getattr(fault, key))
    return "-".join([fault.kind, *map(str, changed)])


@pytest.fixture(scope="module")
def engines() -> Iterator[dict[str, Engine]]:
    with ExitStack() as stack:
        yield {key: stack.enter_context(simulator.running(**settings)) for key, settings in BACKENDS.items()}


@pytest.fixture(params=ROUTES, ids="-".join)
def route(request: pytest.FixtureRequest, engines: dict[str, Engine]) -> tuple[Engine, RendererTransport]:
    backend, transport = request.param
    engines[backend].faults.clear()
    engines[backend].pace.release()
    return engines[backend], transport


def connected(kind: Kind, engine: Engine, transport: RendererTransport, **options: Any) -> Driver:
    shape = {"num_layers": engine.config.num_layers, "top_k": engine.config.top_k}
    model = None if transport == "sglang_generate" else engine.config.model
    options = {"retries": RetryPolicy(initial=0.0, maximum=0.0), **shape, **options}
    return Driver(kind, engine.url, model=model, transport=transport, **options)


def asked() -> dict[str, Any]:
    """The arguments of a call with a name of its own."""
    return {"sampling_params": {"max_tokens": TOKENS}, "request_id": f"call-{next(NUMBERS):06}"}


def check(engine: Engine, call: dict[str, Any], completion: Completion, *, least: int = TOKENS) -> None:
    """The completion is what the engine sampled, or its beginning, and it sampled once."""
    assert engine.sampled()[call["request_id"]] == 1
    (sample,) = [record for record in engine.requests if record.key == call["request_id"]][-1].samples
    count = len(completion.token_ids)
    assert completion.token_ids.tolist() == sample.token_ids.tolist()[:count]
    assert count >= least
    assert completion.logprobs is not None
    assert np.array_equal(completion.logprobs.astype(np.float32), np.asarray(sample.logprobs, np.float32)[:count])
    if completion.routed_experts is not None:
        rows = completion.routed_experts.array
        assert np.array_equal(rows, np.asarray(sample.routed_experts)[: len(rows)])
        assert len(rows) == len(PROMPT) + count - 1


def test_the_truth(kind: Kind, route: tuple[Engine, RendererTransport]) -> None:
    """As it comes, at the end, and in one piece."""
    engine, transport = route
    with connected(kind, engine, transport) as client:
        call = asked()
        deltas, stream = client.stream(PROMPT, **call)
        check(engine, call, stream.completion)
        assert [int(token) for delta in deltas for token in delta.token_ids] == stream.completion.token_ids.tolist()
        again = asked()
        streamed = client.generate(PROMPT, stream=True, **again)
        check(engine, again, streamed)
        if engine.config.backend == "dynamo" and transport == "sglang_generate":
            return
        once = asked()
        whole = client.generate(PROMPT, **once)
        check(engine, once, whole)
    if transport == "prime_chat_tokens":
        sources = {key: value for key, value in whole.sources.items() if key != "routed_experts"}
        whole = dataclasses.replace(whole, routed_experts=None, sources=sources)
    # vLLM leaves out of a stream what it did not count.
    assert (streamed.usage or {}).items() <= (whole.usage or {}).items()
    assert dataclasses.replace(streamed, timing=None, request_id=whole.request_id, usage=whole.usage).equals(whole)


@pytest.mark.parametrize("fault", HARMLESS, ids=name)
@pytest.mark.parametrize("kind", ["blocking"])
def test_what_does_no_harm(kind: Kind, route: tuple[Engine, RendererTransport], fault: Fault) -> None:
    engine, transport = route
    call = asked()
    with connected(kind, engine, transport, thread_from_bytes=1 << 16) as client:
        engine.inject(fault)
        completion = client.generate(PROMPT, stream=True, **call)
    check(engine, call, completion, least=7)
    assert bool(completion.aborted) is (fault.kind == "abort")
    assert engine.hits()[call["request_id"]] == 1


@pytest.mark.parametrize("fault", INTERRUPTIONS, ids=name)
def test_an_interruption(kind: Kind, route: tuple[Engine, RendererTransport], fault: Fault) -> None:
    engine, transport = route
    deadline = 0.8 if fault.kind == "stall" else 60.0
    with connected(kind, engine, transport) as client:
        call = asked()
        engine.inject(fault)
        with pytest.raises((TransportError, DecodeError)):
            client.generate(PROMPT, stream=True, deadline=deadline, **call)
        # On a busy machine the deadline may come before the request has.
        assert engine.hits()[call["request_id"]] <= 1
        assert engine.sampled()[call["request_id"]] <= 1
        call = asked()
        engine.faults.clear()
        engine.inject(fault)
        kept = client.generate(PROMPT, on_interrupt="return", deadline=deadline, **call)
        assert engine.hits()[call["request_id"]] <= 1
        if len(kept.token_ids):
            check(engine, call, kept, least=0)
        assert engine.sampled()[call["request_id"]] <= 1
        if len(kept.token_ids) < TOKENS:
            assert (kept.aborted, kept.complete) == (True, False)
        # Nothing of it sticks to the client.
        engine.faults.clear()
        call = asked()
        check(engine, call, client.generate(PROMPT, stream=True, **call))


def test_a_stream_without_a_finish_reason_broke_off(kind: Kind, route: tuple[Engine, RendererTransport]) -> None:
    engine, transport = route
    with connected(kind, engine, transport) as client:
        engine.inject(Fault(kind="no_finish"), Fault(kind="no_finish"))
        with pytest.raises(DecodeError) as caught:
            client.generate(PROMPT, stream=True, **asked())
        if caught.value.kind == "unfinished_stream":
            call = asked()
            kept = client.generate(PROMPT, on_interrupt="return", **call)
            check(engine, call, kept)
            assert (kept.aborted, kept.complete) == (True, False)
        else:
            # Routed experts came before the end of the choice.
            assert caught.value.kind == "early"


@pytest.mark.parametrize("fault", REFUSED, ids=name)
@pytest.mark.parametrize("kind", ["blocking"])
def test_what_is_an_error_in_either_case(kind: Kind, route: tuple[Engine, RendererTransport], fault: Fault) -> None:
    engine, transport = route
    if fault.kind == "wrong_rows" and transport == "prime_chat_tokens":
        pytest.skip("its streams have no rows")
    with connected(kind, engine, transport) as client:
        for keeps in (False, True):
            call = asked()
            engine.inject(fault)
            with pytest.raises((ServerError, DecodeError)) as caught:
                client.generate(PROMPT, stream=True, on_interrupt="return" if keeps else "raise", **call)
            assert engine.hits()[call["request_id"]] == 1
            assert engine.sampled()[call["request_id"]] <= 1
            if fault.kind == "error_event" and keeps:
                assert vars(caught.value)["completion"].aborted
        call = asked()
        check(engine, call, client.generate(PROMPT, stream=True, **call))


def test_dynamo_streams_the_route_of_sglang_only(kind: Kind, engines: dict[str, Engine]) -> None:
    engine = engines["dynamo"]
    engine.faults.clear()
    with connected(kind, engine, "sglang_generate") as client:
        for hits in (2, 1, 1):
            call = asked()
            check(engine, call, client.generate(PROMPT, **call))
            assert engine.hits()[call["request_id"]] == hits
    with connected(kind, engine, "vllm_generate") as client:
        call = asked()
        with pytest.raises(TitoError, match="not implemented"):
            client.stream(PROMPT, **call)
        assert engine.sampled()[call["request_id"]] == 0


def test_abort(kind: Kind, route: tuple[Engine, RendererTransport]) -> None:
    """While the engine stands still: what it has sampled comes, and the stream ends."""
    engine, transport = route
    workers = engine.system_url if engine.config.backend == "dynamo" else None
    with connected(kind, engine, transport) as client:
        for request_id in ("own-name", None):
            engine.pace.hold(after=3)
            # vLLM 0.31 ends an aborted stream without a finish reason.
            options: dict[str, Any] = {"request_id": request_id, "on_interrupt": "return"}
            stream = client.client.stream(PROMPT, sampling_params={"max_tokens": TOKENS}, **options)
            if isinstance(stream, TitoStream):
                with stream:
                    next(stream)
                    client.abort(stream.request_id or "", admin_base_url=workers)
                    list(stream)
            else:
                client.run(_aborted(client.client, stream, workers))
            assert len(stream.completion.token_ids) in range(1, TOKENS)
            assert stream.completion.aborted
    engine.pace.release()


async def _aborted(client: Any, stream: AsyncTitoStream, workers: str | None) -> None:
    async with stream:
        await anext(stream)
        await client.abort(stream.request_id, admin_base_url=workers)
        async for _ in stream:
            pass


@pytest.mark.parametrize("library", ["native", "httpx"])
@pytest.mark.parametrize("backend", ["vllm", "dynamo", "sglang, incremental"])
def test_a_storm_of_streams(library: HttpLibrary, backend: str) -> None:
    """A third of 300 streams meets a fault: each ends right, in its beginning, or in an error, and is sampled once."""
    faults = (*HARMLESS[1:-1], *INTERRUPTIONS, *REFUSED)
    harmful = tuple(fault for fault in faults if fault.kind not in ("huge_event", "stall", "wrong_rows"))
    settings = {**BACKENDS[backend], "fault_rate": 0.33, "random_faults": harmful, "seed": 7}
    transport: RendererTransport = {"vllm": "vllm_generate", "dynamo": "dynamo_chat"}.get(backend, "sglang_generate")  # type: ignore[assignment]

    async def storm(engine: Engine) -> list[Completion | BaseException]:
        model = None if transport == "sglang_generate" else engine.config.model
        options: dict[str, Any] = {"num_layers": 4, "top_k": 2, "max_concurrency": 100, "retries": None}
        async with AsyncTitoClient(
            engine.url, model=model, http=library, transport=transport, preflight=False, **options
        ) as client:
            calls = (
                client.generate(
                    PROMPT,
                    sampling_params={"max_tokens": TOKENS, "seed": number},
                    request_id=f"c{number:03}",
                    on_interrupt="return",
                )
                for number in range(300)
            )
            return await asyncio.gather(*calls, return_exceptions=True)

    with simulator.running(**settings) as engine:
        results = asyncio.run(storm(engine))
        failures = [result for result in results if isinstance(result, BaseException)]
        assert all(isinstance(failure, TitoError) for failure in failures)
        assert 10 < len(failures) < 100
        kept = 0
        for number, result in enumerate(results):
            if isinstance(result, Completion) and len(result.token_ids):
                check(engine, {"request_id": f"c{number:03}"}, result, least=0)
                kept += bool(result.aborted)
        assert kept > 5
        assert max(engine.sampled().values()) == 1
        assert max(engine.hits().values()) == 1
