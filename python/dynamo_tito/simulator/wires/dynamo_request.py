"""The requests that Dynamo's frontend accepts and refuses, with its messages, as recorded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dynamo_tito.simulator.calls import Ask, EngineError
from dynamo_tito.simulator.config import EngineConfig
from dynamo_tito.simulator.tokenizer import Tokenizer

from .dynamo_upload import read_upload, refuse_upload
from .serde import Kind, check, check_known, deserialize_error, end_of, parse

__all__ = ["Streaming", "Wanted", "read_chat", "read_completions", "read_generate", "read_native"]

PROMPT_START = "routed_experts_prompt_start"

NVEXT = (
    "greed_sampling", "use_raw_prompt", "annotations", "backend_instance_id", "token_data", "max_thinking_tokens",
    "cache_salt", "extra_fields", "metadata_upload", "prefill_worker_id", "decode_worker_id", "dp_rank",
    "prefill_dp_rank", "agent_hints", "request_timestamp_ms", "routing_constraints", "router",
)  # fmt: skip
AGENT_HINTS = ("priority", "strict_priority", "osl", "speculative_prefill", "latency_sensitivity")
# Asking for a worker that does not exist.
PINNING = ("backend_instance_id", "decode_worker_id", "dp_rank")


def _all(kind: Kind | None, names: str) -> dict[str, Kind | None]:
    return dict.fromkeys(names.split(), kind)


_SHARED: dict[str, Kind | None] = {
    **_all("a string", "model cache_salt user"),
    **_all(
        "a boolean",
        "stream ignore_eos skip_special_tokens include_stop_str_in_output return_tokens_as_token_ids detokenize",
    ),
    **_all("a sequence", "stop_token_ids allowed_token_ids bad_words_token_ids logprob_token_ids"),
    **_all("a map", "stream_options logit_bias"),
    **_all("f32", "temperature top_p min_p repetition_penalty presence_penalty frequency_penalty"),
    **_all("u32", "max_tokens min_tokens prompt_logprobs"),
    **_all("i32", "top_k"),
    **_all("i64", "seed"),
    **_all("u8", "n"),
    **_all(None, "stop metadata guided_json guided_regex guided_choice guided_grammar nvext"),
}
CHAT: dict[str, Kind | None] = {
    **_SHARED,
    **_all("a boolean", "logprobs store add_generation_prompt continue_final_message parallel_tool_calls"),
    **_all("a sequence", "messages tools"),
    **_all("a map", "chat_template_kwargs chat_template_args"),
    **_all("u32", "max_completion_tokens thinking_token_budget"),
    **_all("u8", "top_logprobs"),
    **_all(None, "response_format service_tier tool_choice reasoning_effort mm_processor_kwargs media_io_kwargs"),
}
COMPLETIONS: dict[str, Kind | None] = {
    **_SHARED,
    **_all("u8", "logprobs best_of"),
    **_all("a boolean", "echo"),
    **_all(None, "prompt suffix prompt_embeds"),
}
_SAMPLING: dict[str, Kind | None] = {
    **_all("u32", "max_tokens min_tokens n"),
    **_all("i32", "logprobs prompt_logprobs"),
    **_all("i64", "seed"),
}
_GENERATE: dict[str, Kind | None] = {
    **_all("a string", "model cache_salt request_id"),
    **_all("i32", "priority"),
    **_all("a boolean", "stream"),
}
_NVEXT = {**_all("a sequence", "token_data extra_fields annotations"), **_all("a string", "cache_salt")}
# Where null is not the same as absent.
_NOT_NULL = frozenset(("stream", "model", "messages"))


@dataclass(frozen=True, slots=True)
class Streaming:
    """What a stream says beside its tokens."""

    #: The counts in a last chunk; in each chunk.
    usage: bool
    continuous: bool
    #: The prompt as text, ahead of all.
    prompt: str | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request that the frontend has accepted."""

    asks: list[Ask]
    extra_fields: frozenset[str]
    #: Alternatives per sampled token; None: no log-probabilities.
    logprobs: int | None
    prompt_logprobs: int | None
    start: int
    #: How to stream; None: the answer is whole.
    stream: Streaming | None = None
    #: Chat's `top_logprobs` of 0: entries without alternatives.
    hide_alternatives: bool = False
    #: What a generation artifact is asked to have; None: none is.
    artifact: frozenset[str] | None = None


