"""What a server really does, found out with one-token requests and questions that change nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from dynamo_tito._client.preflight import limit_of
from dynamo_tito._errors import AdminError
from dynamo_tito.control.admin.detect import has_route, recognised
from dynamo_tito.control.discovery import Workers
from dynamo_tito.control.http import HttpOptions, Server, cards_of

from .findings import NO_ADMIN, Diagnosis, Finding, Verdict
from .server import embedded_rl_url, sampling_defaults, version_of
from .wires import WireProbe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dynamo_tito._config import Backend, RendererTransport

__all__ = ["Diagnosis", "Finding", "Verdict", "examine"]

_TIMEOUT = 60.0

_TRANSPORTS: dict[Backend, tuple[RendererTransport, ...]] = {
    "dynamo": ("dynamo_chat", "dynamo_completions", "vllm_generate", "sglang_generate"),
    "vllm": ("vllm_generate", "vllm_completions"),
    "prime": ("vllm_generate", "prime_chat_tokens"),
    "sglang": ("sglang_generate", "sglang_chat"),
}
# Dynamo has SGLang's own route only where its workers are SGLang's, and where it is switched on. The others are second
# ways to a server that has a better one.
_OPTIONAL = {("dynamo", "sglang_generate"), ("vllm", "vllm_completions"), ("sglang", "sglang_chat")}
_NAMES: dict[Backend, str] = {"vllm": "vLLM", "prime": "prime-rl's server", "sglang": "SGLang", "dynamo": "Dynamo"}


async def examine(
    url: str,
    *,
    model: str | None = None,
    rl_base_url: str | Sequence[str] | None = None,
    **options: Unpack[HttpOptions],
) -> Diagnosis:
    """Ask a server what it really does. Safe while it serves: one token is sampled per request, nothing is changed.

    Args:
        url: the server, with or without ``/v1``.
        model: which model; by default the first one listed.
        rl_base_url: where Dynamo's discovery listens; see :class:`Workers`.
        **options: see :class:`HttpOptions`.

    Raises:
        ServerError: a server answers that is none of those known.
        TransportError: nothing answers.
    """
    server = Server(url, timeout=_TIMEOUT, **options)
    try:
        backend, recognised_by = await recognised(server)
        examination = _Examination(server, backend, recognised_by)
        await examination.introduction()
        await examination.models(model)
        await examination.wires()
        await examination.defaults()
        if backend == "dynamo":
            await examination.discovery(url, rl_base_url, options)
        else:
            await examination.administration()
        return examination.diagnosis()
    finally:
        await server.aclose()


class _Examination:
    def __init__(self, server: Server, backend: Backend, recognised_by: str) -> None:
        self._server = server
        self._backend = backend
        self._recognised_by = recognised_by
        self._version: str | None = None
        self._model: str | None = None
        self._findings: list[Finding] = []

    def diagnosis(self) -> Diagnosis:
        name = _NAMES[self._backend]
        if self._version is not None:
            # prime-rl's server is built on vLLM, whose version the route has.
            name = f"{name}{', vLLM' if self._backend == 'prime' else ''} {self._version}"
        return Diagnosis(
            self._server.url,
            self._backend,
            name,
            self._version,
            self._recognised_by,
            self._model,
            tuple(self._findings),
        )

    async def introduction(self) -> None:
        told = await version_of(self._server, self._backend)
        name = f"{_NAMES[self._backend]}: {self._recognised_by}"
        if told is None:
            self._find("server", "ok", f"{name}; no route tells its version")
        else:
            self._version, path = told
            self._find("server", "ok", f"{name}; {path} tells version {self._version}")

    async def models(self, model: str | None) -> None:
        cards = await cards_of(self._server)
        names = [card["id"] for card in cards]
        self._model = model if model is not None else (names[0] if names else None)
        if self._model not in names:
            listed = ", ".join(names) or "nothing"
            self._find("model", "change", f"/v1/models lists {listed}", "serve the model, or name one that is listed")
            return
        limit = limit_of(next(card for card in cards if card["id"] == self._model))
        if limit is None:
            self._find("context length", "note", "not reported: overlong prompts are refused by the engine only")
        else:
            self._find("context length", "ok", f"{limit:,} tokens")

    async def wires(self) -> None:
        for transport in _TRANSPORTS[self._backend]:
            optional = (self._backend, transport) in _OPTIONAL
            probe = WireProbe(self._server, self._backend, self._model, transport, optional)
            self._findings += await probe.run()

    async def defaults(self) -> None:
        verdict, found = await sampling_defaults(self._server, self._backend)
        self._find("sampling defaults", verdict, found)

    async def discovery(self, url: str, rl_base_url: str | Sequence[str] | None, options: HttpOptions) -> None:
        workers = Workers(url, rl_base_url=rl_base_url, model=self._model, allow_incomplete=True, **options)
        try:
            await workers.refresh()
        except AdminError as error:
            embedded = await embedded_rl_url(self._server)
            if embedded is None:
                advice = "set DYN_ENABLE_RL=true on the frontend, and name its DYN_RL_PORT with --rl-url"
            else:
                advice = f"this is dynamo-tito serve: name its discovery with --rl-url {embedded}"
            self._find("discovery", "change", str(error), advice)
            return
        finally:
            await workers.aclose()
        self._find("discovery", "ok", f"{len(workers)} workers, {workers.world_size} ranks")
        for worker in workers:
            name = str(worker.identity)
            if worker.problem is not None:
                self._find(
                    "administration", "change", f"{name}: {worker.problem}", "restart it, or set DYN_SYSTEM_PORT"
                )
            else:
                self._find("administration", "ok", f"{name}: {len(worker.routes)} routes at {worker.system_url}")

    async def administration(self) -> None:
        route, advice = NO_ADMIN[self._backend]
        if await has_route(self._server, route):
            self._find("administration", "ok", f"{route} and its like")
        else:
            self._find("administration", "change", f"no {route}", advice)

    def _find(self, topic: str, verdict: Verdict, found: str, advice: str | None = None) -> None:
        self._findings.append(Finding(topic, verdict, found, advice))
