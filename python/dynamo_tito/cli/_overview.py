"""What ``dynamo-tito top`` shows: the workers of a fleet, and the calls of processes that export their counters."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Self
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

import dynamo_tito as tito
from dynamo_tito.control import AdminApi, Workers, detect_backend, make_admin
from dynamo_tito.control.http import Server

_RUNNING = ("vllm:num_requests_running", "sglang:num_running_reqs")
_WAITING = ("vllm:num_requests_waiting", "sglang:num_queue_reqs")
_TOKENS = ("vllm:generation_tokens_total", "sglang:generation_tokens_total")

_CALLS = "dynamo_tito_client_calls_total"
_SECONDS = "dynamo_tito_client_duration_seconds_total"
_SAMPLED = "dynamo_tito_client_tokens_total"
_ACTIVE = "dynamo_tito_client_active_calls"
_REFUSALS = "dynamo_tito_client_refusals_total"
_SUMS = {
    "retries": "dynamo_tito_client_retries_total",
    "interrupted": "dynamo_tito_client_interrupted_total",
    "received": "dynamo_tito_client_received_bytes_total",
    "decoding": "dynamo_tito_client_decode_time_seconds_total",
}


@dataclass(frozen=True, slots=True)
class WorkerView:
    """One worker, as it was seen at one moment.

    Attributes:
        name: its identity, or its address.
        model: the model that it serves; None if it does not say.
        version: its weight version; None if it reports none.
        paused: whether it holds generation; None if no route shows it.
        running: requests that it is working on; None if it exports no metrics, likewise the next two.
        waiting: requests in its queue.
        tokens: tokens that it has sampled since it started.
        problem: why it cannot be looked at; None if it can.
    """

    name: str
    model: str | None = None
    version: str | None = None
    paused: bool | None = None
    running: int | None = None
    waiting: int | None = None
    tokens: float | None = None
    problem: str | None = None


@dataclass(slots=True)
class Calls:
    """The calls of the processes that export their counters, in sums.

    Attributes:
        calls: calls that are over.
        failed: calls that ended in an error.
        active: calls under way.
        seconds: of all calls together.
        tokens: tokens that were sampled.
        sums: retries, interrupted calls, bytes received, seconds of decoding.
        refusals: answers that could not be read, by kind and wire.
        problems: why a process cannot be looked at.
    """

    calls: float = 0
    failed: float = 0
    active: float = 0
    seconds: float = 0
    tokens: float = 0
    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_SUMS, 0.0))
    refusals: Counter[tuple[str, str]] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Look:
    """Everything, at one moment.

    Attributes:
        at: seconds on the monotonic clock.
        workers: of the fleet.
        calls: None where no process was named.
    """

    at: float
    workers: Sequence[WorkerView]
    calls: Calls | None


class Overview:
    """Looks at a fleet, again and again, over connections that it keeps.

    Args:
        url: Dynamo's frontend, or one vLLM or SGLang server.
        rl_url: where Dynamo's discovery listens; None for the default.
        metrics: addresses at which processes export their counters in Prometheus' form.
        seconds: for each request.
    """

    def __init__(self, url: str, *, rl_url: str | None, metrics: Sequence[str], seconds: float) -> None:
        self._url, self._rl_url, self._metrics = url, rl_url, metrics
        self._seconds = seconds
        self._servers: dict[str, Server] = {}
        self._listed: Workers | None = None
        self._admins: dict[str, AdminApi] = {}

    async def look(self) -> Look:
        """The workers as they are listed now, and each of them.

        Raises:
            TitoError: discovery, or the server, does not answer.
        """
        workers, calls = await asyncio.gather(self._workers(), self._calls())
        return Look(time.monotonic(), workers, calls)

    async def __aenter__(self) -> Self:
        if self._rl_url is not None or await detect_backend(self._url) == "dynamo":
            self._listed = Workers(self._url, rl_base_url=self._rl_url, allow_incomplete=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._listed is not None:
            await self._listed.aclose()
        for admin in self._admins.values():
            await admin.aclose()
        for server in self._servers.values():
            await server.aclose()

    async def _workers(self) -> list[WorkerView]:
        if self._listed is None:
            return [await self._worker(self._url, self._url, None, None)]
        found = await self._listed.look()
        return await asyncio.gather(
            *(
                self._worker(str(each.identity), each.system_url or each.admin_base_url or "", each.model, each.problem)
                for each in found
            )
        )

    async def _worker(self, name: str, url: str, model: str | None, problem: str | None) -> WorkerView:
        if problem is not None:
            return WorkerView(name, model, problem=problem)
        try:
            async with asyncio.timeout(self._seconds):
                if url not in self._admins:
                    self._admins[url] = await make_admin(url)
                admin = self._admins[url]
                paused, version, samples = await asyncio.gather(
                    admin.is_paused(),
                    admin.weight_version(),
                    self._samples(f"{url.rstrip('/').removesuffix('/v1')}/metrics"),
                )
                model = model or next(iter(await admin.models()), None)
        except (tito.TitoError, NotImplementedError) as error:
            return WorkerView(name, model, problem=str(error))
        except TimeoutError:
            return WorkerView(name, model, problem=f"no answer in {self._seconds:g} s")
        load = [_sum(samples, names) for names in (_RUNNING, _WAITING, _TOKENS)]
        running, waiting = (None if value is None else int(value) for value in load[:2])
        return WorkerView(name, model, version, paused, running, waiting, load[2])

    async def _calls(self) -> Calls | None:
        if not self._metrics:
            return None
        calls = Calls()
        for url in self._metrics:
            samples = await self._samples(url)
            if not samples:
                calls.problems.append(f"no counters at {url}")
            _add(calls, samples)
        return calls

    async def _samples(self, url: str) -> list[Any]:
        """The samples of a Prometheus page; none where there is no such page."""
        parts = urlsplit(url)
        root = f"{parts.scheme}://{parts.netloc}"
        try:
            if root not in self._servers:
                self._servers[root] = Server(root, timeout=self._seconds)
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            answer = await self._servers[root].send("GET", path)
            if answer.status != HTTPStatus.OK:
                return []
            families = text_string_to_metric_families(bytes(answer.content).decode())
            return [sample for family in families for sample in family.samples]
        except (tito.TransportError, ValueError):
            return []


def _sum(samples: Iterable[Any], names: Sequence[str]) -> float | None:
    values = [sample.value for sample in samples if sample.name in names]
    return sum(values) if values else None


def _add(calls: Calls, samples: Iterable[Any]) -> None:
    for sample in samples:
        name, labels, value = sample.name, sample.labels, sample.value
        if name == _CALLS:
            calls.calls += value
            calls.failed += value if labels.get("error_type") else 0
        elif name == _SECONDS:
            calls.seconds += value
        elif name == _ACTIVE:
            calls.active += value
        elif name == _SAMPLED and labels.get("gen_ai_token_type") == "output":
            calls.tokens += value
        elif name == _REFUSALS:
            calls.refusals[labels.get("dynamo_tito_refusal_kind", ""), labels.get("dynamo_tito_wire", "")] += int(value)
        else:
            for key, counted in _SUMS.items():
                if name == counted:
                    calls.sums[key] += value
