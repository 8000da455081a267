"""AReaL 1.0: ``agenerate`` over any server, and its ``ModelResponse`` and training tensors in both directions.

Rows of routing: ``ModelResponse.routed_experts`` is int32 [P + C - 1, layers * top_k], two dimensions
(``areal/engine/sglang_remote.py``). AReaL's own engine appends all rows of a continued answer behind those that it has
(``areal/infra/remote_inf_engine.py``), so rows then repeat; here an aborted answer's rows are continued, each once.
"""

from __future__ import annotations

import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamo_tito._errors import RoutedExpertsError

from ._connection import until_ended
from ._frameworks import framework
from ._records import (
    cast,
    completion_of,
    ids_of,
    logprobs_of,
    sample_from,
    sampled_logprobs,
    version_number,
    version_numbers,
    whole_rows,
)

if TYPE_CHECKING:
    from dynamo_tito._client import AsyncTitoClient
    from dynamo_tito._types import Completion
    from dynamo_tito.rollout import TrainingSample

__all__ = ["Engine", "from_model_response", "from_tensors", "model_response", "tensors"]

_REASONS = {"stop", "length", "tool_calls", "abort"}


class Engine:
    """An AReaL ``InferenceEngine`` whose ``agenerate`` is ours; every other attribute is that of ``inner``.

    Args:
        client: the server that samples. With ``require_routed_experts=True`` a request for routing without any fails.
        inner: the engine that AReaL made: it holds the version, pauses, updates weights and runs workflows.
        pause: seconds before an aborted completion is continued.
    """

    def __init__(self, client: AsyncTitoClient, inner: Any, *, pause: float = 0.5) -> None:
        self._client = client
        self._inner = inner
        self._pause = pause

    def __getattr__(self, name: str) -> Any:
        if name == "_inner":
            raise AttributeError(name)
        return getattr(self._inner, name)

    async def agenerate(self, req: Any) -> Any:
        """Sample one completion; an aborted one is continued until it ends.

        Args:
            req: AReaL's ``ModelRequest``.

        Returns:
            AReaL's ``ModelResponse``. ``output_versions`` has the numbers of the versions that the server names, and
            ``inner.get_version()`` when each answer came where it names none.

        Raises:
            NotImplementedError: images, or beam search.
            ValueError: ``n_samples`` is not 1, or no token may be sampled.
            RoutedExpertsError: ``metadata["return_routed_experts"]`` is set, and there are none.
        """
        if req.image_data or req.gconfig.use_beam_search:
            raise NotImplementedError("images and beam search are not sent: the server takes token ids and samples")
        began = time.perf_counter()
        prompt = ids_of(req.input_ids)
        versions: list[int] = []

        def seen(answer: Completion) -> None:
            versions.extend(version_numbers(answer, int(self._inner.get_version())).tolist())

        completion = await until_ended(
            self._client, prompt, _params(req.gconfig, len(prompt)), pause=self._pause, seen=seen, session_id=req.rid
        )
        if req.metadata.get("return_routed_experts") and completion.routed_experts is None:
            raise RoutedExpertsError(
                "routed experts were asked for, and the server sent none: does it serve a mixture of experts, with "
                "routed experts enabled?",
                kind="missing",
            )
        response = model_response(completion, req.input_ids, version=-1)
        response.output_versions = versions
        response.latency = response.ttft = time.perf_counter() - began
        response.tokenizer, response.processor = req.tokenizer, req.processor
        return response


def model_response(completion: Completion, prompt_ids: Any, *, version: int) -> Any:
    """A completion as AReaL's ``ModelResponse``.

    Args:
        completion: with every row of routing from position 0 on, or none.
        prompt_ids: token ids [P].
        version: of tokens whose version the server does not name with a number.

    Raises:
        MissingFieldError: a token has no log-probability.
        RoutedExpertsError: rows are missing.
    """
    prompt = ids_of(prompt_ids)
    rows = whole_rows(completion, len(prompt))
    return framework("areal.api.io_struct", extra="areal").ModelResponse(
        input_tokens=prompt.tolist(),
        output_tokens=completion.token_ids.tolist(),
        output_logprobs=logprobs_of(completion).tolist(),
        output_versions=version_numbers(completion, version).tolist(),
        stop_reason=completion.finish_reason if completion.finish_reason in _REASONS else "stop",
        routed_experts=None if rows is None else cast(rows, np.int32).reshape(len(rows), -1),
    )