def read_chat(body: bytes, config: EngineConfig, tokenizer: Tokenizer) -> Wanted:
    """A chat request.

    Raises:
        EngineError: as the frontend refuses it.
    """
    document = _document(body, "NvCreateChatCompletionRequest")
    nvext, start = _nvext(document, body, config)
    _types(document, CHAT, body, required=("messages", "model"))
    _unsupported(document, CHAT, config)
    if not document["messages"]:
        raise _invalid("The 'messages' field cannot be empty. At least one message is required.")
    if document.get("tools") == []:
        raise _invalid("tools array cannot be empty; omit the field entirely to disable tool use")
    top = document.get("top_logprobs")
    if top is not None and top > 20:
        raise _invalid(f"Top_logprobs must be between 0 and 20, got {top}")
    _ranges(document, config)
    fields = frozenset(nvext.get("extra_fields") or ())
    _check_named(fields, document.get("n") or 1)
    prompt = nvext.get("token_data")
    if prompt is None:
        prompt = tokenizer.apply_chat_template(document["messages"])
    limit = document.get("max_completion_tokens")
    ask = _ask(document, prompt, document.get("max_tokens") if limit is None else limit, config)
    logprobs = max(1, 1 if top is None else top) if document.get("logprobs") else None
    artifact = read_upload(nvext, body, config)
    refuse_upload(artifact, document, [ask], logprobs, config)
    return Wanted(
        [ask],
        fields,
        logprobs,
        document.get("prompt_logprobs"),
        start,
        _streaming(document, nvext, tokenizer),
        hide_alternatives=top == 0,
        artifact=artifact,
    )


def read_completions(body: bytes, config: EngineConfig, tokenizer: Tokenizer) -> Wanted:
    """A completions request; several prompts are as many asks.

    Raises:
        EngineError: as the frontend refuses it.
    """
    document = _document(body, "NvCreateCompletionRequest")
    nvext, start = _nvext(document, body, config)
    _types(document, COMPLETIONS, body, required=("prompt", "model"))
    for name in ("add_generation_prompt", "continue_final_message"):
        if name in document:
            both = "`add_generation_prompt` and `continue_final_message`"
            raise _invalid(f"{both} are only supported on /v1/chat/completions")
    _unsupported(document, COMPLETIONS, config)
    prompts = _prompts(document["prompt"], body, tokenizer)
    fields = frozenset(nvext.get("extra_fields") or ())
    _check_named(fields, len(prompts) * (document.get("n") or 1))
    _ranges(document, config)
    asks = [_ask(document, prompt, document.get("max_tokens"), config) for prompt in prompts]
    prompt_logprobs = document.get("prompt_logprobs")
    if document.get("echo") and prompt_logprobs is None:
        prompt_logprobs = document.get("logprobs")
    logprobs, artifact = document.get("logprobs"), read_upload(nvext, body, config)
    refuse_upload(artifact, document, asks, logprobs, config)
    stream = _streaming(document, nvext, None)
    return Wanted(asks, fields, logprobs, prompt_logprobs, start, stream, artifact=artifact)


def read_native(body: bytes) -> dict[str, Any]:
    """A request of SGLang's /generate, which the frontend hardly reads.

    Raises:
        EngineError: as the frontend refuses it.
    """
    document = _document(body, "SglangGenerateRequest")
    if "input_ids" not in document:
        raise deserialize_error("missing field `input_ids`", len(body))
    _token_ids(document["input_ids"], body, "input_ids")
    if ((document.get("sampling_params") or {}).get("n") or 1) != 1:
        raise EngineError(400, "sampling_params.n must be 1; parallel sampling is not supported.")
    return document


