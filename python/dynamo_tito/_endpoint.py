"""Where a server is and how we introduce ourselves: addresses without credentials, headers without surprises."""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_USERINFO = re.compile(r"(?<=//)[^/\s'\"]+@")
_SECRET_NAME = re.compile("auth|key|token|secret|password|cookie|credential|signature", re.IGNORECASE)
_QUERY = re.compile(r"(?<=[?&])([^=&#\s'\"]+)=([^&#\s'\"]+)")
# So much of a secret is worth hiding by itself: what repeats it may break off in its middle.
_TELLING = 8

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
    parts = _split(base_url)
    host = _host(parts)
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    merged = {
        "accept": "application/json",
        "accept-encoding": "gzip, deflate" if compression else "identity",
        "content-type": "application/json",
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


def secrets_of(headers: Mapping[str, str]) -> tuple[str, ...]:
    """What of these headers must never be shown: the values whose names sound like it, without their scheme."""
    values = [value for name, value in headers.items() if _SECRET_NAME.search(name)]
    return tuple(secret for value in values if (secret := value.rpartition(" ")[2]))


def secrets_of_url(url: str | None) -> tuple[str, ...]:
    """The password in a URL, and the header that it becomes."""
    parts = urlsplit((url or "").strip())
    if parts.username is None:
        return ()
    name, password = unquote(parts.username), unquote(parts.password or "")
    token = base64.b64encode(f"{name}:{password}".encode()).decode()
    return tuple(secret for secret in (token, parts.password, password) if secret)


def hidden(text: str, secrets: Iterable[str]) -> str:
    """``text`` without these secrets, or the beginning of one, as they are and as JSON and URLs spell them."""
    spellings = {
        spelling
        for secret in secrets
        for spelling in (secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], quote(secret))
    }
    for secret in sorted(spellings, key=len, reverse=True):
        beginning = secret[:_TELLING]
        pieces, at = [], 0
        while (found := text.find(beginning, at)) >= 0:
            pieces += [text[at:found], "***"]
            same = itertools.takewhile(
                lambda pair: pair[0] == pair[1], zip(secret, text[found : found + len(secret)], strict=False)
            )
            at = found + sum(1 for _ in same)
        text = "".join([*pieces, text[at:]])
    return text


def masked(text: str) -> str:
    """``text`` without the credentials of URLs in it."""
    return _QUERY.sub(_without_value, _USERINFO.sub("***@", text))


def _without_value(member: re.Match[str]) -> str:
    return f"{member[1]}=***" if _SECRET_NAME.search(member[1]) else member[0]


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
        raise ValueError("base_url has an @ behind its host: in credentials and paths, write / as %2F and @ as %40")
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
