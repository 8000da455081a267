"""What no client can do without: bytes are received into memory that is reused, and decoded, without an event loop."""

from __future__ import annotations

import select
import socket
import time
from typing import Any

import dynamo_tito as tito
from benches import cases
from benches.cases import CASES
from benches.transport_clients import MIDDLE

_ROOM = 1 << 18


def limit(url: str, at_once: int, responses: int) -> tuple[float, float]:
    """Responses/s, and CPU ms of each."""
    case, size = CASES[MIDDLE], len(cases.body(MIDDLE))
    host, port = url.removeprefix("http://").split(":")
    request = f"POST /{MIDDLE}/x HTTP/1.1\r\nhost: {host}\r\ncontent-length: 2\r\n\r\n{{}}".encode()
    connections = [socket.create_connection((host, int(port))) for _ in range(at_once)]
    poll = select.epoll()
    received: dict[int, tuple[socket.socket, list[Any]]] = {}

    def ask(connection: socket.socket) -> None:
        connection.settimeout(None)
        connection.sendall(request)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += connection.recv(1)
        connection.settimeout(0)
        body = tito.Body(size)
        spare = body.spare(size)
        received[connection.fileno()] = (connection, [body, spare, memoryview(spare), 0])

    def run(count: int) -> None:
        left = count
        for connection in connections:
            ask(connection)
            poll.register(connection, select.EPOLLIN)
            left -= 1
        done = 0
        while done < count:
            for number, _ in poll.poll():
                connection, state = received[number]
                body, room, view, at = state
                state[3] = at = at + connection.recv_into(view[at : at + _ROOM])
                if at < size:
                    continue
                view.release()
                room.filled(size)
                tito.decode(body, wire=case.wire, prompt_len=case.prompt, routed_experts_prompt_start=case.prompt)
                body.close()
                done += 1
                if left > 0:
                    left -= 1
                    ask(connection)
                else:
                    poll.unregister(connection)

    run(at_once)
    begin, cpu = time.perf_counter(), time.process_time()
    run(responses)
    took, cpu = time.perf_counter() - begin, time.process_time() - cpu
    for connection in connections:
        connection.close()
    return responses / took, cpu / responses * 1e3
