"""The clients: steps that do no I/O, and the two drivers that carry them out."""

from .driver_async import AsyncTitoClient, ClientOptions, TitoClient, connect

__all__ = ["AsyncTitoClient", "ClientOptions", "TitoClient", "connect"]
