"""Which wire a saved answer is of. For tools: the decoder is told, and never guesses."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ._errors import MalformedBodyError

if TYPE_CHECKING:
    from ._types import Wire

_DATA = b"data:"
_STREAM = (_DATA, b"event:", b":", b"id:", b"retry:")


def detect_wire(body: bytes | bytearray | memoryview, /) -> tuple[Wire, str]:
    """The wire of an answer, whole or streamed, and what says so.

    It looks at the keys alone. That an answer is of a wire does not mean that it decodes.

    Args:
        body: the answer, as bytes.

    Returns:
        The wire's name, and the reason in a few words.

    Raises:
        MalformedBodyError: kind ``"syntax"``: the body is no JSON and no stream of events. Kind ``"wire"``: it has the
            keys of no wire.
    """
    content = bytes(body)
    told = ", in a stream of events" if is_stream(content) else ""
    chunks = list(_chunks(content))
    for chunk in chunks:
        if (found := _of_elements(chunk)) is not None:
            return found[0], found[1] + told
    documents = [chunk for chunk in chunks if isinstance(chunk, Mapping)]
    choices = [choice for document in documents for choice in _choices(document)]
    if (found := _of_choices(documents, choices)) is not None:
        return found[0], found[1] + told
    raise MalformedBodyError(
        "the body has the keys of no wire: no meta_info, no nvext, and no choices[0] with token_ids, message or text",
        kind="wire",
        path="",
    )


def is_stream(body: bytes) -> bool:
    """Whether a body is a stream of server-sent events: it begins with a field of one, after white space."""
    return body.removeprefix(codecs.BOM_UTF8).lstrip(b" \t\r\n").startswith(_STREAM)


def _of_elements(document: Any) -> tuple[Wire, str] | None:
    if isinstance(document, list):
        return "sglang_generate", "the top level is an array"
    for key in ("meta_info", "output_ids"):
        if isinstance(document, Mapping) and key in document:
            return "sglang_generate", f"the top level has {key}"
    return None


def _of_choices(documents: list[Mapping[str, Any]], choices: list[Mapping[str, Any]]) -> tuple[Wire, str] | None:
    def first(*keys: str) -> str | None:
        return next((key for key in keys if any(key in choice for choice in choices)), None)

    if (key := first("response_token_ids", "meta_info")) is not None:
        return "sglang_chat", f"choices[0] has {key}"
    text = first("text")
    if any(document.get("nvext") is not None for document in documents):
        return ("dynamo_completions", "nvext, beside choices[0].text") if text else ("dynamo_chat", "nvext")
    if text:
        return "vllm_completions", "choices[0] has text, and there is no nvext"
    if (key := first("message", "delta")) is not None:
        return "vllm_chat", f"choices[0] has {key}, and there is no nvext"
    if first("token_ids") is not None:
        return "vllm_generate", "choices[0] has token_ids, and neither message nor text"
    return None


def _choices(document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    choices = document.get("choices")
    if isinstance(choices, list):
        yield from (choice for choice in choices if isinstance(choice, Mapping))


def _chunks(content: bytes) -> Iterator[Any]:
    """The document; or those of a stream of events, of which a broken one ends the search."""
    if not is_stream(content):
        try:
            yield json.loads(content)
        except (ValueError, RecursionError) as error:
            raise MalformedBodyError(f"the body is no JSON: {error}", kind="syntax", path="") from None
        return
    for line in content.removeprefix(codecs.BOM_UTF8).splitlines():
        if line.startswith(_DATA):
            try:
                yield json.loads(line[len(_DATA) :])
            except (ValueError, RecursionError):
                return
