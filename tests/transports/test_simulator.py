"""The clients against the embedded engine: the right values or a typed error, and never two samples for one call."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from dynamo_tito import simulator
from dynamo_tito._client import AsyncTitoClient
from dynamo_tito._config import HttpLibrary, RendererTransport, RetryPolicy
from dynamo_tito._errors import EngineError, TitoError, TransportError
from dynamo_tito._types import Completion
from dynamo_tito.simulator import Engine, Fault, Record
from support.driver import Driver, Kind

PROMPT = list(range(100, 120))
TOKENS = 24
NUMBERS = itertools.count()

ROUTES: list[tuple[simulator.Backend, RendererTransport]] = [
    ("dynamo", "dynamo_chat"),
    ("dynamo", "dynamo_completions"),
    ("dynamo", "vllm_generate"),
    ("vllm", "vllm_generate"),
    ("prime", "vllm_generate"),
    ("prime", "prime_chat_tokens"),
    ("vllm", "vllm_completions"),
    ("sglang", "sglang_generate"),
    ("sglang", "sglang_chat"),
]

REFUSED = [
    Fault(kind="status", status=429, headers={"retry-after": "0.01"}),
    Fault(kind="not_ready"),
]
HARMLESS = [
    Fault(kind="delay", seconds=0.05),
    Fault(kind="delay", phase="sampled", seconds=0.05),
    Fault(kind="trickle", chunk=997, seconds=0.0, at=0.5),
    *(Fault(kind="trickle", chunk=1500, seconds=0.0, framing=framing) for framing in ("length", "chunked", "close")),
    Fault(kind="abort", at=7),
]
FATAL = [
    *(Fault(kind="status", status=status) for status in (400, 401, 404, 422, 500, 502, 503, 504)),
    Fault(kind="status", phase="sampled", status=503),
    Fault(kind="error_body"),
    Fault(kind="error_body", body=b"<html>"),
    *(Fault(kind="reset", phase=phase) for phase in ("request", "sampled", "headers", "body")),
    Fault(kind="reset", phase="headers", at=0.5),
    *(Fault(kind="reset", at=0.5, framing=framing) for framing in ("length", "chunked", "close")),
    *(Fault(kind="stall", phase=phase) for phase in ("request", "sampled", "headers", "body")),
    Fault(kind="stall", at=0.5),
    Fault(kind="truncate", phase="headers", at=0.5),
    *(
        Fault(kind="truncate", at=at, framing=framing)
        for at in (0, 1, 0.5, -1)
        for framing in ("length", "chunked", "close")
    ),
    Fault(kind="length", by=1),
    Fault(kind="length", by=-1),
    Fault(kind="wrong_rows", by=1),
    Fault(kind="wrong_rows", by=-1),
    Fault(kind="trickle", chunk=1, seconds=0.05),
]


def name(fault: Fault) -> str:
    changed = (f"{key}={value}" for key in ("phase", "status", "at", "by", "framing") if (value := getattr(fault, key)))
    return "-".join([fault.kind, *changed])


@pytest.fixture(scope="module")
def engines() -> Iterator[dict[str, Engine]]:
    with ExitStack() as stack:
        yield {
            backend: stack.enter_context(simulator.running(backend=backend, max_model_len=1000))
            for backend in ("dynamo", "vllm", "prime", "sglang")
        }


@pytest.fixture(params=ROUTES, ids="-".join)
def route(request: pytest.FixtureRequest, engines: dict[str, Engine]) -> tuple[Engine, RendererTransport]:
    backend, transport = request.param
    engines[backend].faults.clear()
    return engines[backend], transport


def options(engine: Engine, transport: RendererTransport) -> dict[str, Any]:
    return {
        "model": engine.config.model,
        "transport": transport,
        "num_layers": engine.config.num_layers,
        "top_k": engine.config.top_k,
        "require_routed_experts": True,
        "retries": RetryPolicy(initial=0.01, maximum=0.02),
    }


def ask(client: Driver, **arguments: Any) -> tuple[str, Completion]:
    """A call with its own request id."""
    call = f"call-{next(NUMBERS)}"
    return call, client.generate(PROMPT, sampling_params={"max_tokens": TOKENS}, request_id=call, **arguments)


def of_call(engine: Engine, call: str) -> list[Record]:
    return [record for record in engine.requests if record.key == call]


def check(engine: Engine, call: str, completion: Completion, start: int = 0) -> None:
    """The completion is what the engine sampled, and it sampled once."""
    assert engine.sampled()[call] == 1
    (sample,) = of_call(engine, call)[-1].samples
    assert completion.token_ids.tolist() == list(sample.token_ids)
    assert completion.logprobs is not None
    assert np.array_equal(completion.logprobs.astype(np.float32), np.asarray(sample.logprobs, np.float32))
    assert completion.routed_experts is not None
    assert completion.routed_experts.start == start
    truth = np.asarray(sample.routed_experts)[start:]
    assert np.array_equal(completion.routed_experts.array, truth[: len(completion.routed_experts.array)])
    assert len(completion.routed_experts.array) == len(PROMPT) + len(completion.token_ids) - 1 - start


@pytest.mark.parametrize("start", [None, 1, 19, 20])
def test_the_truth(kind: Kind, route: tuple[Engine, RendererTransport], start: int | None) -> None:
    engine, transport = route
    with Driver(kind, engine.url, preflight=True, **options(engine, transport)) as client:
        call, completion = ask(client, routed_experts_prompt_start=start)
    check(engine, call, completion, start or 0)
    assert len(completion.token_ids) == TOKENS


@pytest.mark.parametrize("fault", REFUSED, ids=name)
def test_what_is_refused_before_sampling_is_sent_again(
    kind: Kind, route: tuple[Engine, RendererTransport], fault: Fault
) -> None:
    engine, transport = route
    if transport.startswith("sglang") and fault.kind == "not_ready":
        fault = Fault(kind="status", status=503, message="The request queue is full.")
    with Driver(kind, engine.url, **options(engine, transport)) as client:
        engine.inject(fault, fault)
        call, completion = ask(client)
    check(engine, call, completion)
    assert engine.hits()[call] == 3


@pytest.mark.parametrize("fault", HARMLESS, ids=name)
def test_faults_without_an_effect(kind: Kind, route: tuple[Engine, RendererTransport], fault: Fault) -> None:
    engine, transport = route
    with Driver(kind, engine.url, **options(engine, transport)) as client:
        engine.inject(fault)
        if fault.kind == "abort" and engine.config.backend == "dynamo" and transport == "vllm_generate":
            with pytest.raises(EngineError, match="499"):
                ask(client)
            return
        call, completion = ask(client)
    check(engine, call, completion)
    assert engine.hits()[call] == 1
    assert bool(completion.aborted) is (fault.kind == "abort")


@pytest.mark.parametrize("fault", FATAL, ids=name)
def test_what_is_fatal(kind: Kind, route: tuple[Engine, RendererTransport], fault: Fault) -> None:
    engine, transport = route
    call = f"fatal-{next(NUMBERS)}"
    with Driver(kind, engine.url, **options(engine, transport)) as client:
        engine.inject(fault)
        endless = fault.kind in ("stall", "trickle")
        with pytest.raises(TitoError):
            client.generate(
                PROMPT, sampling_params={"max_tokens": TOKENS}, request_id=call, deadline=0.5 if endless else 30.0
            )
        # Nothing of it sticks to the client.
        again, completion = ask(client)
        check(engine, again, completion)
    # On a busy machine the deadline may come before the request has.
    assert engine.hits()[call] <= 1 if endless else engine.hits()[call] == 1
    assert engine.sampled()[call] <= 1


@pytest.mark.parametrize("fault", [Fault(kind="reset", phase="accept"), Fault(kind="stall", phase="accept")], ids=name)
def test_connections_that_die_as_they_are_made(
    kind: Kind, route: tuple[Engine, RendererTransport], fault: Fault
) -> None:
    engine, transport = route
    call = f"fatal-{next(NUMBERS)}"
    with Driver(kind, engine.url, **options(engine, transport)) as client:
        engine.inject(fault)
        try:
            client.generate(PROMPT, sampling_params={"max_tokens": TOKENS}, request_id=call, deadline=0.5)
        except TransportError:
            assert engine.sampled()[call] == 0
        else:
            # The reset came so early that it counts as never connected, and another connection was made.
            assert fault.kind == "reset"
            assert engine.sampled()[call] == 1
        again, completion = ask(client)
        check(engine, again, completion)


@pytest.mark.parametrize("library", ["native", "httpx"])
def test_a_storm(library: HttpLibrary) -> None:
    """400 calls at once, a third with a fault: each returns the sample or raises a typed error, sampled once."""
    faults = (*REFUSED, *HARMLESS[:4], *(fault for fault in FATAL if fault.kind not in ("stall", "trickle")))
    settings: dict[str, Any] = {"fault_rate": 0.33, "random_faults": faults, "backend": "vllm", "seed": 7}

    async def storm(engine: Engine) -> list[Completion | BaseException]:
        async with AsyncTitoClient(
            engine.url,
            http=library,
            max_concurrency=100,
            **options(engine, "vllm_generate"),
        ) as client:
            calls = (
                client.generate(PROMPT, sampling_params={"max_tokens": TOKENS, "seed": number}, request_id=f"c{number}")
                for number in range(400)
            )
            return await asyncio.gather(*calls, return_exceptions=True)

    with simulator.running(**settings) as engine:
        results = asyncio.run(storm(engine))
        failures = [result for result in results if isinstance(result, BaseException)]
        assert all(isinstance(failure, TitoError) for failure in failures)
        assert 40 < len(failures) < 200
        for number, result in enumerate(results):
            if isinstance(result, Completion):
                check(engine, f"c{number}", result)
        assert max(engine.sampled().values()) == 1
