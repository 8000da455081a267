"""Answers of the right form that are impossible, or lack a requested field: edits of a finished body.

Each is a kind of `Fault`. An edit changes every channel of the wire that carries the value, and fails the request with
500 if the answer has none, so that a test of nothing is noticed. All choices of one body get what fits the first.
"""

# Edits have one signature.
# ruff: noqa: ARG001

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from .artifact import opened, wrapped
from .calls import Call, EngineError
from .containers import containers
from .encode import dumps
from .faults import Fault, FaultKind
from .model import Sample
from .response import Response

__all__ = ["EDITS", "UNFILLED", "edited", "put_masks", "wrong_masks"]

Document: TypeAlias = dict[str, Any]
Edit: TypeAlias = Callable[[Document, Sample, Fault], bool]
"""Changes the answer of one sample in place; whether there was anything to change."""

#: Fields of a choice of /inference/v1/generate that servers write and the engine leaves null. A fault may fill them.
UNFILLED: Mapping[str, None] = {"sampling_mask": None}

#: What a server in raw-logits mode puts where a log-probability belongs.
RAW_LOGIT = 18.25


def edited(response: Response, call: Call, fault: Fault) -> Response:
    """The answer with the fault in it.

    Raises:
        EngineError: 500, the answer has nothing that the fault could change.
    """
    if response.status != 200:
        return response
    if fault.kind == "events":
        body = b"data: " + response.body + b"\n\ndata: [DONE]\n\n"
        return replace(response, body=body, content_type="text/event-stream; charset=utf-8")
    whole = json.loads(response.body)
    answers = whole if isinstance(whole, list) else [whole]  # SGLang's answer with several choices
    found = [
        EDITS[fault.kind](answer, sample, fault) for answer, sample in zip(answers, call.record.samples, strict=False)
    ]
    if not any(found):
        route = call.request.path
        raise EngineError(500, f"the embedded engine cannot play {fault.kind}: the answer of {route} has no such value")
    return replace(response, body=dumps(whole))


# --- where things are ---


def _choices(document: Document) -> list[Document]:
    choices: list[Document] = document.get("choices") or []
    return choices


def _meta(document: Document) -> Document:
    meta: Document = document.get("meta_info") or {}
    return meta


def _engine_data(document: Document) -> Document:
    data: Document = (document.get("nvext") or {}).get("engine_data") or {}
    return data


def _content(document: Document) -> Iterator[Document]:
    """The entries of every choice's log-probabilities."""
    for choice in _choices(document):
        yield from (choice.get("logprobs") or {}).get("content") or ()


def _put(holder: Document, name: str, value: Any) -> bool:
    """Replace a value that is there."""
    if holder.get(name) is None:
        return False
    holder[name] = value
    return True


def _some(done: Iterable[bool]) -> bool:
    """Whether any was, after all were tried."""
    return sum(done) > 0


def _at(fault: Fault, count: int) -> int:
    """Which of the rows the fault means."""
    return min(fault.position(count), count - 1)


# --- log-probabilities ---


def _each_logprob(document: Document, change: Callable[[float], float]) -> bool:
    """Change the log-probability of every sampled token wherever it is written."""
    found = False
    for entry in _content(document):
        entry["logprob"] = change(entry["logprob"])
        for top in entry["top_logprobs"][:1]:  # the sampled token comes first
            top["logprob"] = entry["logprob"]
        found = True
    for choice in _choices(document):
        lists = choice.get("logprobs") or {}
        if "token_logprobs" in lists:
            lists["token_logprobs"] = list(map(change, lists["token_logprobs"]))
            found = True
    for triple in _meta(document).get("output_token_logprobs") or ():
        triple[0] = change(triple[0])
        found = True
    data = _engine_data(document)
    values = data.get("completion_logprobs")
    return _put(data, "completion_logprobs", [change(value) for value in values or ()]) or found


