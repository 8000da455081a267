"""TRL 1.16: a client for its trainers that samples and scores on any server.

TRL takes no routed experts, so a completion's are not asked for; log-probabilities are nested lists, one list for each
token (``trl/generation/vllm_client.py``).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamo_tito._errors import TitoError
from dynamo_tito._types import TopLogprobs

from ._records import completion_of, ids_of, logprobs_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from dynamo_tito._client import TitoClient
    from dynamo_tito._types import Completion, Float64Array, Int32Array, PromptLogprobs

__all__ = ["Client", "from_output", "output", "sequence_logprobs"]

_MOST_IN_FLIGHT = 64
_DEFAULTS = {"repetition_penalty": 1.0, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "max_tokens": 16}


class Client:
    """TRL's ``VLLMClient`` with our ``generate`` and ``get_sequence_logprobs``; all else is that of ``inner``.

    Args:
        client: the server that samples and scores; without routing it need not decode any: ``experts="skip"``.
        inner: TRL's ``VLLMClient``, which transfers the weights. None where only the two methods are used.
    """

    def __init__(self, client: TitoClient, inner: Any = None) -> None:
        self._client = client
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        if name == "_inner" or self._inner is None:
            raise AttributeError(f"{name}: this client only generates and scores; give TRL's client as inner")
        return getattr(self._inner, name)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        features: Sequence[Any] | None = None,
        n: int = 1,
        *,
        logprobs: int | None = 0,
        structured_outputs_regex: str | None = None,
        generation_kwargs: Mapping[str, Any] | None = None,
        **params: Any,
    ) -> dict[str, Any]:
        """Sample ``n`` completions of each prompt, at most 64 at a time.

        Args:
            prompts: token ids.
            features: must hold nothing: the ids alone are sent.
            n: completions of each prompt.
            logprobs: 0 for the log-probability of the sampled token, k for k alternatives beside it, None for none.
            structured_outputs_regex: what the text must match, where the server can.
            generation_kwargs: further sampling parameters; they win.
            **params: ``temperature``, ``top_p``, ``top_k`` (0 is off), ``min_p``, ``repetition_penalty``,
                ``max_tokens``, with TRL's defaults.

        Returns:
            What TRL's client returns; see :func:`output`.

        Raises:
            TypeError: a prompt that is text, or an unknown parameter.
            NotImplementedError: features.
        """
        if any(features or ()):
            raise NotImplementedError("image features are not sent: the server takes token ids")
        if any(isinstance(prompt, str) for prompt in prompts):
            raise TypeError("give prompts as token ids: text is not sent")
        if unknown := params.keys() - _DEFAULTS.keys():
            raise TypeError(f"generate() got unexpected keyword arguments {sorted(unknown)}")
        given: dict[str, Any] = {**_DEFAULTS, **params, "logprobs": None if logprobs is None else max(logprobs, 1)}
        if structured_outputs_regex is not None:
            given["structured_outputs"] = {"regex": structured_outputs_regex}
        given |= generation_kwargs or {}
        given["top_k"] = given["top_k"] or -1
        ids = [ids_of(prompt) for prompt in prompts]
        calls = [(prompt, number) for prompt in ids for number in range(n)]
        seed = given.get("seed")

        def sample(call: tuple[Int32Array, int]) -> Completion:
            prompt, number = call
            own = given if seed is None else {**given, "seed": seed + number}
            return self._client.generate(prompt, sampling_params=own)

        with ThreadPoolExecutor(max(1, min(len(calls), _MOST_IN_FLIGHT)), thread_name_prefix="tito-trl") as pool:
            completions = list(pool.map(sample, calls))
        return output(ids, completions, logprobs=logprobs)

    def get_sequence_logprobs(
        self,
        sequences: Sequence[Sequence[int]],
        prompt_lengths: Sequence[int],
        top_logprobs: int = 100,
        temperature: float = 1.0,
        chunk_size: int = 0,  # noqa: ARG002 - sequences are sent one by one
        max_concurrent_requests: int = 4,
    ) -> dict[str, list[Any]]:
        """Score the completions of sequences, as a teacher does.

        Args:
            sequences: token ids, prompt and completion.
            prompt_lengths: where each completion begins.
            top_logprobs: alternatives for each token.
            temperature: see :class:`dynamo_tito.ScoreOptions`; most servers have 1 only.
            chunk_size: not used.
            max_concurrent_requests: sequences in flight.

        Returns:
            What TRL's client returns; see :func:`sequence_logprobs`.

        Raises:
            TitoError: of the first sequence that could not be scored.
        """
        scored = self._client.score_many(
            sequences,
            start=[*prompt_lengths],
            top_k=top_logprobs,
            temperature=temperature,
            concurrency=max_concurrent_requests,
        )
        results = []
        for sequence, start, result in zip(sequences, prompt_lengths, scored, strict=True):
            if isinstance(result, TitoError):
                raise result
            results.append(sequence_logprobs(sequence, result, start=start, top_logprobs=top_logprobs))
        names = ("logprobs", "logprob_token_ids", "actual_logprobs", "actual_token_ids")
        return {name: [result[name] for result in results] for name in names}


def output(prompts: Sequence[Any], completions: Sequence[Completion], *, logprobs: int | None = 0) -> dict[str, Any]:
    """Completions as TRL's client returns them.

    Args:
        prompts: token ids.
        completions: of the first prompt, then of the next, the same number for each.
        logprobs: as of :meth:`Client.generate`.

    Returns:
        ``prompt_ids``, one list for each prompt; ``completion_ids``; ``logprobs`` and ``logprob_token_ids``: for each
        completion and token the entries, highest first, or None where ``logprobs`` is None.

    Raises:
        MissingFieldError: a token has no log-probability.
    """
    entries = None if logprobs is None else [_entries(completion, logprobs) for completion in completions]
    return {
        "prompt_ids": [ids_of(prompt).tolist() for prompt in prompts],
        "completion_ids": [completion.token_ids.tolist() for completion in completions],
        "logprobs": None if entries is None else [values for values, _ in entries],
        "logprob_token_ids": None if entries is None else [ids for _, ids in entries],
    }


def from_output(result: Mapping[str, Any]) -> list[Completion]:
    """The completions that such a dictionary holds, each with its prompt.

    The log-probability of a token is that of the entry with its id.

    Raises:
        AlignmentError: a completion's log-probabilities are not one list for each token.
        ValueError: another number of completions for each prompt, or a token that is not among its entries.
    """
    prompts, ids = result["prompt_ids"], result["completion_ids"]
    if not prompts or len(ids) % len(prompts):
        raise ValueError(f"{len(ids)} completions are not the same number for each of {len(prompts)} prompts")
    each = len(ids) // len(prompts)
    values, names = result.get("logprobs"), result.get("logprob_token_ids")
    return [
        completion_of(
            sampled,
            None if values is None or names is None else _chosen(sampled, values[number], names[number]),
            source="trl",
            prompt_len=len(prompts[number // each]),
            prompt_token_ids=ids_of(prompts[number // each]),
        )
        for number, sampled in enumerate(ids)
    ]


def sequence_logprobs(sequence: Any, scored: PromptLogprobs, *, start: int, top_logprobs: int) -> dict[str, Any]:
    """A scored sequence as TRL's ``get_sequence_logprobs`` returns it, for the tokens from ``start`` on.

    Returns:
        ``logprobs`` and ``logprob_token_ids``: ``top_logprobs`` entries for each token, highest first, filled with
        ``-inf`` and 0; ``actual_logprobs`` and ``actual_token_ids``: the token itself, ``-inf`` where it has none.
    """
    ids = ids_of(sequence)[start:]
    offsets = scored.top.offsets[start:]
    values, names = _table(scored.top, offsets, top_logprobs)
    actual = np.where(np.isnan(scored.logprobs[start:]), -np.inf, scored.logprobs[start:])
    return {
        "logprobs": values.tolist(),
        "logprob_token_ids": names.tolist(),
        "actual_logprobs": actual[:, None].tolist(),
        "actual_token_ids": ids[:, None].tolist(),
    }


def _table(top: TopLogprobs, offsets: NDArray[np.int64], width: int) -> tuple[Float64Array, Int32Array]:
    """The first ``width`` entries of each position as rectangles, filled with -inf and 0."""
    counts = np.diff(offsets)
    position = np.repeat(np.arange(len(counts)), counts)
    column = np.arange(offsets[-1] - offsets[0]) - np.repeat(offsets[:-1] - offsets[0], counts)
    span = slice(int(offsets[0]), int(offsets[-1]))
    kept = column < width
    values = np.full((len(counts), width), -np.inf)
    names = np.zeros((len(counts), width), np.int32)
    found = top.logprobs[span][kept]
    values[position[kept], column[kept]] = np.where(np.isnan(found), -np.inf, found)
    names[position[kept], column[kept]] = top.token_ids[span][kept]
    return values, names


def _entries(completion: Completion, logprobs: int) -> tuple[list[Any], list[Any]]:
    """For each token its entries, highest first; the sampled token is one of them."""
    sampled, ids, top = logprobs_of(completion), completion.token_ids, completion.top_logprobs
    if not logprobs or top is None:
        return sampled[:, None].tolist(), ids[:, None].tolist()
    position = np.repeat(np.arange(len(ids)), np.diff(top.offsets))
    there = np.zeros(len(ids), np.bool_)
    there[position[top.token_ids == ids[position]]] = True
    added = np.flatnonzero(~there)
    position = np.concatenate([position, added])
    names = np.concatenate([top.token_ids, ids[added]])
    values = np.concatenate([top.logprobs, sampled[added]])
    order = np.lexsort((-values, position))
    ends = np.cumsum(np.bincount(position, minlength=len(ids)))[:-1]
    names, values = names[order], values[order]
    if len(names) % max(len(ids), 1) == 0 and np.array_equal(ends, np.arange(1, len(ids)) * (len(names) // len(ids))):
        return values.reshape(len(ids), -1).tolist(), names.reshape(len(ids), -1).tolist()
    return [part.tolist() for part in np.split(values, ends)], [part.tolist() for part in np.split(names, ends)]


def _chosen(sampled: Sequence[int], values: Sequence[Any], names: Sequence[Any]) -> list[float]:
    """The entry of each sampled token. Entries are nested lists, which are read one by one."""
    if not len(sampled) == len(values) == len(names):
        raise ValueError(f"{len(values)} lists of log-probabilities for {len(sampled)} tokens")
    found = []
    for token, entries, ids in zip(sampled, values, names, strict=True):
        if token not in ids:
            raise ValueError(f"token {token} is not among its entries {ids}")
        value = entries[ids.index(token)]
        found.append(float("nan") if value is None else value)
    return found
