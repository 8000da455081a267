"""What a server really does, found out with one-token requests and questions that change nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Unpack

from dynamo_tito._codec import decode
from dynamo_tito._errors import AdminError, ServerError, TitoError, UnsupportedParameterError
from dynamo_tito._preflight import limit_of
from dynamo_tito._requests import dialect, encode_request

from ._http import HttpOptions, Server, cards_of
from ._routing import Routing, routing_of
from .admin.detect import backend_of, has_route
from .discovery import Workers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dynamo_tito._config import Backend, RendererTransport

Verdict: TypeAlias = Literal["ok", "note", "change"]
"""``ok`` as it should be; ``note`` as it is, and the clients cope; ``change`` something on the server."""

PROMPT = (1, 2, 3)
_START = 1
_TIMEOUT = 60.0

_TRANSPORTS: dict[Backend, tuple[RendererTransport, ...]] = {
    "dynamo": ("dynamo_chat", "dynamo_completions", "vllm_generate"),
    "vllm": ("vllm_generate",),
    "prime": ("vllm_generate", "prime_chat_tokens"),
    "sglang": ("sglang_generate",),
}
_NO_WIRE: dict[str, str] = {
    "vllm": "start vLLM with --enable-scale-out (0.32 and above), or take 0.31",
    "dynamo": "for /inference/v1/generate set DYN_VLLM_ENABLE_INFERENCE_V1_GENERATE=1 on the frontend",
}
_NO_EXPERTS: dict[str, str] = {
    "vllm": "start vLLM with --enable-return-routed-experts; the model must be a mixture of experts",
    "prime": "start the server with --enable-return-routed-experts; the model must be a mixture of experts",
    "dynamo": "start the workers with --enable-return-routed-experts; the model must be a mixture of experts",
    "sglang": "start SGLang with --enable-return-routed-experts; the model must be a mixture of experts",
}
_NO_ADMIN: dict[str, tuple[str, str]] = {
    "vllm": ("/pause", "set VLLM_SERVER_DEV_MODE=1 on the server"),
    "prime": ("/pause", "take a build with the routes for pausing"),
    "sglang": ("/pause_generation", "take a version of SGLang that has it"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing about a server.

    Attributes:
        topic: what was asked: a transport, ``"discovery"``, ``"administration"``, ...
        verdict: see :data:`Verdict`.
        found: what the server does.
        advice: what to change on the server; None if nothing.
    """

    topic: str
    verdict: Verdict
    found: str
    advice: str | None = None


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found out about a server.

    Attributes:
        url: the server, without credentials.
        backend: whose it is.
        name: backend and dialect, such as ``"vLLM >= 0.32"``.
        model: the model that was asked.
        findings: in the order in which they were found.
    """

    url: str
    backend: Backend
    name: str
    model: str | None
    findings: tuple[Finding, ...]


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
        examination = _Examination(server, await backend_of(server))
        await examination.models(model)
        for transport in _TRANSPORTS[examination.backend]:
            await examination.wire(transport)
        if examination.backend == "dynamo":
            await examination.discovery(url, rl_base_url, options)
        else:
            await examination.administration()
        return examination.diagnosis()
    finally:
        await server.aclose()


class _Examination:
    def __init__(self, server: Server, backend: Backend) -> None:
        self.backend = backend
        self._server = server
        self._model: str | None = None
        self._findings: list[Finding] = []
        #: What the dialects showed: integer ids, trimming on Dynamo's own routes.
        self._integer_ids = False
        self._trims: set[str] = set()

    def diagnosis(self) -> Diagnosis:
        name = {
            "vllm": "vLLM >= 0.32" if self._integer_ids else "vLLM 0.31",
            "prime": "prime-rl's server",
            "sglang": "SGLang",
            "dynamo": "Dynamo with prompt-start support" if "dynamo_chat" in self._trims else "Dynamo 1.6.1",
        }[self.backend]
        return Diagnosis(self._server.url, self.backend, name, self._model, tuple(self._findings))

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

    async def wire(self, transport: RendererTransport) -> None:
        try:
            answer = await self._ask(transport, None)
        except ServerError as error:
            self._find(transport, "change", f"does not answer: {error}", _NO_WIRE.get(self.backend))
            return
        try:
            completion = decode(
                answer, wire=dialect(transport).wire, prompt_len=len(PROMPT), experts="skip", require_logprobs=False,
                missing_logprob="nan",
            )  # fmt: skip
        except TitoError as error:
            self._find(transport, "change", f"the answer cannot be trusted: {error}")
            return
        self._find(transport, "ok", self._dialect(transport, answer))
        if completion.logprobs is None or len(completion.logprobs) != len(completion.token_ids):
            self._find(transport, "change", "no log-probabilities", "do not disable them on the server")
        else:
            self._find(transport, "ok", "one log-probability per token")
        await self._experts(transport, routing_of(answer))

    async def _experts(self, transport: RendererTransport, full: Routing | None) -> None:
        if full is None:
            self._find(transport, "change", "no routed experts", _NO_EXPERTS[self.backend])
            return
        self._find(transport, "ok", f"routed experts as {full.form}")
        if full.all_zero:
            self._find(
                transport, "change", "all routed experts are zero: nothing was captured", _NO_EXPERTS[self.backend]
            )
        try:
            trimmed = routing_of(await self._ask(transport, _START))
        except UnsupportedParameterError:
            self._find(transport, "note", "refuses routed_experts_prompt_start: the clients ask without, and trim")
            return
        except ServerError as error:
            self._find(transport, "note", f"fails with routed_experts_prompt_start: {error}")
            return
        rows = len(PROMPT)
        if trimmed is not None and trimmed.size * rows == full.size * (rows - _START):
            self._trims.add(transport)
            self._find(transport, "ok", "honours routed_experts_prompt_start")
        elif trimmed is not None and trimmed.size == full.size:
            self._find(transport, "note", "ignores routed_experts_prompt_start: the clients trim")
        else:
            self._find(transport, "change", "returns neither all rows nor the wanted ones for a prompt start")

    async def _ask(self, transport: RendererTransport, start: int | None) -> bytes:
        path = dialect(transport).path
        body = encode_request(
            transport, model=self._model, prompt_ids=[*PROMPT], sampling_params={"max_tokens": 1},
            routed_experts_prompt_start=start, return_routed_experts=True,
        )  # fmt: skip
        response = await self._server.send("POST", path, body)
        self._server.judge(response, path)
        return bytes(response.content)

    def _dialect(self, transport: RendererTransport, answer: bytes) -> str:
        if transport != "vllm_generate":
            return "answers"
        entry = _first_logprob(json.loads(answer))
        if isinstance(entry.get("token_id"), int):
            self._integer_ids = True
            return "answers with integer token ids (vLLM 0.32 and above)"
        return "answers with tokens as text (the dialect of vLLM 0.31)"

    async def discovery(self, url: str, rl_base_url: str | Sequence[str] | None, options: HttpOptions) -> None:
        workers = Workers(url, rl_base_url=rl_base_url, model=self._model, allow_incomplete=True, **options)
        try:
            await workers.refresh()
        except AdminError as error:
            self._find("discovery", "change", str(error), "set DYN_ENABLE_RL=true on the frontend")
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
        route, advice = _NO_ADMIN[self.backend]
        if await has_route(self._server, route):
            self._find("administration", "ok", f"{route} and its like")
        else:
            self._find("administration", "change", f"no {route}", advice)

    def _find(self, topic: str, verdict: Verdict, found: str, advice: str | None = None) -> None:
        self._findings.append(Finding(topic, verdict, found, advice))


def _first_logprob(document: Any) -> dict[str, Any]:
    try:
        entry = document["choices"][0]["logprobs"]["content"][0]
    except (KeyError, IndexError, TypeError):
        return {}
    return entry if isinstance(entry, dict) else {}
