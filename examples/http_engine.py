"""A client over an HTTP engine of one's own: here `http.client` of the standard library.

    python examples/http_engine.py

The engine sends one request and returns one whole answer, or hands over a stream as it comes. The client does the
rest: retries, deadlines, decoding.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import dynamo_tito as tito
from dynamo_tito import simulator


class StandardLibraryEngine:
    """One connection per request, without TLS."""

    def send(self, exchange: tito.Exchange) -> tito.HttpResponse:
        """Send once; see :class:`dynamo_tito.HttpEngine`."""
        with answered(exchange) as response:
            chunks = iter(lambda: response.read(1 << 20), b"")
            return exchange.receive(response.status, dict(response.getheaders()), chunks)

    def stream(self, exchange: tito.Exchange) -> Generator[bytes, None, None]:
        """Send once and yield what comes; see :class:`dynamo_tito.StreamingHttpEngine`."""
        with answered(exchange) as response:
            yield exchange.begin(response.status, dict(response.getheaders()))
            while chunk := response.read1():
                yield chunk

    def close(self) -> None:
        """Nothing stays open between requests."""


@contextmanager
def answered(exchange: tito.Exchange) -> Iterator[http.client.HTTPResponse]:
    """An answer whose headers are there. The connection is closed in the end; what breaks is a TransportError."""
    request, url = exchange.request, urlsplit(exchange.request.url)
    left = None if exchange.deadline is None else max(exchange.deadline - time.monotonic(), 0.001)
    connection = http.client.HTTPConnection(url.netloc, timeout=left)
    try:
        connection.connect()
        exchange.phase = "send"
        connection.request(request.method, url.path, request.content, dict(request.headers))
        exchange.phase = "headers"
        yield connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        raise tito.TransportError(f"{type(error).__name__}: {error}", phase=exchange.phase) from None
    finally:
        connection.close()


def main() -> None:
    engine: tito.StreamingHttpEngine = StandardLibraryEngine()
    with (
        simulator.running(backend="vllm") as server,
        tito.TitoClient(server.url, model="tito-model", http_client=engine) as client,
    ):
        completion = client.generate([1, 2, 3], sampling_params={"max_tokens": 8})
        print(f"{len(completion.token_ids)} tokens, {completion.finish_reason}: {completion.token_ids.tolist()}")
        with client.stream([1, 2, 3], sampling_params={"max_tokens": 8}) as stream:
            print("as they come:", [delta.token_ids.tolist() for delta in stream])


if __name__ == "__main__":
    main()
