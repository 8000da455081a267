"""One call, checked (Call), and the request body that a route makes of it (Draft)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypedDict, Unpack, get_args

import numpy as np
from numpy.typing import NDArray

from dynamo_tito._config import ArtifactMode, SamplingDefaults

PromptIds: TypeAlias = NDArray[np.integer[Any]] | Sequence[int]
"""Token ids of a prompt: a list, or an array of integers [P]."""

_SALT_LENGTH = 128
_SALT_FORBIDDEN = "@/\\\0"
_INT32_MAX = 2**31 - 1
_ARTIFACTS = get_args(ArtifactMode)
_SAMPLING_DEFAULTS = get_args(SamplingDefaults)


class SharedOptions(TypedDict, total=False):
    """Arguments of sampling and scoring beside model and prompt; see :class:`GenerateOptions`."""

    cache_salt: str | None
    priority: int | None
    extra_body: Mapping[str, Any] | None
    session_id: str | None
    data_parallel_rank: int | None


class CallOptions(SharedOptions, total=False):
    """Arguments of sampling beside model and prompt; see :class:`GenerateOptions`."""

    sampling_params: Mapping[str, Any] | None
    stop_token_ids: Sequence[int]
    routed_experts_prompt_start: int | None
    features: Mapping[str, Any] | None
    request_id: str | None
    artifact: ArtifactMode | None


@dataclass(frozen=True, slots=True)
class Call:
    """The arguments of :meth:`AsyncTitoClient.generate`, the same for every route.

    Attributes:
        prompt: the ids, as the core encodes them: a list, or a contiguous int32 or int64 array [P].
    """

    model: str | None
    prompt: list[int] | NDArray[np.int32] | NDArray[np.int64]
    sampling_params: Mapping[str, Any] = field(default_factory=dict)
    stop_token_ids: Sequence[int] = ()
    cache_salt: str | None = None
    priority: int | None = None
    routed_experts_prompt_start: int | None = None
    features: Mapping[str, Any] | None = None
    extra_body: Mapping[str, Any] | None = None
    session_id: str | None = None
    data_parallel_rank: int | None = None
    request_id: str | None = None
    artifact: ArtifactMode | None = None
    routed_experts: bool = False
    sampling_defaults: SamplingDefaults = "neutral"
    stream: bool = False

    @property
    def prompt_len(self) -> int:
        """P, the tokens of the prompt."""
        return len(self.prompt)


@dataclass(slots=True)
class Draft:
    """A request body before the ids are written into it, and the options that decode its answer.

    Attributes:
        members: the body without the ids.
        ids_at: where the ids belong, from the outermost key to the innermost.
        logprobs: how many log-probabilities per token were asked for; 0 for none.
        prompt_start: the first position whose routed experts are wanted; 0 for all.
        choices: how many samples were asked for.
        model: the model that is asked for.
        adapter_member: where the body names the model if it is an adapter; None where it names every model.
    """

    members: dict[str, Any]
    ids_at: tuple[str, ...]
    logprobs: int
    prompt_start: int
    choices: int = 1
    model: str | None = None
    adapter_member: str | None = None


def make_call(
    prompt_ids: PromptIds,
    *,
    model: str | None,
    routed_experts: bool = False,
    sampling_defaults: SamplingDefaults = "neutral",
    stream: bool = False,
    ids_name: str = "prompt_ids",
    **options: Unpack[CallOptions],
) -> Call:
    """Check the arguments that are the same on every route; ``ids_name`` is what the caller calls the ids."""
    for name in ("sampling_params", "extra_body", "features"):
        value = options.get(name)
        if value is not None and not isinstance(value, Mapping):
            raise TypeError(f"{name} must be a mapping, not {type(value).__name__}")
    check_sampling_defaults(sampling_defaults)
    artifact = options.get("artifact")
    if artifact is not None and artifact not in _ARTIFACTS:
        raise ValueError(f"artifact must be one of {', '.join(_ARTIFACTS)} or None, not {artifact!r}")
    rank = options.get("data_parallel_rank")
    if rank is not None and checked_integer("data_parallel_rank", rank) < 0:
        raise ValueError("data_parallel_rank must be at least 0")
    members: dict[str, Any] = {
        **options,
        "sampling_params": options.get("sampling_params") or {},
        "stop_token_ids": tuple(_token_id("stop_token_ids", token) for token in options.get("stop_token_ids", ())),
    }
    return Call(
        model=model,
        prompt=_prompt(ids_name, prompt_ids),
        routed_experts=routed_experts,
        sampling_defaults=sampling_defaults,
        stream=stream,
        **members,
    )


def check_sampling_defaults(value: SamplingDefaults) -> None:
    """Raise a ValueError if ``value`` is none of the choices."""
    if value not in _SAMPLING_DEFAULTS:
        raise ValueError(f"sampling_defaults must be one of {', '.join(_SAMPLING_DEFAULTS)}, not {value!r}")


def checked_integer(name: str, value: Any) -> int:
    """``value`` as an int; TypeError for bools and floats."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, not {type(value).__name__}")
    return int(value)


def checked_salt(salt: Any) -> str:
    r"""A cache salt that every server takes.

    vLLM refuses the empty one, more than 128 characters, and any of ``@ / \\ NUL``.
    """
    if not isinstance(salt, str):
        raise TypeError(f"cache_salt must be a string, not {type(salt).__name__}")
    if not 1 <= len(salt) <= _SALT_LENGTH:
        raise ValueError(f"cache_salt must have 1 to {_SALT_LENGTH} characters, this one has {len(salt)}")
    for character in _SALT_FORBIDDEN:
        if character in salt:
            raise ValueError(f"cache_salt must not contain {character!r}")
    return salt


