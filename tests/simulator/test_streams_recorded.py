"""The embedded engine's streams beside those that real servers gave to the same requests.

`python tests/simulator/test_streams_recorded.py` (with `tests` on the path) prints what differs, and why.
"""

# The file prints its list when it is run.
# ruff: noqa: T201

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import httpx
import pytest

from dynamo_tito import simulator
from dynamo_tito.simulator import Fault
from support.events import documents
from support.shapes import differences
from support.streams import pairs

DATA = Path(__file__).parents[1] / "data"
_VLLM: dict[str, Any] = {
    "backend": "vllm", "model": "toy", "vocab_size": 512, "max_model_len": 512, "num_layers": 4, "top_k": 2,
    "num_experts": 16,
}  # fmt: skip
_DYNAMO: dict[str, Any] = {"backend": "dynamo", "sglang_generate": True}


@dataclass(frozen=True)
class Recording:
    """A request, the stream that a server answered, and what the engine behind it did that day."""

    path: str
    request: dict[str, Any]
    status: int
    body: bytes
    settings: dict[str, Any]
    fault: Fault | None = None


#: What the stand-in engine of the recordings was told to do, and how the embedded engine is told so.
_FAULTS: dict[str, Callable[[Any], Fault]] = {
    "error_after": lambda at: Fault(kind="error_event", at=at, status=500),
    "extra_rows": lambda by: Fault(kind="wrong_rows", by=by),
    "finish_reason": lambda reason: Fault(kind="finish", message=reason),
    "raise": lambda _: Fault(kind="status", status=503),
}
_SETTINGS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "chunk": lambda count: {"chunk_tokens": count},
    "num_experts": lambda count: {"num_experts": count},
    "routed_experts": lambda form: {"routed_experts_container": form} if form else {"routed_experts": False},
}
#: What it cannot be told.
NOT_PLAYED = {
    "drop_logprobs_at": "the engine sends log-probabilities of all tokens or of none",
    "nonfinite": "log-probabilities of the hash model are finite",
}


def _of_pairs() -> Iterator[tuple[str, Recording]]:
    for name, pair in pairs().items():
        entry = pair.entry
        control: dict[str, Any] = entry.get("control", {})
        if control.keys() & NOT_PLAYED.keys():
            continue
        if entry["server"] == "vllm":
            settings = _VLLM | {"vllm_version": entry["version"][:4]}
        else:
            settings = _DYNAMO | {"dynamo_version": "1.7" if entry["version"].startswith("1.7.") else "1.6.1"}
        faults = [_FAULTS[key](value) for key, value in control.items() if key in _FAULTS]
        for key, value in control.items():
            settings = settings | (_SETTINGS[key](value) if key in _SETTINGS else {})
        yield (
            name,
            Recording(
                entry["path"],
                entry["request"] | entry["stream"],
                entry["stream_status"],
                pair.stream,
                settings,
                *faults,
            ),
        )


_RAISED = {
    "engine_raise_HttpError422_chat_stream.sse": Fault(kind="status", status=400),
    "engine_raise_HttpError503_chat_stream.sse": Fault(kind="status", status=503),
    "engine_raise_InvalidArgument_chat_stream.sse": Fault(kind="status", status=400, message="invalid arg detail"),
}


def _of_captures() -> Iterator[tuple[str, Recording]]:
    index = json.loads((DATA / "captures" / "index.json").read_bytes())
    for name, entry in index.items():
        if name.endswith(".sse"):
            settings = _DYNAMO | ({"chunk_tokens": 3} if "multi_token" in name else {})
            yield f"captures/{name}", Recording(
                entry["path"], json.loads(entry["body"]), entry["status"], (DATA / "captures" / name).read_bytes(),
                settings, _RAISED.get(name),
            )  # fmt: skip
    index = json.loads((DATA / "captures_vllm" / "index.json").read_bytes())
    for name, entry in index.items():
        if name.endswith(".sse") and "request" in entry:
            version = re.findall(r"-(0\.\d\d)\.", name)[0]
            yield f"captures_vllm/{name}", Recording(
                entry["request"]["path"], entry["request"]["body"], entry.get("status", 200),
                (DATA / "captures_vllm" / name).read_bytes(), _VLLM | {"vllm_version": version},
            )  # fmt: skip


RECORDINGS = dict([*_of_pairs(), *_of_captures()])