def _positive_logprobs(document: Document, sample: Sample, fault: Fault) -> bool:
    return _each_logprob(document, lambda value: value + RAW_LOGIT)


def _zero_logprobs(document: Document, sample: Sample, fault: Fault) -> bool:
    return _each_logprob(document, lambda _: 0.0)


def _short_entries(document: Document, sample: Sample, fault: Fault) -> bool:
    found = False
    for choice in _choices(document):
        for name, entries in (choice.get("logprobs") or {}).items():
            if isinstance(entries, list) and entries:
                del entries[: fault.by]
                found = name in ("content", "tokens") or found
    return found


# --- routed experts ---


def _unrouted_row(document: Document, sample: Sample, fault: Fault) -> bool:
    found = False
    for container in containers(document, sample.model):
        rows = container.rows.astype("<i4")
        at = _at(fault, len(rows))
        rows[at : at + fault.by] = -1
        container.put(rows)
        found = True
    return found


def _unrouted_slot(document: Document, sample: Sample, fault: Fault) -> bool:
    found = False
    for container in containers(document, sample.model):
        rows = container.rows.astype("<i4")
        rows[_at(fault, len(rows)), -1, -1] = -1
        container.put(rows)
        found = True
    return found


def _rows_behind_prompt(document: Document, sample: Sample, fault: Fault) -> bool:
    found = False
    prompt = len(sample.prompt_ids)
    for container in containers(document, sample.model):
        container.put(container.rows[len(container.rows) - len(sample.token_ids) + 1 :], start=prompt)
        found = True
    return found


def _no_rows(document: Document, sample: Sample, fault: Fault) -> bool:
    return _some(container.drop() for container in containers(document, sample.model))


def _early_abort(document: Document, sample: Sample, fault: Fault) -> bool:
    # The sample has been cut to nothing; a server without routing has nothing more to lose.
    _no_rows(document, sample, fault)
    return True


# --- weight versions ---


def _spans(document: Document, spans: list[Document]) -> bool:
    meta = _meta(document)
    if meta:
        meta["weight_versions"] = spans
    return bool(meta) or _some(_put(choice, "weight_versions", spans) for choice in _choices(document))


def _spans_overlap(document: Document, sample: Sample, fault: Fault) -> bool:
    end = len(sample.token_ids)
    return _spans(document, [_span("1", 0, end), _span("2", max(0, end - 1), end)])


def _spans_gap(document: Document, sample: Sample, fault: Fault) -> bool:
    return _spans(document, [_span("1", 1, len(sample.token_ids))])


def _spans_bare(document: Document, sample: Sample, fault: Fault) -> bool:
    meta = _meta(document)
    meta.pop("weight_versions", None)  # SGLang's label stands beside them
    return bool(meta) or _spans(document, [{"version": "1"}])


def _span(version: str, start: int, end: int) -> Document:
    return {"version": version, "start": start, "end": end}


# --- sampling masks ---


Rows: TypeAlias = list[list[int]]
"""The surviving tokens of each position."""


def put_masks(document: Document, rows: Rows, new: Rows | None, *, choices: bool = True) -> bool:
    """Put rows where the wire has them: Dynamo's engine data has all ``rows``, the others those of a chunk, ``new``."""
    meta, data = _meta(document), _engine_data(document)
    new = rows if new is None else new
    if meta:
        meta["output_token_sampling_mask"] = new
    if data:
        data["sampling_mask"] = rows
    carriers = [choice for choice in _choices(document) if choices and "sampling_mask" in choice]
    for choice in carriers:
        choice["sampling_mask"] = new
    return bool(meta or data or carriers)


def wrong_masks(sample: Sample, fault: Fault) -> Rows:
    """A row for each token, one of them without the sampled token or without any."""
    size = sample.model.vocab_size
    rows = [sorted({token, (token + 1) % size}) for token in sample.token_ids.tolist()]
    at = _at(fault, len(rows))
    if fault.kind == "mask_empty_row":
        rows[at] = []
    else:
        rows[at].remove(int(sample.token_ids[at]))
    return rows


