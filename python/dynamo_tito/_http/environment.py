"""Certificates and proxies of the environment, the same for every engine."""

from __future__ import annotations

import ssl
import urllib.request
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

from dynamo_tito._http.secrets import masked

Tls: TypeAlias = ssl.SSLContext | Literal["verify", "insecure"]
"""A context, or whether the server's certificate is verified."""


def checked_tls(tls: Tls) -> Tls:
    """The argument of that name; ValueError for anything else."""
    if not isinstance(tls, ssl.SSLContext) and tls not in ("verify", "insecure"):
        raise ValueError(f"tls must be 'verify', 'insecure' or an ssl.SSLContext, not {tls!r}")
    return tls


def tls_context(tls: Tls) -> ssl.SSLContext:
    """The context for a library. ``"verify"`` trusts what the system trusts, or SSL_CERT_FILE and SSL_CERT_DIR name."""
    if isinstance(tls, ssl.SSLContext):
        return tls
    context = ssl.create_default_context()
    if tls == "insecure":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def proxy_for(url: str) -> str | None:
    """The proxy that ``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` name for ``url``, or None.

    Raises:
        ValueError: it is no http or https URL.
    """
    parts = urlsplit(url)
    proxies = urllib.request.getproxies_environment()
    if urllib.request.proxy_bypass(parts.netloc):
        return None
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if proxy and "://" not in proxy:
        proxy = f"http://{proxy}"
    if not proxy:
        return None
    if not _is_http(proxy):
        raise ValueError(
            f"the environment's proxy must be an http or https URL, not {masked(proxy)!r}; trust_env=False ignores it"
        )
    return proxy


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
