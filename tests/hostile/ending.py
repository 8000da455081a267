"""A process that ends while daemon threads decode; ``test_processes`` runs it.

Its argument says what else is going on: ``plain``, ``large``, ``out``, ``errors``, ``body``, ``atexit``, ``finalizer``.
"""

from __future__ import annotations

import atexit
import sys
import threading
from typing import Any

import numpy as np

import dynamo_tito as tito
from support.bodies import DIALECTS
from support.samples import invent
from support.small import GENERATE
from support.writing import compact

THREADS = 8
KEPT: list[Any] = []


def whole(how: str) -> bytes:
    if how in ("plain", "atexit", "finalizer"):
        return GENERATE
    sample = invent(31, prompt=512, completion=512, layers=24, top_k=8)
    return compact(DIALECTS["prime_generate"].build([sample], "object"))


def decode(how: str, body: bytes, out: np.ndarray[Any, Any]) -> object:
    if how == "errors":
        try:
            return tito.decode(body[:-1], wire="vllm_generate")
        except tito.MalformedBodyError as error:
            return error
    if how == "body":
        growing = tito.Body()
        growing.append(body)
        return tito.decode(growing, wire="vllm_generate")
    return tito.decode(body, wire="vllm_generate", experts_out=out if how == "out" else None)


class Late:
    """Decodes when the interpreter throws it away."""

    def __init__(self, body: bytes) -> None:
        self.body, self.decode = body, tito.decode

    def __del__(self) -> None:
        self.decode(self.body, wire="vllm_generate")


def main(how: str) -> None:
    body = whole(how)
    begun = [threading.Event() for _ in range(THREADS)]

    def work(number: int) -> None:
        out = np.empty(24 * 8 * 1024, np.int32)
        while True:
            held = decode(how, body, out)
            begun[number].set()
            del held

    KEPT.append(decode("large", whole("large"), np.empty(0, np.int32)))
    if how == "atexit":
        atexit.register(decode, how, body, np.empty(0, np.int32))
    if how == "finalizer":
        KEPT.append(Late(body))
    for number in range(THREADS):
        threading.Thread(target=work, args=(number,), daemon=True).start()
    for event in begun:
        event.wait()


if __name__ == "__main__":
    main(sys.argv[1])
