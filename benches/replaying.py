"""A server in a process of its own that answers as another one did before, late: ``python -m benches.replaying``.

The first request of its kind goes to the server behind it. Each later one that is the same, byte for byte, gets the
same answer after a while, which differs from request to request as that of a loaded engine does.
"""

from __future__ import annotations

import asyncio
import random
import sys
from contextlib import AbstractContextManager
from urllib.parse import urlsplit

from benches.serving import every_descriptor, running, whole

_SPREAD = 0.5


def replayed(url: str, delay: float) -> AbstractContextManager[str]:
    """The address of a server of the answers of ``url``, each after 0.5 to 1.5 times ``delay`` seconds."""
    return running("benches.replaying", url, delay)


class _Replay(asyncio.Protocol):
    def __init__(self, url: str, delay: float, known: dict[bytes, bytes]) -> None:
        self._address, self._delay, self._known = urlsplit(url), delay, known
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not whole(self._received):
            return
        request = bytes(self._received)
        self._received.clear()
        if (answer := self._known.get(request)) is None:
            self._asking = asyncio.ensure_future(self._ask(request))
            return
        wait = self._delay * random.uniform(1 - _SPREAD, 1 + _SPREAD)
        asyncio.get_running_loop().call_later(wait, self._transport.write, answer)

    async def _ask(self, request: bytes) -> None:
        reader, writer = await asyncio.open_connection(self._address.hostname, self._address.port)
        writer.write(request)
        answer = b""
        while not whole(answer) and (data := await reader.read(1 << 20)):
            answer += data
        writer.close()
        self._known[request] = answer
        self._transport.write(answer)


async def _main(url: str, delay: float) -> None:
    every_descriptor()
    known: dict[bytes, bytes] = {}
    server = await asyncio.get_running_loop().create_server(lambda: _Replay(url, delay, known), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], float(sys.argv[2])))
