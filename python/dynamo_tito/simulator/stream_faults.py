"""What goes wrong inside a stream: edits of its events, or of their bytes.

Each is a kind of `Fault`. Faults of an answer (`contents`) change every chunk that carries the value. A stream that has
nothing to change ends with an error that says so.
"""

# Edits have one signature.
# ruff: noqa: ARG001

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from itertools import cycle
from typing import Any, TypeAlias

from .calls import EngineError
from .contents import EDITS, put_masks, wrong_masks
from .faults import Fault, FaultKind
from .stream import DONE, Event, EventStream

__all__ = ["STREAM_FAULTS", "spoiled"]

Events: TypeAlias = AsyncIterator[Event]
Edit: TypeAlias = Callable[[Events, EventStream, Fault], Events]
"""The events with the fault among them. Raises `_NothingError` at their end if there was no place for it."""


class _NothingError(Exception):
    """The stream has no such part."""


async def spoiled(events: Events, stream: EventStream, fault: Fault) -> Events:
    """The events of a stream as this fault has them."""
    edit = STREAM_FAULTS.get(fault.kind) or (_content if fault.kind in EDITS else None)
    if edit is None:
        async for event in events:
            yield event
        return
    try:
        async for event in edit(events, stream, fault):
            yield event
    except _NothingError:
        route = stream.call.request.path
        said = f"the embedded engine cannot play {fault.kind}: the stream of {route} has no such part"
        yield stream.failure(EngineError(500, said))
        yield Event(DONE, ends=True)


def _brings_tokens(event: Event) -> bool:
    return event.tokens > 0


async def _placed(events: Events, fault: Fault, fits: Callable[[Event], bool]) -> AsyncIterator[tuple[Event, bool]]:
    """Each event, and whether it is the one that the fault means."""
    at: int | float = fault.at
    if isinstance(at, float) or at < 0:
        whole = [event async for event in events]
        total = sum(map(fits, whole))
        at, events = min(fault.position(total), total - 1), _each(whole)
    count, found = 0, False
    async for event in events:
        here = fits(event) and count == at
        count += fits(event)
        found |= here
        if event.ends and not found:
            raise _NothingError
        yield event, here


async def _each(events: list[Event]) -> Events:
    for event in events:
        yield event


# --- events ---


async def _error_event(events: Events, stream: EventStream, fault: Fault) -> Events:
    async for event, here in _placed(events, fault, lambda event: event.document is not None):
        if not here:
            yield event
            continue
        stream.flight.abort()
        if fault.body is not None:
            yield Event(fault.body, failed=True)
        else:
            yield stream.failure(EngineError(fault.status, fault.message or ""))
        yield Event(DONE, ends=True)
        return


async def _no_done(events: Events, stream: EventStream, fault: Fault) -> Events:
    async for event in events:
        if not event.ends:
            yield event


async def _no_finish(events: Events, stream: EventStream, fault: Fault) -> Events:
    async for event in events:
        if event.delta is not None and event.delta.last:
            document = event.parsed()
            for holder in (*(document.get("choices") or ()), document.get("meta_info") or {}):
                if "finish_reason" in holder:
                    holder["finish_reason"] = None
            (document.get("nvext") or {}).pop("detailed_finish_reason", None)
        yield event


async def _duplicate(events: Events, stream: EventStream, fault: Fault) -> Events:
    async for event, here in _placed(events, fault, _brings_tokens):
        yield event
        if here:
            yield replace(event, delta=None)


async def _drop(events: Events, stream: EventStream, fault: Fault) -> Events:
    async for event, here in _placed(events, fault, _brings_tokens):
        if not here:
            yield event


async def _swap(events: Events, stream: EventStream, fault: Fault) -> Events:
    held: Event | None = None
    async for event, here in _placed(events, fault, _brings_tokens):
        if here:
            held = event
            continue
        yield event
        if held is not None:
            yield held
            held = None


async def _contradiction(events: Events, stream: EventStream, fault: Fault) -> Events:
    def repeats(event: Event) -> bool:
        # A list of all tokens, of which some have been said.
        return _brings_tokens(event) and event.cumulative and event.delta is not None and event.delta.begin > 0

    async for event, here in _placed(events, fault, repeats):
        if here:
            document = event.parsed()
            triples = document["meta_info"].get("output_token_logprobs")
            if fault.message == "logprob":
                if not triples:
                    raise _NothingError
                triples[0][0] -= 0.5
            else:
                document["output_ids"][0] ^= 1
                if triples:
                    triples[0][1] ^= 1
        yield event


