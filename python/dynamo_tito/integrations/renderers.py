"""``renderers`` 0.1.12 and later: its ``generate`` over this library.

>>> from dynamo_tito.integrations import renderers
>>> renderers.install()  # doctest: +SKIP

Their ``generate`` prepares the request: it renders, serializes pictures, and refuses prompts that are too long. This
module sends it and reads the answer. Log-probabilities are decoded in the compiled core. The routed experts stay the
text that they are on the wire, because the trainer alone reads them.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

from dynamo_tito._client import AsyncTitoClient
from dynamo_tito._client.threads import in_thread
from dynamo_tito._client.whole import decoding_of

from ._answer import Answer, RefusedError, read
from ._frameworks import framework
from ._prepared import Prepared, Recorder
from ._send import send

if TYPE_CHECKING:
    from types import TracebackType

    from dynamo_tito._config import RendererTransport

__all__ = ["Installed", "generate", "install"]

_THREAD_FROM_BYTES = 1 << 20

Generate = Callable[..., Awaitable[dict[str, Any]]]


class Installed:
    """Their ``generate`` is replaced until this is left as a context manager, or :meth:`uninstall` is called."""

    def __init__(self, module: Any, replacement: Generate) -> None:
        self._module, self._before, self._replacement = module, module.generate, replacement
        self._undone = False
        module.generate = replacement

    def uninstall(self) -> None:
        """Put back what was there. Calling it again does nothing.

        Raises:
            RuntimeError: ``renderers.client.generate`` was replaced by something else since.
        """
        if self._undone:
            return
        if self._module.generate is not self._replacement:
            raise RuntimeError("renderers.client.generate was replaced again since: undo that first")
        self._module.generate, self._undone = self._before, True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.uninstall()


def install(**defaults: Any) -> Installed:
    """Replace ``renderers.client.generate`` in this process.

    Code that looks the function up when it calls it uses the replacement, such as verifiers' ``TrainClient``. A module
    that imported the function by name before keeps theirs.

    Args:
        **defaults: the arguments of :func:`generate` that theirs does not have: ``transport``,
            ``require_routed_experts``, ``num_layers``, ``top_k``.

    Raises:
        ImportError: renderers is not installed.
        TypeError: an argument that is none of these.
    """
    unknown = defaults.keys() - {"transport", "require_routed_experts", "num_layers", "top_k"}
    if unknown:
        raise TypeError(f"install() takes no {', '.join(sorted(unknown))}")
    module = _client_module()
    _theirs()  # the original is remembered before it is replaced
    replacement = functools.partial(generate, **defaults)
    functools.update_wrapper(replacement, generate)
    return Installed(module, replacement)


def ensure_installed() -> None:
    """Install once, for good, unless it is installed."""
    current = _client_module().generate
    if getattr(current, "func", current) is not generate:
        install()


async def generate(
    *,
    client: Any,
    renderer: Any,
    messages: list[Any],
    model: str,
    prompt_ids: list[int] | None = None,
    multi_modal_data: Any = None,
    prompt_attribution: Any = None,
    tools: list[Any] | None = None,
    sampling_params: dict[str, Any] | None = None,
    cache_salt: str | None = None,
    priority: int | None = None,
    extra_headers: dict[str, str] | None = None,
    max_prompt_len: int | None = None,
    process_multimodal: bool = True,
    transport: RendererTransport | None = None,
    require_routed_experts: bool = False,
    num_layers: int | None = None,
    top_k: int | None = None,
) -> dict[str, Any]:
    """``renderers.client.generate``: the same arguments, result and errors, over any server of this library.

    Args:
        client: an ``AsyncOpenAI``, whose connections, headers, timeouts and retries are used; or an
            :class:`dynamo_tito.AsyncTitoClient`, whose requests are sampled at most once.
        renderer: a renderer of theirs.
        messages: the conversation.
        model: the model's name.
        prompt_ids: as for theirs, like all arguments up to ``process_multimodal``.
        multi_modal_data: likewise.
        prompt_attribution: likewise.
        tools: likewise.
        sampling_params: likewise.
        cache_salt: likewise.
        priority: likewise.
        extra_headers: likewise.
        max_prompt_len: likewise.
        process_multimodal: likewise.
        transport: the route; None is that of an ``AsyncTitoClient``, else ``"vllm_generate"``.
        require_routed_experts: refuse an answer without one row for each position.
        num_layers: to read SGLang's routed experts, whose shape is not sent.
        top_k: likewise.

    Returns:
        The dictionary of the installed version. ``routed_experts`` is ``{"data", "shape", "start", "dtype"}``, ``data``
        base64 text, also from servers that send another form.

    Raises:
        renderers.MalformedGenerateResponseError: an answer that is refused. Where theirs refuses it too the message is
            theirs; a note has this library's reason.
        renderers.client.OverlongPromptError: the prompt is too long; nothing was sent.
        openai.OpenAIError: the server answered with an error, or no answer came.
    """
    rendered = None
    if prompt_ids is None and _supported(renderer, tools, process_multimodal=process_multimodal):
        how = {} if process_multimodal else {"process_multimodal": False}
        rendered = renderer.render(messages, tools=tools, add_generation_prompt=True, **how)
        prompt_ids, multi_modal_data, prompt_attribution = rendered.token_ids, rendered.multi_modal_data, rendered
    route = transport or "vllm_generate"
    if isinstance(client, AsyncTitoClient):
        decoding = decoding_of(client)
        route = transport or client.transport
        require_routed_experts = require_routed_experts or decoding.require_routed_experts
        num_layers, top_k = num_layers or decoding.num_layers, top_k or decoding.top_k
    ask = functools.partial(
        _theirs(),
        renderer=renderer,
        messages=messages,
        model=model,
        prompt_ids=prompt_ids,
        multi_modal_data=multi_modal_data,
        prompt_attribution=prompt_attribution,
        tools=tools,
        sampling_params=sampling_params,
        cache_salt=cache_salt,
        priority=priority,
        extra_headers=extra_headers,
        max_prompt_len=max_prompt_len,
        process_multimodal=process_multimodal,
    )
    prepared = await _prepared(ask, client)
    sent = await send(client, prepared, route, routed_experts=num_layers is not None and top_k is not None)
    reading = functools.partial(
        read,
        sent.body,
        prepared,
        sent.spec.wire,
        start=sent.start,
        require_routed_experts=require_routed_experts,
        num_layers=num_layers,
        top_k=top_k,
        strict_ids=_has_arrays(),
    )
    try:
        large = len(sent.body) >= _THREAD_FROM_BYTES
        answer = await in_thread(reading) if large else reading()
    except RefusedError as refusal:
        raise await _as_theirs(ask, client, bytes(sent.body), refusal, explained=route == "vllm_generate") from refusal
    return _result(answer, prepared, renderer, tools, multi_modal_data, prompt_attribution)


def _result(
    answer: Answer, prepared: Prepared, renderer: Any, tools: list[Any] | None, pictures: Any, attribution: Any
) -> dict[str, Any]:
    completion = answer.completion
    completion_ids = completion.token_ids.tolist()
    prompt_ids = prepared.prompt_ids if answer.prompt_ids is None else answer.prompt_ids
    parsed = renderer.parse_response(completion_ids, prompt_ids=list(prompt_ids), tools=tools)
    finish = answer.finish_reason
    called = framework("renderers.base", extra="renderers").ToolCallParseStatus.OK
    if finish == "stop" and any(call.status == called for call in parsed.tool_calls):
        finish = "tool_calls"
    top_ids, top_logprobs = answer.head or (None, None)
    arrays = _has_arrays()
    return {
        "request_id": completion.request_id or "",
        "usage": completion.usage,
        "prompt_ids": list(prompt_ids),
        "renderer_prompt_ids": list(prepared.prompt_ids) if prepared.expands else None,
        "mm_placeholders": answer.mm_placeholders,
        "completion_ids": completion_ids,
        "completion_logprobs": answer.logprobs(as_array=arrays),
        **({"completion_top_ids": top_ids, "completion_top_logprobs": top_logprobs} if arrays else {}),
        "content": parsed.content,
        "reasoning_content": parsed.reasoning_content,
        "tool_calls": parsed.tool_calls,
        "finish_reason": finish,
        "reasoning_complete": parsed.reasoning_complete,
        "routed_experts": answer.routed_experts,
        "sampling_mask": answer.sampling_mask(packed=arrays),
        **({"weight_versions": completion.weight_versions} if arrays else {}),
        "multi_modal_data": pictures,
        "prompt_attribution": attribution,
    }


async def _prepared(ask: Generate, client: Any) -> Prepared:
    """What their ``generate`` would send. It ends where it sends."""
    recorder = Recorder(client)
    try:
        await ask(client=recorder)
    except Prepared.Reached as reached:
        return reached.prepared
    raise RuntimeError(f"renderers {_version()} sends its request another way: it cannot be replaced")


async def _as_theirs(ask: Generate, client: Any, body: bytes, refusal: RefusedError, *, explained: bool) -> Exception:
    """The error that their ``generate`` raises for this answer; for one that it takes, theirs with our reason."""
    if explained:
        try:
            await ask(client=_Answering(client, body))
        except Exception as error:  # noqa: BLE001 - whatever theirs raises is what their callers expect
            error.add_note(f"dynamo-tito: {refusal}")
            return error
    malformed: type[Exception] = framework("renderers", extra="renderers").MalformedGenerateResponseError
    return malformed(str(refusal))


class _Answering(Recorder):
    """A client that has the answer already."""

    def __init__(self, client: Any, body: bytes) -> None:
        super().__init__(client)
        self._body = body

    async def post(self, path: str, *, cast_to: Any, body: Any = None, options: Any = None) -> Any:  # noqa: ARG002 - theirs
        return SimpleNamespace(content=self._body)


def _supported(renderer: Any, tools: list[Any] | None, *, process_multimodal: bool) -> bool:
    """Whether theirs will not refuse the call before it renders."""
    return (not tools or getattr(renderer, "supports_tools", True)) and (
        process_multimodal or getattr(renderer, "supports_process_multimodal", False)
    )


def _client_module() -> Any:
    return framework("renderers.client", extra="renderers")


@functools.cache
def _theirs() -> Generate:
    original: Generate = _client_module().generate
    return original


@functools.cache
def _version() -> str:
    return importlib.metadata.version("renderers")


@functools.cache
def _has_arrays() -> bool:
    """Whether log-probabilities are float32 arrays, and heads and weight versions are part of the result: 0.1.13."""
    return tuple(int(part) for part in _version().split(".")[:3]) >= (0, 1, 13)
