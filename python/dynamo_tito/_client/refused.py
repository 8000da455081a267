"""Answers that were refused, on disk: kept by ``save_refused``, read again by :func:`replay`."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from dynamo_tito._config import Limits
from dynamo_tito._http.secrets import hidden, secrets_of
from dynamo_tito._log import logger
from dynamo_tito._native import Body, StreamDecoder, decode_prompt_logprobs
from dynamo_tito._requests import check_scored_at

from .decoding import check_strictly, decode_whole

if TYPE_CHECKING:
    from dynamo_tito._errors import TitoError
    from dynamo_tito._http.base import HttpRequest
    from dynamo_tito._types import Completion, PromptLogprobs

FORMAT: Final = "dynamo-tito refused answer 1"

MAX_FILES: Final = 100
"""Answers that one directory takes."""

MAX_BYTES: Final = 1 << 30
"""Bytes that one directory takes, and with it one answer."""

_SHORTEST = 8
"""Characters of a secret that is looked for in bodies: a shorter one cannot be told from the rest of a body."""

_numbers = itertools.count(1)


class Readable(Protocol):
    """How an answer is decoded, as data."""

    def facts(self) -> dict[str, Any]:
        """What :func:`replay` needs to decode it again."""


class Keeper:
    """Keeps the answers of one client that cannot be read.

    It takes up to ``MAX_FILES`` answers and ``MAX_BYTES`` bytes in one directory, those of other processes included.
    It raises nothing: what cannot be written is told to the logger.

    Args:
        directory: where the files go; it is made if it is missing.
        secrets: the client's own, masked in everything.

    Raises:
        OSError: the directory cannot be made.
    """

    def __init__(self, directory: str | os.PathLike[str], secrets: tuple[str, ...]) -> None:
        self._directory = Path(directory)
        self._directory.mkdir(parents=True, exist_ok=True)
        self._secrets = secrets
        self.max_bytes = MAX_BYTES

    def facts(self, request: HttpRequest, reading: Readable, error: TitoError) -> dict[str, Any]:
        """What is written beside the body. It refers to neither the error nor the answer."""
        secrets = (*self._secrets, *secrets_of(request.headers))
        about = {name: getattr(error, name, None) for name in ("kind", "path", "offset")}
        return {
            "format": FORMAT,
            "error": {"class": type(error).__name__, "message": hidden(str(error), secrets)} | about,
            "decode": reading,
            "request": request,
            "secrets": secrets,
        }

    def keep(self, facts: dict[str, Any], content: Body | bytes) -> None:
        """Write an answer and what it belongs to: ``NAME.json`` and ``NAME.body``."""
        try:
            self._keep(facts, content)
        except Exception as error:  # noqa: BLE001 - the error that is being reported is another one
            logger.warning("a refused answer was not kept: %s", error)

    def _keep(self, facts: dict[str, Any], content: Body | bytes) -> None:
        request: HttpRequest = facts["request"]
        secrets: tuple[str, ...] = facts.pop("secrets")
        facts["decode"] = facts["decode"].facts()
        facts["request"] = {
            "method": request.method,
            "url": hidden(request.url, secrets),
            "headers": {name: hidden(value, secrets) for name, value in request.headers.items()},
            "body": _masked(request.content, secrets).decode("utf-8", "surrogateescape"),
        }
        text = json.dumps(facts, default=_plain).encode("utf-8", "surrogateescape")
        kept = [entry.stat().st_size for entry in self._directory.iterdir() if entry.is_file()]
        if len(kept) + 2 > 2 * MAX_FILES or sum(kept) + len(content) + len(text) > self.max_bytes:
            logger.warning("a refused answer was not kept: %s is full", self._directory)
            return
        name = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{os.getpid()}-{next(_numbers)}"
        (self._directory / f"{name}.body").write_bytes(_masked(bytes(content), secrets))
        # Last and whole: who finds it finds the body too.
        unfinished = self._directory / f"{name}.part"
        unfinished.write_bytes(text)
        unfinished.rename(self._directory / f"{name}.json")
        logger.info("kept a refused answer: %s", self._directory / f"{name}.json")


def replay(file: str | os.PathLike[str]) -> Completion | PromptLogprobs:
    """Decode an answer that ``save_refused`` kept, as the client did.

    Args:
        file: the ``.json`` file; the ``.body`` file is beside it.

    Returns:
        What the answer holds, where this version reads it.

    Raises:
        DecodeError, ServerError: the answer is refused; with the version that kept it for the same reason.
        ValueError: the file is no such record.
        OSError: a file cannot be read.
    """
    path = Path(file)
    document = json.loads(path.read_bytes())
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f"{path} is not a {FORMAT}")
    content = path.with_suffix(".body").read_bytes()
    facts: dict[str, Any] = document["decode"]
    arguments = dict(facts["arguments"], limits=Limits(**facts["arguments"]["limits"]))
    if arguments["prompt_token_ids"] is not None:
        arguments["prompt_token_ids"] = np.asarray(arguments["prompt_token_ids"], np.int32)
    if facts["call"] == "score":
        scores = decode_prompt_logprobs(content, **arguments)
        if facts["temperature"] != 1:
            check_scored_at(facts["temperature"], content)
        return scores
    if facts["call"] == "stream":
        decoder = StreamDecoder(**arguments, deltas=False)
        decoder.feed(content)
        completion = decoder.finish()
    else:
        completion = decode_whole(content, arguments)
    check_strictly(completion, facts["strict_logprobs"], facts["strict_routing"])
    return completion


def _masked(content: bytes, secrets: tuple[str, ...]) -> bytes:
    """A body, each secret overwritten: nothing moves, so that errors name the same offsets."""
    for secret in secrets:
        if len(secret) < _SHORTEST:
            continue
        for spelling in {secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}:
            raw = spelling.encode("utf-8", "surrogateescape")
            content = content.replace(raw, b"*" * len(raw))
    return content


def _plain(value: object) -> object:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (np.integer, np.floating)):
        return value.item()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return list(value)  # type: ignore[call-overload]  # sequences, such as dense_layers; else a TypeError, as json's own
