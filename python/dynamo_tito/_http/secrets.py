"""Credentials are masked in everything that is shown: messages, representations, logs."""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote, unquote, urlsplit

_USERINFO = re.compile(r"(?<=//)[^/\s'\"]+@")
_SECRET_NAME = re.compile("auth|key|token|secret|password|cookie|credential|signature", re.IGNORECASE)
_QUERY = re.compile(r"(?<=[?&])([^=&#\s'\"]+)=([^&#\s'\"]+)")
# A text may repeat a secret and be cut inside it: this many characters are masked even without the rest.
_PREFIX = 8


def secrets_of(headers: Mapping[str, str]) -> tuple[str, ...]:
    """The secret values of these headers, chosen by their names, without their scheme (``Bearer``)."""
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
    """``text`` with these secrets masked, and cut ones, in plain, JSON and URL spelling."""
    spellings = {
        spelling
        for secret in secrets
        for spelling in (secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], quote(secret))
    }
    for secret in sorted(spellings, key=len, reverse=True):
        beginning = secret[:_PREFIX]
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