def from_model_response(response: Any, *, num_layers: int | None = None) -> Completion:
    """The completion that a ``ModelResponse`` holds.

    Args:
        response: as of ``agenerate``.
        num_layers: layers of its routed experts, which it holds flat; needed where it has any.

    Raises:
        AlignmentError: its parts differ in length.
        RoutedExpertsError: its rows are not P + C - 1, or no whole number of layers wide.
    """
    rows = response.routed_experts
    if rows is not None:
        if num_layers is None or rows.shape[-1] % num_layers:
            raise RoutedExpertsError(
                f"rows of {rows.shape[-1]} experts: num_layers must say how many layers they are", kind="shape"
            )
        rows = rows.reshape(len(rows), num_layers, -1)
    versions = np.asarray(response.output_versions, np.int64)
    edges = [0, *(np.flatnonzero(np.diff(versions)) + 1).tolist(), len(versions)]
    return completion_of(
        response.output_tokens,
        response.output_logprobs,
        source="areal.ModelResponse",
        prompt_len=len(response.input_tokens),
        rows=rows,
        finish_reason=response.stop_reason,
        prompt_token_ids=ids_of(response.input_tokens),
        weight_versions=[
            {"version": str(int(versions[start])), "start": start, "end": end}
            for start, end in pairwise(edges)
            if start < end
        ]
        or None,
    )


def tensors(sample: TrainingSample, *, reward: float, version: int = -1) -> dict[str, Any]:
    """A sample as the dictionary that a workflow's ``arun_episode`` returns.

    Args:
        sample: the trajectory. Routing has no place in it.
        reward: of the whole.
        version: of sampled tokens whose version is not a number, or not known.

    Returns:
        Tensors with a batch dimension of 1: ``input_ids`` int32 [1, N], ``loss_mask`` int32, ``logprobs`` float32 (0.0
        where not sampled), ``versions`` int32 (-1 where not sampled), ``attention_mask`` bool, ``rewards`` float32 [1].

    Raises:
        MissingFieldError: a sampled token has no log-probability.
    """
    torch = framework("torch", extra="areal", install="pip install torch")
    versions = np.where(sample.mask, version, -1).astype(np.int32)
    for span in sample.weight_versions:
        if (number := version_number(span.version)) is not None:
            versions[span.start : span.end] = number
    columns = {
        "input_ids": sample.token_ids,
        "loss_mask": sample.mask.astype(np.int32),
        "logprobs": sampled_logprobs(sample).astype(np.float32),
        "versions": versions,
        "attention_mask": np.ones(len(sample), np.bool_),
        "rewards": np.float32(reward),
    }
    return {name: torch.as_tensor(np.array(array)).unsqueeze(0) for name, array in columns.items()}


def from_tensors(result: dict[str, Any]) -> TrainingSample:
    """The sample of such a dictionary, with a batch dimension of 1; padding behind ``attention_mask`` is dropped.

    Raises:
        ValueError: another batch dimension.
    """
    arrays = {name: np.asarray(tensor) for name, tensor in result.items()}
    if len(arrays["input_ids"]) != 1:
        raise ValueError(f"{len(arrays['input_ids'])} sequences: give one at a time")
    kept = int(arrays["attention_mask"][0].sum())
    ids, mask, logprobs, versions = (
        arrays[name][0][:kept] for name in ("input_ids", "loss_mask", "logprobs", "versions")
    )
    return sample_from(ids, mask, logprobs, versions=versions)


def _params(gconfig: Any, prompt_len: int) -> dict[str, Any]:
    if gconfig.n_samples != 1:
        raise ValueError("agenerate samples one completion: n_samples must be 1")
    most = min(gconfig.max_tokens - prompt_len, gconfig.max_new_tokens)
    if most <= 0:
        raise ValueError(f"max_tokens {gconfig.max_tokens} leaves no room behind a prompt of {prompt_len} tokens")
    params = {
        "max_tokens": most,
        "temperature": 0.0 if gconfig.greedy else gconfig.temperature,
        "top_p": gconfig.top_p,
        "top_k": gconfig.top_k if gconfig.top_k < _TOP_K_OFF else -1,
        "stop_token_ids": [*gconfig.stop_token_ids],
        "stop": gconfig.stop,
        "min_tokens": gconfig.min_new_tokens or None,
        "frequency_penalty": gconfig.frequency_penalty or None,
        "ignore_eos": gconfig.ignore_eos or None,
    }
    return {name: value for name, value in params.items() if value is not None}


_TOP_K_OFF = 10**8
"""AReaL's default of ``top_k``, above any vocabulary: off."""
