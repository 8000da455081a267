"""tinker 0.38: its types in both directions, and a sampling client over any server.

tinker has no routed experts: a ``Datum`` holds one fewer position than the sample, inputs [0, N - 1) and targets
[1, N), and what stands at a target's position belongs to it (``tinker/types/datum.py``). Routing is left out.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamo_tito._errors import MissingFieldError
from dynamo_tito._types import TopLogprobs

from ._connection import all_of
from ._frameworks import framework
from ._records import completion_of, ids_of, sample_from, sampled_logprobs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dynamo_tito._client import AsyncTitoClient
    from dynamo_tito._types import Completion, PromptLogprobs
    from dynamo_tito.rollout import TrainingSample

__all__ = [
    "SamplingClient",
    "datum",
    "from_datum",
    "from_sample_response",
    "sample_response",
    "sampled_sequence",
    "sampling_params",
]

_MASKED = -99999.0
"""``tinker.types.topk_logprobs.MASK_LOGPROB``: with token 0 it fills a row of fewer than k entries."""


class SamplingClient:
    """tinker's ``SamplingClient`` over any server. Its methods are awaited; there is no ``.result()``.

    Args:
        client: the server that samples and scores.
    """

    def __init__(self, client: AsyncTitoClient) -> None:
        self._client = client

    async def sample(
        self,
        prompt: Any,
        num_samples: int,
        sampling_params: Any,
        include_prompt_logprobs: bool = False,  # noqa: FBT001, FBT002 - tinker's signature
        topk_prompt_logprobs: int = 0,
        topk_sample_logprobs: int = 0,
    ) -> Any:
        """Sample completions of a prompt.

        Args:
            prompt: ``ModelInput`` of tokens.
            num_samples: completions, asked for at once.
            sampling_params: ``SamplingParams``. With ``seed`` sample i gets ``seed + i``.
            include_prompt_logprobs: score the prompt, too, with a request of its own.
            topk_prompt_logprobs: alternatives at each token of the prompt.
            topk_sample_logprobs: alternatives at each sampled token.

        Returns:
            ``SampleResponse``; see :func:`sample_response`.

        Raises:
            ValueError: the prompt has other chunks than tokens, or a completion was aborted.
        """
        ids = ids_of(prompt.to_ints())
        params = _params(sampling_params, topk_sample_logprobs)
        seed = params.get("seed")
        calls = [
            self._client.generate(ids, sampling_params=params if seed is None else {**params, "seed": seed + number})
            for number in range(num_samples)
        ]
        wanted = include_prompt_logprobs or topk_prompt_logprobs
        scoring = all_of([self._client.score(ids, top_k=topk_prompt_logprobs)] if wanted else [])
        completions, scored = await asyncio.gather(all_of(calls), scoring)
        return sample_response(
            completions,
            prompt_logprobs=scored[0] if scored else None,
            topk_sample_logprobs=topk_sample_logprobs,
            topk_prompt_logprobs=topk_prompt_logprobs,
        )

    sample_async = sample

    async def compute_logprobs(self, prompt: Any) -> list[float | None]:
        """The log-probability of each token of a ``ModelInput``; None for the first, which has no past."""
        scored = await self._client.score(ids_of(prompt.to_ints()))
        values = scored.logprobs.astype(object)
        values[np.isnan(scored.logprobs)] = None
        listed: list[float | None] = values.tolist()
        return listed

    compute_logprobs_async = compute_logprobs


def sampling_params(params: Any, *, logprobs: int = 1) -> dict[str, Any]:
    """The ``sampling_params`` of a client's ``generate`` for tinker's ``SamplingParams``.

    ``stop`` of ids is ``stop_token_ids``; an empty one switches the end of sequence off.
    """
    return _params(params, logprobs)


def sampled_sequence(completion: Completion, *, sequence_id: str = "", topk: int = 0) -> Any:
    """A completion as tinker's ``SampledSequence``.

    Args:
        completion: that has ended.
        sequence_id: the completion's request id if empty.
        topk: alternatives for each token.

    Returns:
        ``tokens_np`` is the completion's int32 array, ``logprobs_np`` float32.

    Raises:
        MissingFieldError: alternatives were asked for, and there are none.
        ValueError: it was aborted: tinker has no reason for that.
    """
    if completion.finish_reason not in ("stop", "length"):
        raise ValueError(
            f"the completion ended with {completion.finish_reason!r}; tinker knows 'stop' and 'length': continue it or "
            "drop it"
        )
    types = framework("tinker.types", extra="tinker")
    logprobs, top = completion.logprobs, completion.top_logprobs
    if topk and top is None:
        raise MissingFieldError(
            "the completion has no alternatives with token ids: the server sends none on this route",
            kind="missing",
            path="top_logprobs",
        )
    return types.SampledSequence(
        stop_reason=completion.finish_reason,
        sequence_id=sequence_id or completion.request_id or "",
        tokens_np=completion.token_ids,
        logprobs_np=None if logprobs is None else logprobs.astype(np.float32),
        topk_logprobs_np=None if not topk or top is None else _topk(top, topk),
    )


def sample_response(
    completions: Sequence[Completion],
    *,
    prompt_logprobs: PromptLogprobs | None = None,
    topk_sample_logprobs: int = 0,
    topk_prompt_logprobs: int = 0,
) -> Any:
    """Completions of one prompt as tinker's ``SampleResponse``.

    Args:
        completions: that have ended.
        prompt_logprobs: the prompt as ``score`` gives it.
        topk_sample_logprobs: alternatives for each sampled token.
        topk_prompt_logprobs: alternatives for each token of the prompt.

    Returns:
        ``prompt_logprobs_np`` is float32 [P], NaN where there is none.
    """
    types = framework("tinker.types", extra="tinker")
    scored = prompt_logprobs
    return types.SampleResponse(
        sequences=[
            sampled_sequence(completion, sequence_id=f"{completion.request_id}-{number}", topk=topk_sample_logprobs)
            for number, completion in enumerate(completions)
        ],
        prompt_logprobs_np=None if scored is None else scored.logprobs.astype(np.float32),
        topk_prompt_logprobs_np=(
            None if scored is None or not topk_prompt_logprobs else _topk(scored.top, topk_prompt_logprobs)
        ),
    )


def from_sample_response(response: Any, *, prompt_len: int) -> list[Completion]:
    """The completions that a ``SampleResponse`` holds.

    Raises:
        AlignmentError: log-probabilities are not one for each token.
    """
    return [
        completion_of(
            sequence.tokens if sequence.tokens_np is None else sequence.tokens_np,
            sequence.logprobs if sequence.logprobs_np is None else sequence.logprobs_np,
            source="tinker.SampledSequence",
            prompt_len=prompt_len,
            finish_reason=sequence.stop_reason,
            request_id=sequence.sequence_id or None,
            index=number,
        )
        for number, sequence in enumerate(response.sequences)
    ]


def datum(sample: TrainingSample, *, advantages: Any = None) -> Any:
    """A sample as tinker's ``Datum``: the tokens but the last as input, those but the first as targets.

    Args:
        sample: the trajectory.
        advantages: for ``importance_sampling`` and ``ppo``: a number, or one for each token [N]; 0 is sent where the
            token was not sampled. None for ``cross_entropy``: weights, 1 where the token was sampled.

    Returns:
        ``loss_fn_inputs`` has ``target_tokens`` int64 [N - 1], and ``logprobs`` and ``advantages`` float32, or
        ``weights`` float32.

    Raises:
        MissingFieldError: a sampled token has no log-probability.
        ValueError: fewer than two tokens, or advantages of another length.
    """
    if len(sample) < 2:
        raise ValueError("a datum needs two tokens: an input and its target")
    types = framework("tinker.types", extra="tinker")
    inputs: dict[str, Any] = {"target_tokens": sample.token_ids[1:].astype(np.int64)}
    if advantages is None:
        inputs["weights"] = sample.mask[1:].astype(np.float32)
    else:
        given = np.asarray(advantages, np.float32)
        if given.shape not in ((), (len(sample),)):
            raise ValueError(f"advantages of shape {given.shape} for {len(sample)} tokens")
        inputs["logprobs"] = sampled_logprobs(sample)[1:].astype(np.float32)
        inputs["advantages"] = np.where(sample.mask, given, np.float32(0))[1:]
    return types.Datum(
        model_input=types.ModelInput.from_ints(sample.token_ids[:-1].tolist()),
        loss_fn_inputs={name: types.TensorData.from_numpy(array) for name, array in inputs.items()},
    )


def from_datum(datum: Any, *, mask: Any = None) -> TrainingSample:
    """The sample that a ``Datum`` holds.

    Args:
        datum: with inputs of tokens.
        mask: [N], true where the token was sampled; None where ``weights`` say it.

    Raises:
        ValueError: inputs and targets are not one sequence, or nothing says what was sampled.
    """
    inputs, given = ids_of(datum.model_input.to_ints()), datum.loss_fn_inputs
    targets = ids_of(given["target_tokens"].to_numpy())
    if len(inputs) != len(targets) or not np.array_equal(inputs[1:], targets[:-1]):
        raise ValueError("targets are not the inputs one token on: not a datum of one sequence")
    if mask is None:
        if "weights" not in given:
            raise ValueError("an advantage or log-probability of 0 does not tell a sampled token: give mask")
        mask = np.concatenate([[False], given["weights"].to_numpy() != 0])
    logprobs = given["logprobs"].to_numpy() if "logprobs" in given else None
    return sample_from(
        np.concatenate([inputs[:1], targets]),
        mask,
        None if logprobs is None else np.concatenate([[np.nan], logprobs]),
    )


def _params(params: Any, logprobs: int) -> dict[str, Any]:
    stop = params.stop
    found: dict[str, Any] = {
        "max_tokens": params.max_tokens,
        "seed": params.seed,
        "temperature": params.temperature,
        "top_k": params.top_k,
        "top_p": params.top_p,
        "logprobs": max(logprobs, 1),
    }
    if stop is not None and not stop:
        found["ignore_eos"] = True
    elif isinstance(stop, str) or (stop and isinstance(stop[0], str)):
        found["stop"] = stop
    elif stop:
        found["stop_token_ids"] = [*stop]
    return {name: value for name, value in found.items() if value is not None}


def _topk(top: TopLogprobs, width: int) -> Any:
    """Entries as tinker's dense matrices [positions, width], highest first."""
    counts = np.diff(top.offsets)
    position = np.repeat(np.arange(len(counts)), counts)
    order = np.lexsort((-top.logprobs, position))
    column = np.arange(len(order)) - np.repeat(top.offsets[:-1], counts)
    kept = column < width
    ids = np.zeros((len(counts), width), np.int32)
    values = np.full((len(counts), width), _MASKED, np.float32)
    ids[position[kept], column[kept]] = top.token_ids[order][kept]
    values[position[kept], column[kept]] = top.logprobs[order][kept]
    return framework("tinker.types.topk_logprobs", extra="tinker").TopkLogprobs(token_ids=ids, logprobs=values)
