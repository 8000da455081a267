"""NeMo-RL: its codec of routed experts, generation outputs, message logs and NeMo Gym's output items.

Written for NeMo-RL at commit 7ea279a. Rows of routing: one for each token, the last one too. NeMo-RL fills the last row
with experts 0 to top_k - 1, which is the policy ``"spread"`` of this library, because its replay refuses an expert that
stands twice in a row; a row of -1 says that no route was recorded, and the trainer's own router decides
(``nemo_rl/models/generation/vllm/utils.py``, ``nemo_rl/models/megatron/router_replay.py``). Widths are int8, int16 and
int32, the narrowest that holds the experts and -1.
"""

from __future__ import annotations

import base64
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from dynamo_tito._errors import RoutedExpertsError

from ._frameworks import framework
from ._records import base64_of, cast, ids_of, logprobs_of, recorded_rows, sample_from, sampled_logprobs, whole_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dynamo_tito._types import Completion
    from dynamo_tito.rollout import FinalRowPolicy, TrainingSample
    from dynamo_tito.rollout.routing import Chunk

__all__ = [
    "carry_dtype",
    "decode_routed_experts",
    "encode_routed_experts",
    "from_message_log",
    "generation_output",
    "gym_item",
    "message_log",
]

CarryDtype: TypeAlias = Literal["int8", "int16", "int32"]
"""How wide an expert id is in NeMo-RL's tensors."""

_MAGIC = "nrlre1"
_WIDTHS: tuple[CarryDtype, ...] = ("int8", "int16", "int32")


def carry_dtype(num_experts: int | None) -> CarryDtype:
    """The width that NeMo-RL's ``resolve_routed_experts_dtype`` chooses; int16 where the number is not known."""
    if num_experts is None:
        return "int16"
    return next(name for name in _WIDTHS if num_experts - 1 <= np.iinfo(name).max)


def encode_routed_experts(rows: Chunk, *, dtype: CarryDtype = "int16") -> str:
    """Rows [S, L, K] as NeMo-RL's text ``nrlre1:<dtype>:<S>x<L>x<K>:<base64>``.

    Raises:
        RoutedExpertsError: an id does not fit, or other dimensions.
    """
    if rows.ndim != 3:
        raise RoutedExpertsError(f"rows must be [tokens, layers, top_k], not {[*rows.shape]}", kind="shape")
    return f"{_MAGIC}:{dtype}:{'x'.join(map(str, rows.shape))}:{base64_of(cast(rows, dtype))}"


def decode_routed_experts(text: str) -> NDArray[np.int8] | NDArray[np.int16] | NDArray[np.int32]:
    """The rows of such a text [S, L, K] at its width; an array that can be written. -1 is kept.

    Raises:
        RoutedExpertsError: no such text, or another number of bytes than its shape says.
    """
    parts = text.split(":", 3)
    if len(parts) != 4 or parts[0] != _MAGIC or parts[1] not in _WIDTHS:
        raise RoutedExpertsError(f"not a text {_MAGIC}:<dtype>:<S>x<L>x<K>:<base64>", kind="container")
    numbers = parts[2].split("x")
    if len(numbers) != 3 or not all(number.isascii() and number.isdigit() for number in numbers):
        raise RoutedExpertsError(f"{parts[2]!r} is no shape of three numbers", kind="shape")
    shape = tuple(map(int, numbers))
    try:
        data = bytearray(base64.b64decode(parts[3], validate=True))
    except ValueError as error:
        raise RoutedExpertsError(f"the base64 is wrong: {error}", kind="base64") from error
    if len(data) != shape[0] * shape[1] * shape[2] * np.dtype(parts[1]).itemsize:
        raise RoutedExpertsError(f"{len(data)} bytes are not {parts[2]} {parts[1]}", kind="size")
    array: NDArray[Any] = np.frombuffer(data, parts[1]).reshape(shape)
    return array


