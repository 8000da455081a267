"""What has come of one streamed answer, and when."""

from __future__ import annotations

import dataclasses
import threading
import time
from array import array
from typing import TYPE_CHECKING

import numpy as np

from dynamo_tito._types import Timing

if TYPE_CHECKING:
    from dynamo_tito._native import StreamDecoder
    from dynamo_tito._types import Completion, StreamDelta

    from .decoding import Reading


class StreamReading:
    """The decoder of one stream, and the times at which its tokens came.

    A feed may run on a thread while the call is given up, so that each use of the decoder, and of the times, waits for
    the one before.
    """

    def __init__(self, reading: Reading, *, deltas: bool) -> None:
        self._reading = reading
        self._decoder: StreamDecoder | None = reading.decoder(deltas=deltas)
        self._completion: Completion | None = None
        self._lock = threading.Lock()
        self._began = self._now = time.monotonic()
        self._line = 0
        self._counts = array("q")
        self._arrivals = array("d")
        self.received = 0
        """Bytes that came."""
        self.done = False
        """Whether ``[DONE]`` was read."""

    def begins(self) -> None:
        """The request is about to be sent."""
        self._began = time.monotonic()

    def arrived(self, chunk: bytes | bytearray) -> int:
        """Note that a chunk came; the bytes that are decoded when it is fed, which are none within a long line."""
        self._now = time.monotonic()
        size = len(chunk)
        self.received += size
        rest = size - 1 - max(chunk.rfind(b"\n"), chunk.rfind(b"\r"))
        self._line += size
        if rest == size:
            return 0
        decoded, self._line = self._line, rest
        return decoded

    def feed(self, chunk: bytes | bytearray) -> StreamDelta | None:
        """The new tokens of a chunk, if any."""
        with self._lock:
            decoder = self._held
            delta = decoder.feed(chunk)
            tokens, self.done = decoder.tokens, decoder.done
            if tokens and (not self._counts or tokens != self._counts[-1]):
                self._counts.append(tokens)
                self._arrivals.append(self._now - self._began)
        return delta

    def finish(self) -> Completion:
        """The completion, once the stream has ended."""
        with self._lock:
            self._completion = self._timed(self._held.finish())
            return self._completion

    def abandon(self) -> Completion:
        """What is whole of it so far."""
        with self._lock:
            return self._completion or self._timed(self._held.abandon())

    def close(self) -> None:
        """Let go of the decoder."""
        self._decoder = None

    @property
    def _held(self) -> StreamDecoder:
        assert self._decoder is not None  # noqa: S101 - closed only by who uses it last
        return self._decoder

    def _timed(self, completion: Completion) -> Completion:
        count = len(completion.token_ids)
        arrivals = np.repeat(np.asarray(self._arrivals), np.diff(np.asarray(self._counts), prepend=0))[:count]
        if len(arrivals) < count:
            # The last event named tokens that the ones before it did not.
            arrivals = np.concatenate([arrivals, np.full(count - len(arrivals), self._now - self._began)])
        return dataclasses.replace(self._reading.checked(completion), timing=Timing(arrivals))