def read_generate(body: bytes, config: EngineConfig) -> Wanted:
    """A request of /inference/v1/generate.

    Raises:
        EngineError: as the frontend refuses it, or the worker behind it.
    """
    document = _document(body, "GenerateRequest")
    params = _generate_types(document, body)
    if not document["token_ids"]:
        raise EngineError(400, "token_ids must contain at least one token ID.")
    if params.get("max_tokens") == 0:
        raise EngineError(400, "sampling_params.max_tokens must be greater than 0.")
    if document.get("stream"):
        if params.get("prompt_logprobs") is not None:
            raise EngineError(400, "sampling_params.prompt_logprobs are not available when stream=true.")
        raise EngineError(501, "streaming (stream=true) is not implemented for /inference/v1/generate yet")
    if document.get("model") not in (None, config.model):
        raise EngineError(404, f"Model not found: {document['model']}")
    # The checks from here on are those of the worker, whose messages the frontend redacts.
    start = params.get(PROMPT_START, 0)
    if type(start) is not int or not 0 <= start < len(document["token_ids"]):
        raise EngineError(400, "")
    ask = Ask(
        document["token_ids"],
        params.get("max_tokens"),
        n=params.get("n") or 1,
        seed=params.get("seed"),
        stop_token_ids=params.get("stop_token_ids") or (),
        ignore_eos=bool(params.get("ignore_eos")),
        min_tokens=params.get("min_tokens") or 0,
    )
    return Wanted([ask], frozenset(), _count(params.get("logprobs")), _count(params.get("prompt_logprobs")), start)


def _generate_types(document: dict[str, Any], body: bytes) -> dict[str, Any]:
    """The sampling parameters, when everything in the document has its type."""
    for name, value in document.items():
        kind = _GENERATE.get(name)
        if name == "token_ids":
            _token_ids(value, body)
        elif kind and (value is not None or name in ("stream", "priority")) and (problem := check(value, kind)):
            raise deserialize_error(f"{name}: {problem}", end_of(body, name))
    for name in ("token_ids", "sampling_params"):
        if name not in document:
            raise deserialize_error(f"missing field `{name}`", len(body))
    params = document["sampling_params"]
    if not isinstance(params, dict):
        raise deserialize_error("sampling_params: expected a map", len(body))
    for name, kind in _SAMPLING.items():
        if kind and params.get(name) is not None and (problem := check(params[name], kind)):
            raise deserialize_error(f"sampling_params: sampling_params.{name}: {problem}", len(body))
    return params


def _count(value: int | None) -> int | None:
    """-1 is the whole vocabulary, which this engine cuts to eight."""
    return 8 if value is not None and value < 0 else value


def _document(body: bytes, struct: str) -> dict[str, Any]:
    document = parse(body)
    if not isinstance(document, dict):
        kind = "sequence" if isinstance(document, list) else "scalar"
        raise deserialize_error(f"invalid type: {kind}, expected struct {struct}", 0)
    return document


def _nvext(document: dict[str, Any], body: bytes, config: EngineConfig) -> tuple[dict[str, Any], int]:
    """The extension and the start that trims routed experts."""
    nvext = document.get("nvext")
    if nvext is None:
        return {}, 0
    known = NVEXT if config.prompt_start == "refuse" else (*NVEXT, PROMPT_START)
    if unknown := check_known(nvext, known):
        raise deserialize_error(unknown[1], end_of(body, "nvext", unknown[0], key=True))
    for name, kind in _NVEXT.items():
        if kind and nvext.get(name) is not None and (problem := check(nvext[name], kind)):
            raise deserialize_error(problem, end_of(body, "nvext", name))
    _each(nvext.get("token_data"), "u32", body, "nvext", "token_data")
    _each(nvext.get("extra_fields"), "a string", body, "nvext", "extra_fields")
    hints = nvext.get("agent_hints") or {}
    if unknown := check_known(hints, AGENT_HINTS):
        raise deserialize_error(unknown[1], end_of(body, "nvext", "agent_hints", unknown[0], key=True))
    if hints.get("priority") is not None and (problem := check(hints["priority"], "i32")):
        raise deserialize_error(problem, end_of(body, "nvext", "agent_hints", "priority"))
    if any(nvext.get(name) is not None for name in PINNING):
        raise EngineError(400, "")
    start = nvext.get(PROMPT_START)
    # The worker resets what it cannot use.
    trims = config.prompt_start == "trim" and type(start) is int and start >= 0
    return nvext, start if trims else 0


def _each(values: list[Any] | None, kind: Kind, body: bytes, *path: str) -> None:
    if values is None or (
        kind == "u32" and all(type(value) is int for value in values) and min(values, default=0) >= 0
    ):
        return
    for number, value in enumerate(values):
        if problem := check(value, kind):
            raise deserialize_error(problem, end_of(body, *path, number))


