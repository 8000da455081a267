"""A server's address without credentials, and the headers of every request, checked."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from .secrets import secrets_of, secrets_of_url

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")

JSON = "application/json"
EVENTS = "text/event-stream, application/json"

USER_AGENT = "dynamo-tito"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server.

    Attributes:
        root: its address without credentials, without a trailing slash, and without ``/v1``.
        headers: sent with every request, names in lower case.
        secrets: what no message shows.
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
    parts = _split(base_url)
    host = _host(parts)
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    merged = {
        "accept": JSON,
        "accept-encoding": "gzip, deflate" if compression else "identity",
        "content-type": JSON,
        "user-agent": USER_AGENT,
    }
    if parts.username is not None:
        token = base64.b64encode(f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()).decode()
        merged["authorization"] = f"Basic {token}"
    if api_key is not None:
        if not isinstance(api_key, str):
            raise TypeError(f"api_key must be a string, not {type(api_key).__name__}")
        _check_key(api_key)
        merged["authorization"] = f"Bearer {api_key}"
    merged.update(checked_headers(headers))
    _check("authorization", merged.get("authorization", ""))
    secrets = (*secrets_of_url(base_url), *((api_key,) if api_key else ()), *secrets_of(merged))
    return Endpoint(urlunsplit((parts.scheme.lower(), host, path, "", "")), merged, tuple(dict.fromkeys(secrets)))


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


def _bare(url: str) -> str:
    """A URL that is refused, without anything that may be a credential, however it is spelt."""
    return re.sub(r"(?<=//).*@", "***@", re.split("[?#]", url, maxsplit=1)[0], flags=re.DOTALL)


def _split(base_url: str) -> SplitResult:
    try:
        return urlsplit(base_url.strip())
    except ValueError:
        # What urllib says may show the credentials.
        raise ValueError(f"base_url is no URL: {_bare(base_url)!r}") from None


def _host(parts: SplitResult) -> str:
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
        raise ValueError(f"base_url must be an absolute http or https URL, not {_bare(parts.geturl())!r}")
    if parts.query or parts.fragment:
        raise ValueError(f"base_url must end with its path: {_bare(parts.geturl())!r}")
    if "@" in parts.path:
        raise ValueError("base_url has an @ after its host: in credentials and paths, write / as %2F and @ as %40")
    try:
        port = parts.port
    except ValueError:
        # It may be the beginning of a password with a slash in it.
        raise ValueError("base_url has a port that is no number between 0 and 65535") from None
    name = parts.hostname
    if not name.isascii():
        name = name.encode("idna").decode()
    if ":" in name:
        name = f"[{name}]"
    return name if port is None else f"{name}:{port}"


def _check_key(api_key: str) -> None:
    """As for any header's value; names the argument, and never shows the key."""
    if not api_key:
        raise ValueError("api_key cannot be sent: it is empty (None for no key)")
    if api_key != api_key.strip():
        raise ValueError("api_key cannot be sent: it begins or ends with white space (strip it)")
    for position, character in enumerate(api_key):
        if not _HEADER_VALUE.fullmatch(character):
            what = "a control character" if ord(character) < 0xA0 else "not Latin-1"
            raise ValueError(f"api_key cannot be sent: character {position} is {what}")


def _check(name: str, value: str) -> None:
    if not _HEADER_VALUE.fullmatch(value) or value != value.strip():
        raise ValueError(f"the value of header {name!r} holds characters that cannot be sent")
