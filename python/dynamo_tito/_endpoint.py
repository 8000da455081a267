"""Where a server is and how we introduce ourselves: addresses without credentials, headers without surprises."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_USERINFO = re.compile(r"(?<=//)[^/@\s'\"]+@")

USER_AGENT = "dynamo-tito"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server.

    Attributes:
        root: its address without credentials, without a trailing slash, and without ``/v1``.
        headers: sent with every request, names in lower case.
        secrets: what must never be shown.
    """

    root: str
    headers: Mapping[str, str] = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)


def make_endpoint(
    base_url: str, *, api_key: str | None = None, headers: Mapping[str, str] | None = None, compression: bool = False
) -> Endpoint:
    """Read a base URL, with or without ``/v1``; credentials in it become a header.

    Raises:
        TypeError: something that is no string.
        ValueError: no absolute http or https URL, or a header that cannot be sent.
    """
    if not isinstance(base_url, str):
        raise TypeError(f"base_url must be a string, not {type(base_url).__name__}")
    parts = urlsplit(base_url.strip())
    host = _host(parts)
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    merged = {
        "accept": "application/json",
        "accept-encoding": "gzip, deflate" if compression else "identity",
        "content-type": "application/json",
        "user-agent": USER_AGENT,
    }
    secrets: list[str] = []
    if parts.username is not None:
        password = unquote(parts.password or "")
        token = base64.b64encode(f"{unquote(parts.username)}:{password}".encode()).decode()
        merged["authorization"] = f"Basic {token}"
        secrets += [token, password]
    if api_key is not None:
        if not isinstance(api_key, str):
            raise TypeError(f"api_key must be a string, not {type(api_key).__name__}")
        merged["authorization"] = f"Bearer {api_key}"
        secrets.append(api_key)
    given = checked_headers(headers)
    merged.update(given)
    secrets += [value for name, value in given.items() if "authorization" in name or "key" in name or "token" in name]
    _check("authorization", merged.get("authorization", ""))
    shown = tuple(secret for secret in secrets if secret)
    return Endpoint(urlunsplit((parts.scheme.lower(), host, path, "", "")), merged, shown)


def checked_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """Headers with lower-case names. What cannot be sent is a ValueError that does not show the value."""
    checked = {}
    for name, value in (headers or {}).items():
        if not all(isinstance(part, str) for part in (name, value)):
            raise TypeError(f"headers must map strings to strings, {name!r} does not")
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no header name")
        _check(name, value)
        checked[name.lower()] = value
    return checked


def masked(text: str) -> str:
    """``text`` without the credentials of URLs in it."""
    return _USERINFO.sub("***@", text)


def _host(parts: SplitResult) -> str:
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
        raise ValueError(f"base_url must be an absolute http or https URL, not {masked(parts.geturl())!r}")
    if parts.query or parts.fragment:
        raise ValueError(f"base_url must end with its path: {masked(parts.geturl())!r}")
    try:
        port = parts.port
    except ValueError as error:
        raise ValueError(f"base_url: {error}") from None
    name = parts.hostname
    if not name.isascii():
        name = name.encode("idna").decode()
    if ":" in name:
        name = f"[{name}]"
    return name if port is None else f"{name}:{port}"


def _check(name: str, value: str) -> None:
    if not _HEADER_VALUE.fullmatch(value) or value != value.strip():
        raise ValueError(f"the value of header {name!r} holds characters that cannot be sent")