def _token_ids(values: Any, body: bytes, name: str = "token_ids") -> None:
    if problem := check(values, "a sequence"):
        raise deserialize_error(f"{name}: {problem}", end_of(body, name))
    if all(type(value) is int for value in values) and max(values, default=0) < 2**32 and min(values, default=0) >= 0:
        return
    for number, value in enumerate(values):
        if problem := check(value, "u32"):
            raise deserialize_error(f"{name}[{number}]: {problem}", end_of(body, name, number))


def _types(document: dict[str, Any], fields: dict[str, Kind | None], body: bytes, *, required: tuple[str, ...]) -> None:
    # The frontend reads these from a flattened struct: serde reports the end of the body.
    for name, value in document.items():
        kind = fields.get(name)
        if kind is not None and (value is not None or name in _NOT_NULL) and (problem := check(value, kind)):
            raise deserialize_error(problem, len(body))
    for name in required:
        if name not in document:
            raise deserialize_error(f"missing field `{name}`", len(body))


def _unsupported(document: dict[str, Any], fields: dict[str, Kind | None], config: EngineConfig) -> None:
    unknown = sorted(name for name in document if name not in fields)
    if unknown and not config.ignore_unsupported_fields:
        raise _invalid(f"Unsupported parameter(s): {', '.join(f'`{name}`' for name in unknown)}")


def _ranges(document: dict[str, Any], config: EngineConfig) -> None:
    n, temperature = document.get("n"), document.get("temperature")
    if n is not None and not 1 <= n <= 128:
        raise _invalid(f"n must be between 1 and 128, got {n}")
    if temperature is not None and not 0 <= temperature <= 2:
        raise _invalid(f"Temperature must be between 0 and 2, got {temperature:g}")
    for name in ("max_completion_tokens", "max_tokens"):
        if document.get(name) == 0:
            raise _invalid(f"Max tokens must be greater than 0, got {document[name]}")
    if document.get("stream_options") is not None and not document.get("stream"):
        raise _invalid("The 'stream_options' field is only allowed when 'stream' is set to true.")
    if document["model"] != config.model:
        raise EngineError(404, "Model not found")


def _streaming(document: dict[str, Any], nvext: dict[str, Any], tokenizer: Tokenizer | None) -> Streaming | None:
    if not document.get("stream"):
        return None
    options = document.get("stream_options") or {}
    text = None
    if tokenizer is not None and "formatted_prompt" in (nvext.get("annotations") or ()):
        text = tokenizer.decode(tokenizer.apply_chat_template(document["messages"]))
    include = bool(options.get("include_usage"))
    return Streaming(include, include and bool(options.get("continuous_usage_stats")), text)


def _prompts(prompt: Any, body: bytes, tokenizer: Tokenizer) -> list[list[int]]:
    if isinstance(prompt, str):
        return [tokenizer.encode(prompt)]
    if prompt == []:
        raise _invalid("Prompt string array cannot be empty")
    if isinstance(prompt, list):
        if all(isinstance(part, str) for part in prompt):
            return [tokenizer.encode(part) for part in prompt]
        if _all_ids(prompt):
            return [prompt]
        if all(isinstance(part, list) and _all_ids(part) for part in prompt):
            return prompt
    raise deserialize_error("data did not match any variant of untagged enum Prompt", len(body))


def _all_ids(values: list[Any]) -> bool:
    return all(type(value) is int for value in values) and min(values, default=0) >= 0


def _ask(document: dict[str, Any], prompt: list[int], limit: int | None, config: EngineConfig) -> Ask:
    if max(prompt, default=0) >= config.vocab_size:
        raise EngineError(400, "")
    ignore_eos = bool(document.get("ignore_eos"))
    return Ask(
        prompt,
        limit,
        n=document.get("n") or 1,
        seed=document.get("seed"),
        # On these routes the frontend forgets the caller's stop tokens along with the model's.
        stop_token_ids=() if ignore_eos else document.get("stop_token_ids") or (),
        ignore_eos=ignore_eos,
        min_tokens=document.get("min_tokens") or 0,
    )


def _check_named(fields: frozenset[str], choices: int) -> None:
    if "completion_token_ids" in fields and choices > 1:
        raise _invalid('`nvext.extra_fields=["completion_token_ids"]` requires exactly one generated choice')


def _invalid(message: str) -> EngineError:
    return EngineError(400, f"Validation: {message}")
