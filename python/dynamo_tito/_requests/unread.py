"""Request fields that add data to the answer.

Some of them are read from some routes. The others are refused, because their data would be lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dynamo_tito._errors import MissingFieldError

if TYPE_CHECKING:
    from dynamo_tito._types import Completion


@dataclass(frozen=True, slots=True)
class _Field:
    """A field of a request.

    Attributes:
        why: why it is refused.
        read_on: the transports whose answers are read with it.
        brings: the attribute of a completion that it brings without fail.
    """

    why: str
    read_on: tuple[str, ...] = ()
    brings: str | None = None


_FLAT = "the flat form of the top entries is not read from this route; ask for logprobs=k instead"

_FIELDS = {
    # vLLM 0.32 and 0.33 (token_in_token_out/protocol.py). The second is null in tokens mode unless logprobs are asked
    # for, cut to those by 0.31 and 0.32, and named by text on Dynamo.
    "prompt_logprob_token_ids": _Field(
        "prompt_token_id_logprobs of the answer is not read from this route; ask for top_k instead",
        ("vllm_generate",),
        "prompt_token_id_logprobs",
    ),
    "logprob_token_ids": _Field("a log-probability of given ids is not read; ask for logprobs=k instead"),
    # SGLang 0.5.23 (managers/io_struct.py, entrypoints/openai/protocol.py).
    "token_ids_logprob": _Field("meta_info.input_token_ids_logprobs of the answer is not read; ask for top_k instead"),
    "return_hidden_states": _Field("meta_info.hidden_states of the answer is not read"),
    "return_indexer_topk": _Field(
        "meta_info.indexer_topk of the answer is not read from this route", ("sglang_generate",), "indexer_topk"
    ),
    "return_entropy": _Field("an entropy is not read"),
    "return_flat_raw_top_logprobs": _Field(_FLAT, ("sglang_generate",)),
    "return_flat_raw_output_top_logprobs": _Field(_FLAT, ("sglang_generate", "sglang_chat")),
    "return_flat_raw_top_logprobs_b64": _Field(_FLAT, ("sglang_generate", "sglang_chat")),
}

_READ_AS = {"output_mode": "tokens", "sampling_logprobs_mode": "selected"}
"""Fields that choose a form of the answer, and the form that is read: the others name no tokens, or score a mask."""

_ASKED = _FIELDS.keys() | _READ_AS.keys()


def refuse_unread(members: Mapping[str, Any], transport: str) -> None:
    """Refuse a body that has such a field, also in its ``sampling_params`` or ``nvext``.

    Raises:
        ValueError: a field whose answer would be dropped.
    """
    for fields in _places(members):
        if _ASKED.isdisjoint(fields):
            continue
        for key, field in _FIELDS.items():
            if _asks(fields, key) and transport not in field.read_on:
                raise ValueError(f"{key} cannot be given: {field.why}")
        for key, form in _READ_AS.items():
            if fields.get(key) not in (None, form):
                raise ValueError(f"{key} must be {form!r}, not {fields[key]!r}: another form of the answer is not read")


def refuse_unanswered(members: Mapping[str, Any], completion: Completion) -> None:
    """Refuse an answer without what was asked for, unless it was cut off.

    A server ignores fields that it does not know, or that it was not started with.

    Raises:
        MissingFieldError: an attribute is None.
    """
    if completion.aborted:
        return
    for fields in _places(members):
        if _ASKED.isdisjoint(fields):
            continue
        for key, field in _FIELDS.items():
            absent = field.brings is not None and getattr(completion, field.brings) is None
            # Left out on purpose.
            if absent and field.brings not in completion.sources and _asks(fields, key):
                raise MissingFieldError(
                    f"{key} was asked for and the answer has none: see that the server was started with it",
                    kind="missing",
                    path=key,
                )


def _places(members: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for fields in (members, members.get("sampling_params"), members.get("nvext")):
        if isinstance(fields, (dict, Mapping)):  # to ask for dict first is quicker
            yield fields


def _asks(fields: Mapping[str, Any], key: str) -> bool:
    asked = fields.get(key)
    return asked is not None and asked is not False
