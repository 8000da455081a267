"""The clients: steps that do no I/O, and what carries them out, twice.

=================  ====================================================================================
``steps``          what a call may ask its driver for: send, decode, wait, take a turn
``caller``         one server: preflight, sending, retries, decoding
``decoding``       how an answer is decoded
``generate``       one completion
``streaming``      what has come of a streamed one, and when
``abort``          ending a request on the server
``own``            which requests are this client's
``score``          log-probabilities of given tokens
``watch``          sees the steps of a call pass: counters, answers that are refused
``refused``        answers that were refused, on disk
``text``           ``/tokenize`` and ``/detokenize``
``retry``          what is sent again, when, how often
``preflight``      what ``/v1/models`` says of a model
``server_errors``  the error that an answer is
``deadline``       time limits, asynchronous and blocking
``options``        the keywords of the clients and of their methods
``whole``          the answer of a call as bytes, for `integrations`
``base``           what both clients have in common
``run_async``      carries steps out on an event loop
``run_sync``       carries them out on the calling thread
``stream_async``   :class:`AsyncTitoStream`
``stream_sync``    :class:`TitoStream`
``stream_state``   what both streams have in common
``driver_async``   :class:`AsyncTitoClient`, :func:`connect`
``driver_sync``    :class:`TitoClient`
=================  ====================================================================================
"""

from .driver_async import AsyncTitoClient, connect
from .driver_sync import TitoClient
from .options import ClientOptions, GenerateOptions, ScoreOptions, StreamOptions
from .refused import replay
from .stream_async import AsyncTitoStream
from .stream_sync import TitoStream

__all__ = [
    "AsyncTitoClient",
    "AsyncTitoStream",
    "ClientOptions",
    "GenerateOptions",
    "ScoreOptions",
    "StreamOptions",
    "TitoClient",
    "TitoStream",
    "connect",
    "replay",
]