def _wrong_masks(document: Document, sample: Sample, fault: Fault) -> bool:
    return put_masks(document, wrong_masks(sample, fault), None)


# --- counts and echoes ---


def _count(document: Document, name: str, by: int) -> bool:
    found = False
    for holder in (document.get("usage") or {}, _meta(document)):
        if name in holder:
            holder[name] += by
            found = True
    return found


def _prompt_count(document: Document, sample: Sample, fault: Fault) -> bool:
    return _count(document, "prompt_tokens", fault.by)


def _completion_count(document: Document, sample: Sample, fault: Fault) -> bool:
    return _count(document, "completion_tokens", fault.by)


def _long_echo(document: Document, sample: Sample, fault: Fault) -> bool:
    echo = [*sample.prompt_ids.tolist(), *([int(sample.prompt_ids[-1])] * fault.by)]
    holders = [document, _engine_data(document), *_choices(document)]
    return _some(_put(holder, "prompt_token_ids", echo) for holder in holders)


# --- artifacts ---


def _upload(document: Document) -> Document:
    upload: Document = (document.get("nvext") or {}).get("metadata_upload") or {}
    return upload if "data_base64" in upload else {}


def _put_artifact(document: Document, change: Callable[[bytes], bytes]) -> bool:
    """Write another artifact in place of the one that is there, and its length."""
    upload = _upload(document)
    if upload:
        data = change(base64.b64decode(upload["data_base64"]))
        upload.update(byte_count=len(data), data_base64=base64.b64encode(data).decode())
    return bool(upload)


def _artifact_cut(document: Document, sample: Sample, fault: Fault) -> bool:
    return _put_artifact(document, lambda data: data[: max(0, len(data) - fault.by)])


def _artifact_size(document: Document, sample: Sample, fault: Fault) -> bool:
    upload = _upload(document)
    return bool(upload) and _put(upload, "byte_count", upload["byte_count"] + fault.by)


def _artifact_failed(document: Document, sample: Sample, fault: Fault) -> bool:
    upload = _upload(document)
    if upload:
        del upload["byte_count"], upload["data_base64"]
        upload.update(state="failed", error_code=fault.message or "capture_invalid")
    return bool(upload)


def _artifact_ids(document: Document, sample: Sample, fault: Fault) -> bool:
    def change(data: bytes) -> bytes:
        manifest, tensors = opened(data)
        # The first tensor has the ids, of eight bytes each.
        at = 8 * _at(fault, len(sample.prompt_ids) + len(sample.token_ids))
        token = (int.from_bytes(tensors[at : at + 8], "little") + 1) % sample.model.vocab_size
        return wrapped(manifest, tensors[:at] + token.to_bytes(8, "little") + tensors[at + 8 :])

    return _put_artifact(document, change)


EDITS: Mapping[FaultKind, Edit] = {
    "positive_logprobs": _positive_logprobs,
    "zero_logprobs": _zero_logprobs,
    "short_entries": _short_entries,
    "unrouted_row": _unrouted_row,
    "unrouted_slot": _unrouted_slot,
    "rows_behind_prompt": _rows_behind_prompt,
    "no_rows": _no_rows,
    "early_abort": _early_abort,
    "spans_overlap": _spans_overlap,
    "spans_gap": _spans_gap,
    "spans_bare": _spans_bare,
    "mask_empty_row": _wrong_masks,
    "mask_without_token": _wrong_masks,
    "prompt_count": _prompt_count,
    "completion_count": _completion_count,
    "long_echo": _long_echo,
    "artifact_cut": _artifact_cut,
    "artifact_size": _artifact_size,
    "artifact_failed": _artifact_failed,
    "artifact_ids": _artifact_ids,
}