def gym_item(prompt_ids: Any, completion: Completion, *, dtype: CarryDtype = "int16") -> dict[str, Any]:
    """The fields of a trainable output item of NeMo Gym, and of a message of NeMo-RL's own chat server.

    Args:
        prompt_ids: token ids [P].
        completion: what was sampled.
        dtype: the configured ``routed_experts_dtype``; see :func:`carry_dtype`.

    Returns:
        ``prompt_token_ids``, ``generation_token_ids``, ``generation_log_probs``, and ``routed_experts`` as text of
        P + C rows where the completion has any.

    Raises:
        MissingFieldError: a token has no log-probability.
        RoutedExpertsError: rows are missing in front.
    """
    prompt = ids_of(prompt_ids)
    item: dict[str, Any] = {
        "prompt_token_ids": prompt.tolist(),
        "generation_token_ids": completion.token_ids.tolist(),
        "generation_log_probs": logprobs_of(completion).tolist(),
    }
    rows = _carried(completion, len(prompt), dtype)
    if rows is not None:
        item["routed_experts"] = encode_routed_experts(rows, dtype=dtype)
    return item


def generation_output(
    prompts: Sequence[Any],
    completions: Sequence[Completion],
    *,
    pad_token_id: int,
    dtype: CarryDtype = "int16",
) -> dict[str, Any]:
    """Completions as NeMo-RL's ``GenerationOutputSpec``, the contents of its ``BatchedDataDict``.

    Args:
        prompts: token ids, P for each completion.
        completions: what was sampled.
        pad_token_id: fills sequences on the right.
        dtype: of ``routed_experts``.

    Returns:
        Tensors, B sequences of at most S tokens: ``output_ids`` int64 [B, S], ``generation_lengths`` and
        ``unpadded_sequence_lengths`` int64 [B], ``logprobs`` float32 [B, S] (0.0 where not sampled), ``truncated`` bool
        [B], and ``routed_experts`` [B, S, layers, top_k] where every completion has any.

    Raises:
        MissingFieldError: a token has no log-probability.
        RoutedExpertsError: some completions have routing and others none, or rows are missing in front.
    """
    torch = framework("torch", extra="nemo-rl", install="pip install torch")
    given = [ids_of(prompt) for prompt in prompts]
    pairs = [*zip(given, completions, strict=True)]
    lengths = np.array([len(completion.token_ids) for completion in completions], np.int64)
    ends = lengths + np.array([len(prompt) for prompt in given], np.int64)
    width = int(ends.max(initial=0))
    ids = np.full((len(pairs), width), pad_token_id, np.int64)
    logprobs = np.zeros((len(pairs), width), np.float32)
    for place, ((prompt, completion), end) in enumerate(zip(pairs, ends.tolist(), strict=True)):
        ids[place, : len(prompt)] = prompt
        ids[place, len(prompt) : end] = completion.token_ids
        logprobs[place, len(prompt) : end] = logprobs_of(completion)
    columns: dict[str, NDArray[Any]] = {
        "output_ids": ids,
        "generation_lengths": lengths,
        "unpadded_sequence_lengths": ends,
        "logprobs": logprobs,
        "truncated": np.array([completion.finish_reason == "length" for completion in completions], np.bool_),
    }
    rows = [_carried(completion, len(prompt), dtype) for prompt, completion in pairs]
    held = [part for part in rows if part is not None]
    if held and len(held) < len(rows):
        raise RoutedExpertsError(f"{len(held)} of {len(rows)} completions have routed experts", kind="missing")
    if held:
        experts = np.empty((len(rows), width, *held[0].shape[1:]), dtype)
        experts[:] = np.arange(experts.shape[-1], dtype=dtype)
        for place, part in enumerate(held):
            experts[place, : len(part)] = part
        columns["routed_experts"] = experts
    return {name: torch.from_numpy(array) for name, array in columns.items()}


