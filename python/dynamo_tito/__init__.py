"""Decode the token-in/token-out responses of NVIDIA Dynamo, vLLM and SGLang into numpy arrays.

>>> import dynamo_tito as tito
>>> completion = tito.decode(body, wire="vllm_generate", prompt_len=prompt_len)  # doctest: +SKIP
>>> completion.token_ids, completion.logprobs, completion.routed_experts.array  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._engine_info import (
    CachedTokens,
    CacheHit,
    EngineInfo,
    RequestMetrics,
    RequestTiming,
    SpeculativeDecoding,
    WorkerIds,
)
from ._errors import (
    AdminError,
    AlignmentError,
    BadRequestError,
    DecodeError,
    DriftError,
    EngineError,
    MalformedBodyError,
    MissingFieldError,
    NotFoundError,
    OverloadedError,
    OverlongPromptError,
    RoutedExpertsError,
    ServerError,
    TitoError,
    TransportError,
    UnauthorizedError,
    UnsupportedParameterError,
    UnsupportedRouteError,
)
from ._native import (
    Body,
    StreamDecoder,
    build_info,
    configure_memory,
    decode,
    decode_artifact,
    decode_choices,
    decode_prompt_logprobs,
    divergence,
    encode_routed_experts,
    encode_token_ids,
    memory_stats,
    trim_memory,
)
from ._types import (
    Completion,
    Divergence,
    IndexerTopk,
    PromptLogprobs,
    RoutedExperts,
    SamplingMask,
    StreamDelta,
    Timing,
    TopLogprobs,
    Wire,
)

if TYPE_CHECKING:
    from ._client import (
        AsyncTitoClient,
        AsyncTitoStream,
        ClientOptions,
        GenerateOptions,
        ScoreOptions,
        StreamOptions,
        TitoClient,
        TitoStream,
        connect,
        replay,
    )
    from ._config import Limits, RendererTransport, RetryPolicy, SamplingDefaults
    from ._detect import detect_wire
    from ._http.base import (
        AsyncHttpEngine,
        AsyncStreamingHttpEngine,
        Exchange,
        HttpEngine,
        HttpRequest,
        HttpResponse,
        StreamingHttpEngine,
    )
    from ._http.mock import MockTransport
    from ._logprobs_report import LogprobsChecks, LogprobsReport, logprobs_report
    from ._requests import encode_request
    from .rollout.batch import SampleBatch
    from .telemetry import Instrumentation, instrument
    from .viewer import Page, view

__all__ = [
    "AdminError",
    "AlignmentError",
    "AsyncHttpEngine",
    "AsyncStreamingHttpEngine",
    "AsyncTitoClient",
    "AsyncTitoStream",
    "BadRequestError",
    "Body",
    "CacheHit",
    "CachedTokens",
    "ClientOptions",
    "Completion",
    "DecodeError",
    "Divergence",
    "DriftError",
    "EngineError",
    "EngineInfo",
    "Exchange",
    "GenerateOptions",
    "HttpEngine",
    "HttpRequest",
    "HttpResponse",
    "IndexerTopk",
    "Instrumentation",
    "Limits",
    "LogprobsChecks",
    "LogprobsReport",
    "MalformedBodyError",
    "MissingFieldError",
    "MockTransport",
    "NotFoundError",
    "OverloadedError",
    "OverlongPromptError",
    "Page",
    "PromptLogprobs",
    "RendererTransport",
    "RequestMetrics",
    "RequestTiming",
    "RetryPolicy",
    "RoutedExperts",
    "RoutedExpertsError",
    "SampleBatch",
    "SamplingDefaults",
    "SamplingMask",
    "ScoreOptions",
    "ServerError",
    "SpeculativeDecoding",
    "StreamDecoder",
    "StreamDelta",
    "StreamOptions",
    "StreamingHttpEngine",
    "Timing",
    "TitoClient",
    "TitoError",
    "TitoStream",
    "TopLogprobs",
    "TransportError",
    "UnauthorizedError",
    "UnsupportedParameterError",
    "UnsupportedRouteError",
    "Wire",
    "WorkerIds",
    "__version__",
    "build_info",
    "configure_memory",
    "connect",
    "decode",
    "decode_artifact",
    "decode_choices",
    "decode_prompt_logprobs",
    "detect_wire",
    "divergence",
    "encode_request",
    "encode_routed_experts",
    "encode_token_ids",
    "instrument",
    "logprobs_report",
    "memory_stats",
    "replay",
    "trim_memory",
    "view",
]

__version__ = build_info()["version"]

# Public names that cost an import of their own, and the submodule that defines each. They load on first use, so that
# importing the package stays cheap. A name here also stands in __all__ and, for type checkers, under TYPE_CHECKING.
_LAZY: dict[str, str] = {
    "AsyncHttpEngine": "_http.base",
    "AsyncStreamingHttpEngine": "_http.base",
    "AsyncTitoClient": "_client",
    "AsyncTitoStream": "_client",
    "ClientOptions": "_client",
    "Exchange": "_http.base",
    "GenerateOptions": "_client",
    "HttpEngine": "_http.base",
    "HttpRequest": "_http.base",
    "HttpResponse": "_http.base",
    "Instrumentation": "telemetry",
    "Limits": "_config",
    "LogprobsChecks": "_logprobs_report",
    "LogprobsReport": "_logprobs_report",
    "MockTransport": "_http.mock",
    "Page": "viewer",
    "RendererTransport": "_config",
    "RetryPolicy": "_config",
    "SampleBatch": "rollout.batch",
    "SamplingDefaults": "_config",
    "ScoreOptions": "_client",
    "StreamOptions": "_client",
    "StreamingHttpEngine": "_http.base",
    "TitoClient": "_client",
    "TitoStream": "_client",
    "connect": "_client",
    "detect_wire": "_detect",
    "encode_request": "_requests",
    "instrument": "telemetry",
    "logprobs_report": "_logprobs_report",
    "replay": "_client",
    "view": "viewer",
}


def __getattr__(name: str) -> Any:
    submodule = _LAZY.get(name)
    if submodule is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = _public(getattr(import_module(f".{submodule}", __name__), name))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(globals().keys() | _LAZY.keys())


def _public(value: Any) -> Any:
    """Tracebacks, documentation and pickles show the public address of a class, not the file it happens to be in."""
    if isinstance(value, type):
        value.__module__ = __name__
    return value


for _name in set(__all__) - _LAZY.keys():
    _public(globals()[_name])
del _name
