"""The clients: steps that do no I/O, and the two drivers that carry them out.

=================  ====================================================================================
``steps``          what a call may ask its driver for: send, decode, wait, take a turn
``caller``         one server: preflight, sending, retries, decoding
``decoding``       how an answer is decoded
``generate``       one completion
``score``          log-probabilities of given tokens
``text``           ``/tokenize`` and ``/detokenize``
``retry``          what is sent again, when, how often
``preflight``      what ``/v1/models`` says of a model
``server_errors``  the error that an answer is
``deadline``       time limits, asynchronous and blocking
``options``        the keywords of the clients and of their methods
``base``           what both clients have in common
``driver_async``   :class:`AsyncTitoClient`, :func:`connect`
``driver_sync``    :class:`TitoClient`
=================  ====================================================================================
"""

from .driver_async import AsyncTitoClient, connect
from .driver_sync import TitoClient
from .options import ClientOptions, GenerateOptions, ScoreOptions

__all__ = ["AsyncTitoClient", "ClientOptions", "GenerateOptions", "ScoreOptions", "TitoClient", "connect"]