_BYTES = "the engine's tokenizer makes a token of each byte, so a text has another number of tokens"
_STAND_IN = "the stand-in engine behind the recording leaves out what SGLang's own says"
_END = "the recorded model ended the message where the engine's does not"
#: Recordings, what differs in them, and why.
ACCEPTED: list[tuple[str, str, str]] = [
    ("vllm-*/chat_*", r"\.prompt_token_ids: \d+ elements instead of \d+", _BYTES),
    ("captures_vllm/*/chat_stream.sse", r"\.prompt_token_ids: 21 elements instead of 12", _BYTES),
    ("dynamo-*/sglang_*", r"\.meta_info: keys .*", _STAND_IN),
]
#: Recordings of which only the beginning is compared, and why.
BEGINNINGS = {
    "vllm-0.32.0/chat_eos": _END,
    "vllm-0.32.0/generate_eos": _END,
    "vllm-0.32.0/chat_stop_text": _END,
    "vllm-0.32.0/generate_stop_text": _END,
    "vllm-0.32.0/generate_stop_token": _END,
    "vllm-0.32.0/generate_aborted": "aborted by hand; test_an_abort_by_its_own_id",
}


def _found(recording: Recording, *, beginning: bool = False) -> Iterator[str]:
    """Every difference between the engine's stream and the recorded one."""
    with simulator.running(**recording.settings) as engine:
        if recording.fault is not None:
            engine.inject(recording.fault)
        content, headers = json.dumps(recording.request), {"content-type": "application/json"}
        url = engine.url + recording.path
        answer = httpx.post(url, content=content, headers=headers, trust_env=False, verify=False, timeout=60.0)
        if engine.faults.pending():
            yield "the fault is still to come"
    if answer.status_code != recording.status:
        yield f"status: {answer.status_code} instead of {recording.status}"
    if recording.status != 200:
        if answer.content != recording.body:  # the server's own words
            yield f"{answer.text} instead of {recording.body.decode()}"
        return
    yield from _differing(documents(answer.content), documents(recording.body), beginning=beginning)


def _differing(ours: list[Any], theirs: list[Any], *, beginning: bool) -> Iterator[str]:
    if beginning:
        theirs = [document for document in theirs if isinstance(document, dict) and _goes_on(document)]
        ours = ours[: len(theirs)]
    elif len(ours) != len(theirs):
        yield f"{len(ours)} events instead of {len(theirs)}"
    for mine, other in zip(_by_choice(ours), _by_choice(theirs), strict=False):
        if isinstance(mine, str) or isinstance(other, str) or "error" in other:
            if mine != other:
                yield f"{mine} instead of {other}"
        else:
            yield from differences(mine, other)


def _goes_on(document: dict[str, Any]) -> bool:
    return all(choice["finish_reason"] is None for choice in document["choices"])


def _by_choice(events: list[Any]) -> list[Any]:
    """One choice after the other: a server samples them in no order."""

    def number(event: Any) -> int:
        choices = event.get("choices") if isinstance(event, dict) else None
        return choices[0]["index"] if choices else 0 if events.index(event) == 0 else len(events)

    return sorted(events, key=number)


def _unlisted(name: str) -> Iterator[str]:
    for line in _found(RECORDINGS[name], beginning=name in BEGINNINGS):
        if not any(fnmatch(name, names) and re.fullmatch(lines, line) for names, lines, _ in ACCEPTED):
            yield line


@pytest.mark.parametrize("name", RECORDINGS)
def test_streams_are_as_recorded(name: str) -> None:
    assert list(_unlisted(name)) == []


def test_the_tables_name_recordings() -> None:
    assert set(BEGINNINGS) <= set(RECORDINGS)
    assert len(RECORDINGS) > 130
    for names, _, _ in ACCEPTED:
        assert any(fnmatch(name, names) for name in RECORDINGS), names
    controls = {key for pair in pairs().values() for key in pair.entry.get("control", ())}
    assert controls == _FAULTS.keys() | _SETTINGS.keys() | NOT_PLAYED.keys()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda event: event.pop("usage"),
        lambda event: event["choices"][0].pop("stop_reason"),
        lambda event: event["choices"][0].update(finish_reason=None),
        lambda event: event["choices"][0].update(token_ids=[1, 2]),
        lambda event: event["choices"][0]["weight_versions"][0].pop("end"),
        lambda event: event.update(choices=[]),
    ],
)
def test_a_difference_is_found(spoil: Any) -> None:
    recording = RECORDINGS["vllm-0.32.0/generate_logprobs_1"]
    *before, last, done = documents(recording.body)
    spoil(last)
    spoiled = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in (*before, last))
    changed = Recording(**{**vars(recording), "body": spoiled + done.encode() + b"\n\n"})
    assert list(_found(changed)) != []
    assert list(_found(recording)) == []


if __name__ == "__main__":
    for name, recording in RECORDINGS.items():
        found, unlisted = list(_found(recording, beginning=name in BEGINNINGS)), list(_unlisted(name))
        print(f"{name}: {'the same' if not found else ''}{BEGINNINGS.get(name, '')}")
        for line in found:
            reasons = [why for names, lines, why in ACCEPTED if fnmatch(name, names) and re.fullmatch(lines, line)]
            print(f"    {'NOT LISTED' if line in unlisted else reasons[0]}: {line[:300]}")
    for control, reason in NOT_PLAYED.items():
        print(f"{control}: {reason}")
