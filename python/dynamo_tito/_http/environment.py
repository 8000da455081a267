"""Certificates and proxies of the environment, the same for every HTTP library."""

from __future__ import annotations

import os
import ssl
import urllib.request
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

import certifi

from dynamo_tito._http.secrets import masked

Tls: TypeAlias = ssl.SSLContext | Literal["verify", "insecure"]
"""A context, or whether the server's certificate is verified."""


def tls_context(tls: Tls, *urls: str | None) -> ssl.SSLContext:
    """The context for connections to ``urls``.

    ``"verify"`` trusts what the system trusts and, unless ``SSL_CERT_FILE`` or ``SSL_CERT_DIR`` say what to trust,
    Mozilla's roots too, because slim images have none. Without an https URL no certificates are read (40 ms).
    """
    if isinstance(tls, ssl.SSLContext):
        return tls
    if tls not in ("verify", "insecure"):
        raise ValueError(f"tls must be 'verify', 'insecure' or an ssl.SSLContext, not {tls!r}")
    if not any(url and url.startswith("https:") for url in urls):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context = ssl.create_default_context()
    if tls == "insecure":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif not names_its_own_roots():
        context.load_verify_locations(certifi.where())
    return context


def names_its_own_roots() -> bool:
    """Whether the environment says whom to trust."""
    return bool(os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR"))


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
