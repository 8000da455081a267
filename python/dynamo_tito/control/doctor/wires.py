"""One transport, asked for one token at a time: does it answer, stream, and send what training needs."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dynamo_tito._errors import DecodeError, NotFoundError, ServerError, TitoError, UnsupportedParameterError
from dynamo_tito._native import StreamDecoder, decode
from dynamo_tito._requests import dialect, encode_request

from .findings import NO_EXPERTS, NO_NATIVE_GENERATE, NO_WIRE, POSITIVE_LOGPROB, Finding

if TYPE_CHECKING:
    from dynamo_tito._config import Backend, RendererTransport
    from dynamo_tito._types import Completion, RoutedExperts
    from dynamo_tito.control.http import Server

    from .findings import Verdict

PROMPT = (1, 2, 3)
_START = 1
_PLACES = (
    "nvext.routed_experts",
    "nvext.engine_data.routed_experts",
    "choices[0].routed_experts",
    "meta_info.routed_experts",
    "choices[0].meta_info.routed_experts",
)
_NPY = "k05VTVBZ"
_INT32 = 4
_NOT_IMPLEMENTED = 501
_ERROR = 300


@dataclass(slots=True)
class WireProbe:
    """Asks one transport of a server.

    Attributes:
        server: the server.
        backend: whose it is.
        model: the model to ask.
        transport: how to ask.
        optional: whether the server may lack the route: its absence is then a note.
        findings: what was found so far.
    """

    server: Server
    backend: Backend
    model: str | None
    transport: RendererTransport
    optional: bool = False
    findings: list[Finding] = field(default_factory=list)

    async def run(self) -> list[Finding]:
        """Ask three or four times for one token; what was found."""
        try:
            answer = await self._ask()
        except NotFoundError as error:
            advice = NO_NATIVE_GENERATE if self.optional else NO_WIRE.get(self.backend)
            self._find("note" if self.optional else "change", f"does not answer: {error}", advice)
            return self.findings
        except ServerError as error:
            if error.status == _NOT_IMPLEMENTED and self.optional:
                self._find("note", "answers no unary request (HTTP 501)")
                await self._streams(None)
            else:
                self._find("change", f"does not answer: {error}", NO_WIRE.get(self.backend))
            return self.findings
        await self._streams(await self._answered(answer))
        return self.findings

    async def _answered(self, answer: bytes) -> Completion | None:
        try:
            completion = self._decoded(answer, experts="skip")
        except DecodeError as error:
            positive = error.kind == "positive_logprob"
            advice = POSITIVE_LOGPROB[self.backend] if positive else None
            self._find("change", f"the answer cannot be trusted: {error}", advice)
            return None
        except TitoError as error:
            self._find("change", f"the answer cannot be trusted: {error}")
            return None
        self._find("ok", self._dialect(answer))
        if completion.logprobs is None or len(completion.logprobs) != len(completion.token_ids):
            self._find("change", "no log-probabilities", "do not disable them on the server")
        else:
            self._find("ok", "one log-probability per token")
        if "routed_experts" in completion.sources:
            await self._experts(answer)
        else:
            self._find("change", "no routed experts", NO_EXPERTS[self.backend])
        return completion

    async def _experts(self, answer: bytes) -> None:
        held = _container(json.loads(answer))
        shape = _bare_shape(held)
        try:
            full = self._decoded(answer, **shape).routed_experts
        except (TitoError, ValueError) as error:
            self._find("change", f"the routed experts cannot be trusted: {error}")
            return
        if full is None:
            return
        self._find("ok", f"routed experts as {_form(held)}")
        if not full.array.any():
            self._find("change", "all routed experts are zero: nothing was captured", NO_EXPERTS[self.backend])
        try:
            trimmed = await self._ask(_START)
        except UnsupportedParameterError:
            self._find("note", "refuses routed_experts_prompt_start: the clients ask without, and trim")
            return
        except ServerError as error:
            self._find("note", f"fails with routed_experts_prompt_start: {error}")
            return
        start = self._start_of(trimmed, shape)
        if start == _START:
            self._find("ok", "honours routed_experts_prompt_start")
        elif start == 0:
            self._find("note", "ignores routed_experts_prompt_start: the clients trim")
        else:
            self._find("change", "returns neither all rows nor the wanted ones for a prompt start")

    def _start_of(self, answer: bytes, shape: dict[str, int]) -> int | None:
        """Where the rows of an answer begin: 0 if all are there, the start if it was trimmed, None if neither fits."""
        for start in (None, _START):
            experts: RoutedExperts | None
            try:
                experts = self._decoded(answer, routed_experts_prompt_start=start, **shape).routed_experts
            except (TitoError, ValueError):
                continue
            if experts is not None:
                return experts.start
        return None

    async def _streams(self, unary: Completion | None) -> None:
        """Whether ``stream: true`` gives server-sent events, and whether they bring what the unary answer has."""
        try:
            body = self._body(None, stream=True)
        except ValueError as error:
            self._find("note", f"is asked for no stream: {error}")
            return
        try:
            response = await self.server.send("POST", dialect(self.transport).path, body)
        except TitoError as error:
            self._find("note", f"a stream fails: {error}")
            return
        if response.status >= _ERROR:
            self._find("note", f"refuses streams (HTTP {response.status})")
            return
        content = bytes(response.content)
        events = len(re.findall(rb"^data:", content, re.MULTILINE))
        if not events:
            self._find("note", "ignores stream: true, and answers with one document")
            return
        self._find("ok", f"streams on request: {events} server-sent events for one token")
        try:
            streamed = self._of_stream(content)
        except TitoError as error:
            self._find("note" if self.optional else "change", f"the stream cannot be trusted: {error}")
            return
        self._compare(streamed, unary)

    def _of_stream(self, content: bytes) -> Completion:
        decoder = StreamDecoder(**self._options(), experts="skip", deltas=False)
        decoder.feed(content)
        return decoder.finish()

    def _compare(self, streamed: Completion, unary: Completion | None) -> None:
        """Both are sampled, so their tokens may differ. What they bring may not."""
        if unary is None:
            self._find("ok", "the stream decodes")
            return
        lacking = {name for name in unary.sources.keys() - streamed.sources.keys() if name != "logprobs_echo"}
        if not dialect(self.transport).streams_routing:
            lacking.discard("routed_experts")
        tokens, expected = len(streamed.token_ids), len(unary.token_ids)
        if lacking:
            self._find("note", f"the stream lacks {', '.join(sorted(lacking))}, which the unary answer has")
        elif tokens != expected:
            self._find("note", f"the stream has {tokens} tokens, the unary answer {expected}")
        else:
            self._find("ok", "the stream decodes, and brings what the unary answer has")

    async def _ask(self, start: int | None = None) -> bytes:
        path = dialect(self.transport).path
        response = await self.server.send("POST", path, self._body(start))
        self.server.judge(response, path)
        return bytes(response.content)

    def _body(self, start: int | None, *, stream: bool = False) -> bytes:
        # SGLang's /generate names no model.
        model = None if self.transport == "sglang_generate" else self.model
        return encode_request(
            self.transport, model=model, prompt_ids=[*PROMPT], sampling_params={"max_tokens": 1},
            routed_experts_prompt_start=start, stream=stream,
            return_routed_experts=not stream or dialect(self.transport).streams_routing,
        )  # fmt: skip

    def _decoded(self, answer: bytes, **options: Any) -> Completion:
        return decode(answer, **self._options(), **options)

    def _options(self) -> dict[str, Any]:
        wire = dialect(self.transport).wire
        return {"wire": wire, "prompt_len": len(PROMPT), "require_logprobs": False, "missing_logprob": "nan"}

    def _dialect(self, answer: bytes) -> str:
        if self.transport != "vllm_generate":
            return "answers"
        entry = _at(json.loads(answer), "choices[0].logprobs.content[0]")
        if isinstance(entry, dict) and isinstance(entry.get("token_id"), int):
            return "answers with integer token ids"
        return "answers with tokens as text"

    def _find(self, verdict: Verdict, found: str, advice: str | None = None) -> None:
        self.findings.append(Finding(self.transport, verdict, found, advice))


def _at(document: Any, path: str) -> Any:
    """The value at a path as errors write it; None if there is none."""
    for name in re.findall(r"\w+", path):
        try:
            document = document[int(name) if isinstance(document, list) else name]
        except (KeyError, IndexError, TypeError, ValueError):
            return None
    return document


def _container(document: Any) -> Any:
    """What holds the routed experts, in the decoder's order: an object, else a string."""
    found = [value for path in _PLACES if (value := _at(document, path)) is not None]
    return next((value for value in found if isinstance(value, dict)), found[0] if found else None)


def _bare_shape(held: Any) -> dict[str, int]:
    """Arguments for rows without a shape of their own: one layer that is as wide as a row."""
    if not isinstance(held, str) or held.startswith(_NPY):
        return {}
    try:
        width, left = divmod(len(b64decode(held)), _INT32 * len(PROMPT))
    except ValueError:
        return {}
    return {"num_layers": 1, "top_k": width} if width and not left else {}


def _form(held: Any) -> str:
    if isinstance(held, dict):
        return f"an object of {held.get('dtype', 'uint8')}"
    return "an npy file" if str(held).startswith(_NPY) else "bare int32 rows"