def checked_start(start: Any, prompt_len: int) -> int:
    """The first position whose routed experts are wanted, within the prompt or right after it; None is 0."""
    if start is None:
        return 0
    position = checked_integer("routed_experts_prompt_start", start)
    if not 0 <= position <= prompt_len:
        raise ValueError(f"routed_experts_prompt_start is {position}, the prompt has {prompt_len} tokens")
    return position


def wire_start(call: Call, start: int) -> int:
    """The start that is sent for ``start``: at most the prompt's last position.

    vLLM allows a start right after the prompt, Dynamo refuses it on its generate route, and refuses an answer without
    rows on the others. The one row more is dropped when the answer is read.
    """
    return min(start, max(call.prompt_len - 1, 0))


def stop_ids(call: Call, listed: Any) -> list[int]:
    """The stop ids of the sampling parameters, then those of the argument, each once."""
    return list(dict.fromkeys([*(listed or ()), *call.stop_token_ids]))


def take_logprobs(fields: dict[str, Any]) -> int:
    """Remove ``logprobs`` (and OpenAI's ``top_logprobs``); the number per token that is wanted.

    Absent is 1, that of the sampled token, which training needs. 0, None and False are 0.
    """
    wanted = fields.pop("logprobs", 1)
    top = fields.pop("top_logprobs", None)
    if wanted is None or wanted is False:
        return 0
    if wanted is True:
        return max(1, checked_integer("top_logprobs", top)) if top is not None else 1
    count = checked_integer("logprobs", wanted)
    if top is not None and count:
        count = max(count, checked_integer("top_logprobs", top))
    return count


def take(*sources: dict[str, Any], key: str) -> Any:
    """Remove ``key`` from every source; the first value that is not None."""
    first = None
    for source in sources:
        value = source.pop(key, None)
        if first is None:
            first = value
    return first


def refuse(fields: Mapping[str, Any], *keys: str, why: str) -> None:
    """Raise a ValueError if one of ``keys`` is given."""
    for key in keys:
        if fields.get(key) is not None:
            raise ValueError(f"{key} cannot be given: {why}")


def take_stream(call: Call, fields: dict[str, Any]) -> dict[str, Any]:
    """Remove ``stream`` and, of a stream, ``stream_options``; the members of the body that ask for what is wanted.

    A stream without ``include_usage`` brings no counts.
    """
    if fields.pop("stream", None):
        raise ValueError("stream cannot be given here: it is an argument of generate, and stream() is a method")
    if not call.stream:
        return {"stream": False}
    return {"stream": True, "stream_options": {"include_usage": True, **(fields.pop("stream_options", None) or {})}}


def refuse_unstreamed(call: Call, transport: str, **asked: Any) -> None:
    """Of a stream, refuse to ask for what the route's streams do not bring."""
    for name, value in asked.items():
        if call.stream and value is not None:
            raise ValueError(f"{name} cannot be given: a stream of {transport} brings none; give stream=False")


def refuse_streams(call: Call, transport: str, why: str) -> None:
    """On a route whose streams are not read, refuse to ask for one."""
    if call.stream:
        raise ValueError(f"{transport} cannot be streamed: {why}")


def refuse_artifact(call: Call, transport: str) -> None:
    """Generation artifacts come on Dynamo's OpenAI routes only; elsewhere the server ignores the question."""
    if call.artifact is not None:
        raise NotImplementedError(
            f"{transport} sends no artifact; use transport='dynamo_chat' or 'dynamo_completions', which do"
        )


def refuse_features(call: Call, transport: str) -> None:
    """Raise a ValueError for multimodal features, which only one route has."""
    if call.features is not None:
        raise NotImplementedError(
            f"{transport} carries no multimodal features; use transport='vllm_generate', which does"
        )


def _prompt(name: str, ids: Any) -> list[int] | NDArray[np.int32] | NDArray[np.int64]:
    if isinstance(ids, list):
        prompt: list[int] | NDArray[Any] = ids
    elif hasattr(ids, "__array__"):
        prompt = _array(name, np.asarray(ids))
    elif isinstance(ids, Sequence) and not isinstance(ids, (str, bytes, bytearray, memoryview)):
        prompt = list(ids)
    else:
        raise TypeError(f"{name} must be a list or an integer array, not {type(ids).__name__}")
    if len(prompt) == 0:
        raise ValueError(f"{name} is empty")
    return prompt


def _array(name: str, ids: NDArray[Any]) -> NDArray[Any]:
    if ids.ndim != 1:
        raise ValueError(f"{name} must have one dimension, not {ids.ndim}")
    if ids.dtype.kind not in "iu":
        raise TypeError(f"{name} must hold integers, not {ids.dtype}")
    if ids.dtype in (np.dtype(np.int32), np.dtype(np.int64)):
        return np.ascontiguousarray(ids)
    if ids.dtype == np.uint64 and ids.size and ids.max() > _INT32_MAX:
        raise ValueError(f"{name}: {ids.max()} is not a token id, the largest is {_INT32_MAX}")
    return ids.astype(np.int64)


def _token_id(name: str, value: Any) -> int:
    token = checked_integer(name, value)
    if not 0 <= token <= _INT32_MAX:
        raise ValueError(f"{name}: {token} is not a token id")
    return token