async def _wrong_ids(events: Events, stream: EventStream, fault: Fault) -> Events:
    found = False
    async for event in events:
        if event.delta is not None and event.delta.last:
            document = event.parsed()
            extension = document.get("nvext") or {}
            lists = [
                (extension.get("engine_data") or extension).get("completion_token_ids"),
                document.get("output_ids"),
                *(choice.get("token_ids") for choice in document.get("choices") or ()),
            ]
            for ids in lists:
                if ids:
                    ids[-1] ^= 1
                    found = True
        if event.ends and not found:
            raise _NothingError
        yield event


async def _huge_event(events: Events, stream: EventStream, fault: Fault) -> Events:
    async for event, here in _placed(events, fault, lambda event: isinstance(event.document, dict)):
        if here:
            event.parsed()["padding"] = "x" * fault.by
        yield event


async def _content(events: Events, stream: EventStream, fault: Fault) -> Events:
    """A fault of the answer in every chunk that carries the value."""
    found, begun = fault.kind == "early_abort", set[int]()
    async for event in events:
        delta = event.delta
        if isinstance(event.document, dict) and _concerns(event, fault.kind, begun):
            document = event.parsed()
            if fault.kind.startswith("mask"):
                found |= _mask(event, document, fault)
            else:
                found |= EDITS[fault.kind](document, stream.flight.plan[0] if delta is None else delta.sample, fault)
        if delta is not None and event.tokens:
            begun.add(delta.index)
        if event.ends and not found and not stream.call.record.failed:
            raise _NothingError
        yield event


def _mask(event: Event, document: dict[str, Any], fault: Fault) -> bool:
    """The rows of the chunk's tokens; of all, where the wire repeats them or says them once."""
    if event.delta is None:
        return False
    rows = wrong_masks(event.delta.sample, fault)
    new = rows[0 if event.cumulative else event.delta.begin : event.delta.end]
    return put_masks(document, rows, new, choices=event.masks)


def _concerns(event: Event, kind: FaultKind, begun: set[int]) -> bool:
    """Whether a chunk is one that the edit of a whole answer fits."""
    if kind.startswith("spans"):
        return event.delta is not None and event.delta.last
    if kind == "short_entries":
        return event.delta is not None and event.tokens > 0 and event.delta.index not in begun
    return True


# --- bytes ---


async def _line_ends(events: Events, stream: EventStream, fault: Fault) -> Events:
    ends = cycle((b"\r\n", b"\r", b"\n", b"\r") if fault.message == "mixed" else ((fault.message or "\r\n").encode(),))
    async for event in events:
        frame, end = b"", b""
        for line in event.bytes().split(b"\n")[:-1]:
            # An LF behind a CR would end no line of its own.
            end = b"\r" if end == b"\r" and not line else next(ends)
            frame += line + end
        yield replace(event, frame=frame)


async def _comments(events: Events, stream: EventStream, fault: Fault) -> Events:
    async for event in events:
        frame = b": ping\n\n:\nid: 7\nretry: 10\n" + event.bytes().replace(b"\n\n", b"\n: in between\nunknown\n\n")
        yield replace(event, frame=frame)


async def _data_lines(events: Events, stream: EventStream, fault: Fault) -> Events:
    async for event in events:
        if isinstance(event.document, dict):
            text = json.dumps(event.parsed(), indent=1, ensure_ascii=False).encode()
            frame = b"".join(b"data:" + line + b"\n" for line in text.split(b"\n")) + b"\n"
            yield replace(event, frame=frame)
        else:
            yield event


async def _utf8(events: Events, stream: EventStream, fault: Fault) -> Events:
    async for event in events:
        if isinstance(event.document, dict):
            event.parsed()["note"] = "é漢😀"
        yield event


STREAM_FAULTS: Mapping[FaultKind, Edit] = {
    "error_event": _error_event,
    "no_done": _no_done,
    "no_finish": _no_finish,
    "duplicate": _duplicate,
    "drop": _drop,
    "swap": _swap,
    "contradiction": _contradiction,
    "wrong_ids": _wrong_ids,
    "huge_event": _huge_event,
    "line_ends": _line_ends,
    "comments": _comments,
    "data_lines": _data_lines,
    "utf8": _utf8,
}
