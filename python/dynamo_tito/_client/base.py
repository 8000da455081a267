"""What both clients have in common: their arguments and properties."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any, NoReturn, Unpack

from dynamo_tito._config import CONNECT_TIMEOUT, MAX_CONCURRENCY, HttpLibrary, Limits, RendererTransport, RetryPolicy
from dynamo_tito._http.base import Wiring
from dynamo_tito._http.endpoint import make_endpoint
from dynamo_tito._http.environment import checked_tls, proxy_for
from dynamo_tito._http.secrets import secrets_of_url
from dynamo_tito._logprobs_report import logprobs_checks
from dynamo_tito._routing_report import routing_checks

from .caller import Caller
from .deadline import checked_seconds
from .decoding import Decoding
from .options import CLIENT
from .refused import Keeper

if TYPE_CHECKING:
    from .options import ClientOptions

_SPARE_DESCRIPTORS = 128
"""File descriptors that are left to the rest of the process."""


class BaseClient:
    """What both clients have in common."""

    @CLIENT.shown_by
    def __init__(
        self,
        base_url: str,
        *,
        model: str | None,
        transport: RendererTransport = "vllm_generate",
        **options: Unpack[ClientOptions],
    ) -> None:
        given = CLIENT.complete(type(self), options)
        endpoint = make_endpoint(
            base_url, api_key=given["api_key"], headers=given["headers"], compression=given["compression"]
        )
        proxy = proxy_for(endpoint.root) if given["trust_env"] else None
        endpoint = dataclasses.replace(endpoint, secrets=(*endpoint.secrets, *secrets_of_url(proxy)))
        given["limits"] = limits = _limits(given["limits"], given["max_response_bytes"])
        given["strict_routing"] = routing_checks(given["strict_routing"])
        given["strict_logprobs"] = logprobs_checks(given["strict_logprobs"])
        retries = given["retries"]
        if not isinstance(retries, RetryPolicy | None):
            raise TypeError(f"retries must be a RetryPolicy or None, not {retries!r}")
        self._caller = Caller(
            endpoint,
            model=model,
            transport=transport,
            retries=RetryPolicy(attempts=1) if retries is None else retries,
            preflight=given["preflight"],
            sampling_defaults=given["sampling_defaults"],
            decoding=Decoding(**{field.name: given[field.name] for field in dataclasses.fields(Decoding)}),
            keeper=None if given["save_refused"] is None else Keeper(given["save_refused"], endpoint.secrets),
        )
        self._timeout = checked_seconds("timeout", given["timeout"])
        connect = checked_seconds("connect_timeout", given["connect_timeout"])
        if given["max_concurrency"] < 1:
            raise ValueError("max_concurrency must be at least 1")
        self._concurrency = min(given["max_concurrency"], _free_descriptors())
        if given["thread_from_bytes"] < 1:
            raise ValueError("thread_from_bytes must be at least 1")
        self._thread_from_bytes: int = given["thread_from_bytes"]
        self._process = os.getpid()
        self._closed = False
        wiring = Wiring(
            limits=limits,
            connect_timeout=CONNECT_TIMEOUT if connect is None else connect,
            proxy=proxy,
            trust=checked_tls(given["tls"]),
            secrets=endpoint.secrets,
        )
        self._reach = {
            "tls": given["tls"],
            "trust_env": given["trust_env"],
            "connect_timeout": wiring.connect_timeout,
        }
        self._open(given["http"], given["http_client"], wiring)

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
            # Two processes on one connection read each other's answers.
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