def message_log(sample: TrainingSample, *, dtype: CarryDtype = "int16") -> list[dict[str, Any]]:
    """A sample as NeMo-RL's message log: a user's message for what was given, an assistant's for what was sampled.

    Args:
        sample: the trajectory.
        dtype: of ``routed_experts``.

    Returns:
        Messages with ``role``, ``content`` (empty: the tokens count), ``token_ids`` int64 and, where the sample has
        routing, ``routed_experts`` [tokens, layers, top_k]; those of the assistant with ``generation_logprobs``
        float32.

    Raises:
        MissingFieldError: a sampled token has no log-probability.
    """
    torch = framework("torch", extra="nemo-rl", install="pip install torch")
    logprobs = sampled_logprobs(sample).astype(np.float32)
    recorded = recorded_rows(sample)
    rows = None if recorded is None else _with_spread(cast(recorded, dtype), len(sample))
    edges = np.flatnonzero(np.diff(sample.mask)) + 1
    bounds = [0, *edges.tolist(), len(sample)]
    messages = []
    for start, end in pairwise(bounds):
        if start == end:
            continue
        sampled = bool(sample.mask[start])
        message = {"role": "assistant" if sampled else "user", "content": ""}
        message["token_ids"] = torch.from_numpy(sample.token_ids[start:end].astype(np.int64))
        if sampled:
            message["generation_logprobs"] = torch.from_numpy(logprobs[start:end])
        if rows is not None:
            message["routed_experts"] = torch.from_numpy(rows[start:end])
        messages.append(message)
    return messages


def from_message_log(messages: Sequence[Any], *, final_row: FinalRowPolicy = "spread") -> TrainingSample:
    """The sample that a message log holds. Messages with ``generation_logprobs`` were sampled.

    Args:
        messages: with ``token_ids``.
        final_row: the row of the last token, in place of the one that NeMo-RL made.

    Raises:
        AlignmentError: a message's parts differ in length.
        RoutedExpertsError: a message lacks rows that others have, or a row says that no route was recorded.
    """
    ids = [np.asarray(message["token_ids"]) for message in messages]
    given = [message.get("generation_logprobs") for message in messages]
    logprobs = [
        np.full(len(part), np.nan) if values is None else np.asarray(values)
        for part, values in zip(ids, given, strict=True)
    ]
    mask = [np.full(len(part), values is not None) for part, values in zip(ids, given, strict=True)]
    rows = [np.asarray(message["routed_experts"]) for message in messages if message.get("routed_experts") is not None]
    tokens = np.concatenate(ids) if ids else np.empty(0, np.int32)
    experts = np.concatenate(rows) if rows else None
    if experts is not None and len(experts) != len(tokens):
        raise RoutedExpertsError(f"{len(experts)} rows of routed experts for {len(tokens)} tokens", kind="rows")
    return sample_from(
        tokens,
        np.concatenate(mask) if mask else [],
        np.concatenate(logprobs) if logprobs else [],
        rows=None if experts is None else experts[: len(tokens) - 1],
        final_row=final_row,
    )


def _carried(completion: Completion, prompt_len: int, dtype: CarryDtype) -> Chunk | None:
    """P + C rows: those recorded, -1 where an abort left none, and spread experts for the last token."""
    experts, tokens = completion.routed_experts, prompt_len + len(completion.token_ids)
    if experts is None:
        return None
    if not completion.aborted or experts.start or len(experts.array) >= tokens - 1:
        rows = whole_rows(completion, prompt_len)
        return None if rows is None else _with_spread(cast(rows, dtype), tokens)
    whole = _with_spread(cast(experts.array, dtype), tokens)
    whole[len(experts.array) : tokens - 1] = -1
    return whole


def _with_spread(rows: Chunk, tokens: int) -> Chunk:
    """Rows at the front of as many as there are tokens; all others are experts 0 to top_k - 1."""
    whole: Chunk = np.empty((tokens, *rows.shape[1:]), rows.dtype)
    whole[: len(rows)] = rows
    whole[len(rows) :] = np.arange(rows.shape[2], dtype=rows.dtype)
    return whole
