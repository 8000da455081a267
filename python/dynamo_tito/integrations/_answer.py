"""One answer of a server, read as far as a consumer of ``renderers`` needs it."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamo_tito._errors import TitoError
from dynamo_tito._native import decode, encode_routed_experts

from ._head import HeadError, head_of
from ._payload import Bytes, find_payload, rows_end

if TYPE_CHECKING:
    from dynamo_tito._native import Body
    from dynamo_tito._types import Completion, Wire

    from ._prepared import Prepared


class RefusedError(ValueError):
    """An answer that is refused, with the reason."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What an answer holds.

    Attributes:
        completion: its arrays, without routed experts.
        finish_reason: as on the wire of ``vllm_generate``, else in the one spelling for all engines.
        routed_experts: their payload, base64 text.
        head: ids and log-probabilities of the most likely tokens, where they were asked for.
        prompt_ids: the prompt, where the server expanded it.
        mm_placeholders: where pictures stand in it, likewise.
        packed_mask: whether the sampling mask was sent packed.
    """

    completion: Completion
    finish_reason: str | None
    routed_experts: dict[str, Any] | None
    head: tuple[list[list[int]], list[list[float]]] | None
    prompt_ids: list[int] | None
    mm_placeholders: dict[str, Any] | None
    packed_mask: bool

    def logprobs(self, *, as_array: bool) -> Any:
        """Of the sampled tokens: float32 [C], or a list of floats."""
        values = self.completion.logprobs
        assert values is not None  # noqa: S101 - an answer without them is refused
        return values.astype(np.float32) if as_array else values.tolist()

    def sampling_mask(self, *, packed: bool) -> Any:
        """Ids for each token as lists; in prime-rl's packed form where it came so and the consumer reads it."""
        mask = self.completion.sampling_mask
        if mask is None:
            return None
        if packed and self.packed_mask:
            return {"ids": _packed(mask.token_ids), "counts": _packed(np.diff(mask.offsets))}
        ids, offsets = mask.token_ids.tolist(), mask.offsets.tolist()
        return [ids[begin:end] for begin, end in pairwise(offsets)]


def read(
    body: Body | bytes,
    prepared: Prepared,
    wire: Wire,
    *,
    start: int,
    require_routed_experts: bool,
    num_layers: int | None,
    top_k: int | None,
    strict_ids: bool,
) -> Answer:
    """Decode the tokens and find the routed experts.

    Args:
        body: the answer.
        prepared: what was asked.
        wire: which endpoint answered.
        start: the first position whose routed experts were asked for.
        require_routed_experts: refuse an answer without one row for each position.
        num_layers: of routed experts without a shape.
        top_k: likewise.
        strict_ids: refuse an entry that names its token by text and by null, as renderers 0.1.13 does.

    Raises:
        RefusedError: the answer cannot be trusted.
    """
    expanded, placeholders = _expansion(body) if prepared.expands else (None, None)
    prompt = prepared.prompt_ids if expanded is None else expanded
    content = Bytes(body)
    found = find_payload(content)

    def has(text: bytes) -> bool:
        return content.find(text, 0, found.text[0]) >= 0 or content.find(text, found.text[1]) >= 0

    if strict_ids and (has(b'"token_id":null') or has(b'"token_id": null')):
        raise RefusedError("an entry of the log-probabilities has the token_id null")
    known: dict[str, Any] = {"wire": wire, "prompt_token_ids": prompt, "num_layers": num_layers, "top_k": top_k}
    try:
        completion = decode(body, experts="skip", **known)
        payload = found.payload
        if payload is None and found.count:
            payload = _decoded(decode(body, experts="native", routed_experts_prompt_start=start, **known))
        head = None if prepared.head_size is None else head_of(completion, prepared.head_size)
    except (TitoError, HeadError) as error:
        raise RefusedError(str(error)) from error
    if require_routed_experts:
        _check_rows(payload, completion, len(prompt))
    return Answer(
        completion,
        completion.finish_reason_raw if wire == "vllm_generate" else completion.finish_reason,
        payload,
        head,
        expanded,
        placeholders,
        packed_mask=completion.sampling_mask is not None and has(b'"sampling_mask":{'),
    )


def _decoded(completion: Completion) -> dict[str, Any] | None:
    """The payload of rows in another form: a ``.npy`` file, or bare base64."""
    experts = completion.routed_experts
    return None if experts is None else encode_routed_experts(experts.array, start=experts.start)


def _expansion(body: Body | bytes) -> tuple[list[int], dict[str, Any]]:
    try:
        document = json.loads(bytes(body))
        ids, placeholders = document["prompt_token_ids"], document["mm_placeholders"]
    except (ValueError, KeyError, TypeError) as error:
        raise RefusedError(f"no expanded prompt: {error!r}") from error
    if not isinstance(ids, list) or not isinstance(placeholders, dict):
        raise RefusedError("prompt_token_ids must be a list, and mm_placeholders an object")
    return ids, placeholders


def _check_rows(payload: dict[str, Any] | None, completion: Completion, prompt_len: int) -> None:
    sampled = len(completion.token_ids)
    if completion.aborted and not sampled:
        return
    if payload is None:
        raise RefusedError("no routed experts in the answer")
    wanted = prompt_len + sampled - 1
    ends = rows_end(payload)
    if ends is None or ends > wanted or (ends < wanted and not completion.aborted):
        raise RefusedError(f"routed experts of shape {payload.get('shape')} end at {ends}, the tokens need {wanted}")


def _packed(values: Any) -> dict[str, Any]:
    array = np.ascontiguousarray(values, dtype=np.int32)
    return {"data": base64.b64encode(array.tobytes()).decode(), "shape": [len(array)], "dtype": "int32"}
