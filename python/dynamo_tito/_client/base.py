"""What both clients have in common: their arguments, checked, and what becomes of them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from dynamo_tito._config import (
    CONNECT_TIMEOUT,
    DEFAULT_TIMEOUT,
    MAX_CONCURRENCY,
    THREAD_FROM_BYTES,
    HttpLibrary,
    Limits,
    RendererTransport,
    RetryPolicy,
    SamplingDefaults,
)
from dynamo_tito._http.base import Wiring
from dynamo_tito._http.endpoint import make_endpoint
from dynamo_tito._http.environment import Tls, proxy_for, tls_context
from dynamo_tito._http.secrets import secrets_of_url
from dynamo_tito._logprobs_report import logprobs_checks
from dynamo_tito._routing_report import routing_checks

from .caller import Caller
from .deadline import checked_seconds
from .generate import Decoding

if TYPE_CHECKING:
    from dynamo_tito._logprobs_report import LogprobsChecks
    from dynamo_tito._routing_report import RoutingChecks
    from dynamo_tito._types import ExpertsMode, FinalRow, MissingLogprob
    from dynamo_tito.control import HttpOptions

_SPARE_DESCRIPTORS = 128
"""File descriptors that are left to the rest of the process."""


class BaseClient:
    """What both clients have in common."""

    def __init__(
        self,
        base_url: str,
        *,
        model: str | None,
        transport: RendererTransport = "vllm_generate",
        http: HttpLibrary = "httpx",
        http_client: Any = None,
        timeout: float | None = DEFAULT_TIMEOUT,
        connect_timeout: float = CONNECT_TIMEOUT,
        max_concurrency: int = MAX_CONCURRENCY,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        retries: RetryPolicy | None = RetryPolicy(),  # noqa: B008 - frozen
        preflight: bool = True,
        sampling_defaults: SamplingDefaults = "neutral",
        num_layers: int | None = None,
        top_k: int | None = None,
        experts: ExpertsMode = "int32",
        missing_logprob: MissingLogprob = "raise",
        require_routed_experts: bool = False,
        final_row: FinalRow = "omitted",
        strict_routing: bool | RoutingChecks = False,
        strict_logprobs: bool | LogprobsChecks = False,
        limits: Limits | None = None,
        max_response_bytes: int | None = None,
        thread_from_bytes: int = THREAD_FROM_BYTES,
        compression: bool = False,
        tls: Tls = "verify",
        trust_env: bool = True,
    ) -> None:
        endpoint = make_endpoint(base_url, api_key=api_key, headers=headers, compression=compression)
        proxy = proxy_for(endpoint.root) if trust_env else None
        endpoint = dataclasses.replace(endpoint, secrets=(*endpoint.secrets, *secrets_of_url(proxy)))
        ceilings = _limits(limits, max_response_bytes)
        if not isinstance(retries, RetryPolicy | None):
            raise TypeError(f"retries must be a RetryPolicy or None, not {retries!r}")
        self._caller = Caller(
            endpoint,
            model=model,
            transport=transport,
            retries=RetryPolicy(attempts=1) if retries is None else retries,
            preflight=preflight,
            sampling_defaults=sampling_defaults,
            decoding=Decoding(
                num_layers,
                top_k,
                experts,
                missing_logprob,
                require_routed_experts,
                final_row,
                routing_checks(strict_routing),
                logprobs_checks(strict_logprobs),
                ceilings,
            ),
        )
        self._timeout = checked_seconds("timeout", timeout)
        connect = checked_seconds("connect_timeout", connect_timeout)
        if max_concurrency < 1:
            raise ValueError("max_concurrency must be at least 1")
        self._concurrency = min(max_concurrency, _free_descriptors())
        if thread_from_bytes < 1:
            raise ValueError("thread_from_bytes must be at least 1")
        self._thread_from_bytes = thread_from_bytes
        self._process = os.getpid()
        self._closed = False
        wiring = Wiring(
            limits=ceilings,
            connect_timeout=CONNECT_TIMEOUT if connect is None else connect,
            tls=tls_context(tls, endpoint.root, proxy),
            proxy=proxy,
            secrets=endpoint.secrets,
        )
        self._reach: HttpOptions = {"tls": tls, "trust_env": trust_env, "connect_timeout": wiring.connect_timeout}
        self._open(http, http_client, wiring)

    def _open(self, http: HttpLibrary, client: Any, wiring: Wiring) -> None:
        raise NotImplementedError

    @property
    def base_url(self) -> str:
        """The server's root, without credentials and without ``/v1``."""
        return self._caller.endpoint.root

    @property
    def model(self) -> str | None:
        """The model that is asked for."""
        return self._caller.model

    @property
    def transport(self) -> RendererTransport:
        """The route of calls that name none."""
        return self._caller.transport

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_url!r}, model={self.model!r}, transport={self.transport!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} cannot be pickled or copied: a client stays in its process, with its connections; "
            "send its arguments, and make a client where it is used"
        )

    def _check_usable(self) -> None:
        if self._closed:
            raise RuntimeError("the client is closed")
        if os.getpid() != self._process:
            # Two processes on one connection would read each other's answers.
            raise RuntimeError("the client was made in another process; make one after the fork")

    def _allowed(self, deadline: float | None) -> float | None:
        return self._timeout if deadline is None else checked_seconds("deadline", deadline)


def _limits(limits: Limits | None, max_response_bytes: int | None) -> Limits:
    if max_response_bytes is None:
        limits = Limits() if limits is None else limits
        if not isinstance(limits, Limits):
            raise TypeError(f"limits must be a Limits, not {type(limits).__name__}")
        return limits
    if limits is not None:
        raise ValueError("max_response_bytes is one of limits: give one of the two")
    return Limits(max_response_bytes=max_response_bytes, max_decompressed_bytes=max_response_bytes)


def _free_descriptors() -> int:
    try:
        import resource  # noqa: PLC0415 - Windows has none
    except ImportError:
        return MAX_CONCURRENCY
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONCURRENCY**2 if soft == resource.RLIM_INFINITY else max(soft - _SPARE_DESCRIPTORS, 1)
