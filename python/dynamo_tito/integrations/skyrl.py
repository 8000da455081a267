"""SkyRL: an inference engine over any server, and generator output made of samples.

Rows of routing: ``rollout_expert_indices`` has those of positions 0 to P + C - 2; ``preprocess`` pads the rest of a
sequence with zeros and narrows to uint8 or int16 (``skyrl/train/dataset/preprocess.py``). So the row that a policy made
for the last token is never handed over. SkyRL 0.3.0 takes nested lists, later versions arrays
(``skyrl/backends/skyrl_train/utils/routed_experts.py``); the installed version decides.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ._connection import all_of
from ._records import (
    cast,
    ids_of,
    logprobs_of,
    prompt_length,
    recorded_rows,
    sample_from,
    sampled_logprobs,
    whole_rows,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dynamo_tito._client import AsyncTitoClient
    from dynamo_tito._types import Completion
    from dynamo_tito.rollout import FinalRowPolicy, TrainingSample
    from dynamo_tito.rollout.routing import Chunk

__all__ = ["InferenceEngine", "engine_output", "from_generator_output", "generator_output"]


class InferenceEngine:
    """SkyRL's ``InferenceEngineInterface`` with our ``generate``; every other attribute is that of ``inner``.

    Args:
        client: the server that samples.
        inner: SkyRL's ``RemoteInferenceClient``: weights, pauses, sessions, chat. None where only ``generate`` is used.
        tokenizer: decodes responses; that of ``inner`` if None.
    """

    def __init__(self, client: AsyncTitoClient, inner: Any = None, *, tokenizer: Any = None) -> None:
        self._client = client
        self._inner = inner
        self.tokenizer = getattr(inner, "tokenizer", None) if tokenizer is None else tokenizer

    def __getattr__(self, name: str) -> Any:
        if name == "_inner" or self._inner is None:
            raise AttributeError(f"{name}: this engine only generates; give SkyRL's client as inner")
        return getattr(self._inner, name)

    async def generate(self, input_batch: Mapping[str, Any], model: str | None = None) -> dict[str, Any]:
        """Sample one completion for each prompt, all at once.

        Args:
            input_batch: SkyRL's ``InferenceEngineInput`` with ``prompt_token_ids``.
            model: an adapter's name, in place of the client's model.

        Returns:
            SkyRL's ``InferenceEngineOutput``; see :func:`engine_output`.

        Raises:
            NotImplementedError: messages in place of token ids, multimodal features, several completions.
        """
        prompts = input_batch.get("prompt_token_ids")
        if prompts is None or any(input_batch.get("mm_features") or ()):
            raise NotImplementedError("give prompt_token_ids without features: the server takes token ids")
        params = dict(input_batch.get("sampling_params") or {})
        if params.pop("n", 1) != 1:
            raise NotImplementedError("one completion for each prompt: repeat the prompt for more")
        with_logprobs = params.get("logprobs") is not None
        params["logprobs"] = max(int(params["logprobs"]), 1) if with_logprobs else None
        sessions = input_batch.get("session_ids") or [None] * len(prompts)
        extra = None if model is None else {"model": model}
        given = [ids_of(prompt) for prompt in prompts]
        completions = await all_of(
            [
                self._client.generate(
                    prompt,
                    sampling_params=params,
                    session_id=None if session is None else str(session),
                    cache_salt=input_batch.get("cache_salt"),
                    extra_body=extra,
                )
                for prompt, session in zip(given, sessions, strict=True)
            ]
        )
        return engine_output(given, completions, tokenizer=self.tokenizer, logprobs=with_logprobs)


def engine_output(
    prompts: Sequence[Any], completions: Sequence[Completion], *, tokenizer: Any, logprobs: bool = True
) -> dict[str, Any]:
    """Completions as SkyRL's ``InferenceEngineOutput``.

    Args:
        prompts: token ids, P for each completion.
        completions: with every row of routing from position 0 on, or none.
        tokenizer: decodes the responses, special tokens left out.
        logprobs: whether to hand over the log-probabilities.

    Returns:
        ``responses``, ``response_ids``, ``stop_reasons``, ``response_logprobs``, ``prompt_logprobs`` and
        ``rollout_expert_indices``: for each completion [P + C - 1, layers, top_k], or None where none has routing.

    Raises:
        MissingFieldError: a token has no log-probability.
        RoutedExpertsError: rows are missing.
    """
    rows = [whole_rows(completion, len(prompt)) for prompt, completion in zip(prompts, completions, strict=True)]
    ids = [completion.token_ids.tolist() for completion in completions]
    return {
        "responses": [tokenizer.decode(response, skip_special_tokens=True) for response in ids],
        "response_ids": ids,
        "stop_reasons": [completion.finish_reason or "stop" for completion in completions],
        "response_logprobs": [logprobs_of(completion).tolist() for completion in completions] if logprobs else None,
        "prompt_logprobs": None,
        "rollout_expert_indices": _indices(rows),
    }


def generator_output(samples: Sequence[TrainingSample], rewards: Sequence[Any], **fields: Any) -> dict[str, Any]:
    """Samples as the ``GeneratorOutput`` that a SkyRL generator returns.

    Args:
        samples: trajectories. The tokens before the first sampled one are the prompt, all others the response.
        rewards: a number for each trajectory, or a list with one for each token of its response.
        **fields: further fields, such as ``trajectory_ids`` and ``env_metrics``.

    Raises:
        MissingFieldError: a sampled token has no log-probability.
        ValueError: a sample without a sampled token, or another number of rewards.
    """
    if len(rewards) != len(samples):
        raise ValueError(f"{len(rewards)} rewards for {len(samples)} samples")
    starts = [prompt_length(sample) for sample in samples]
    pairs = [*zip(samples, starts, strict=True)]
    return {
        "prompt_token_ids": [sample.token_ids[:start].tolist() for sample, start in pairs],
        "response_ids": [sample.token_ids[start:].tolist() for sample, start in pairs],
        "rewards": [*rewards],
        "loss_masks": [sample.mask[start:].astype(np.int64).tolist() for sample, start in pairs],
        "stop_reasons": [sample.turns[-1].finish_reason or "stop" for sample in samples],
        "rollout_metrics": None,
        "rollout_logprobs": [sampled_logprobs(sample)[start:].tolist() for sample, start in pairs],
        "rollout_expert_indices": _indices([recorded_rows(sample) for sample in samples]),
        **fields,
    }


def from_generator_output(output: Mapping[str, Any], *, final_row: FinalRowPolicy = "repeat") -> list[TrainingSample]:
    """The samples that a ``GeneratorOutput`` holds.

    Args:
        output: as generators return it, not padded. Rows of tokens that SkyRL filled with zeros are taken as they are.
        final_row: the row of the last token where it has none.

    Raises:
        AlignmentError: its parts differ in length.
        RoutedExpertsError: rows are not N - 1 or N.
    """
    count = len(output["response_ids"])
    logprobs = output.get("rollout_logprobs") or [None] * count
    rows = output.get("rollout_expert_indices") or [None] * count
    reasons = output.get("stop_reasons") or [None] * count
    return [
        sample_from(
            [*prompt, *response],
            np.concatenate([np.zeros(len(prompt), np.bool_), np.asarray(mask, np.bool_)]),
            None if values is None else np.concatenate([np.full(len(prompt), np.nan), values]),
            rows=None if held is None or not len(held) else np.asarray(held),
            final_row=final_row,
            finish_reason=reason,
        )
        for prompt, response, mask, values, held, reason in zip(
            output["prompt_token_ids"],
            output["response_ids"],
            output["loss_masks"],
            logprobs,
            rows,
            reasons,
            strict=True,
        )
    ]


def _indices(rows: Sequence[Chunk | None]) -> list[Any] | None:
    """Rows as the installed SkyRL takes them: nested lists in 0.3.0, arrays of uint8, int16 or int32 later."""
    if all(held is None for held in rows):
        return None
    package = find_spec("skyrl")
    places = () if package is None else package.submodule_search_locations or ()
    # Looked for as a file: importing its packages imports vLLM.
    if any((Path(place) / "backends/skyrl_train/utils/routed_experts.py").exists() for place in places):
        return [None if held is None else _compact(held) for held in rows]
    return [None if held is None else held.tolist() for held in rows]


def _compact(rows: Chunk) -> Chunk:
    """The narrowest of SkyRL's three widths, writable."""
    most = int(rows.max(initial=0))
    narrow = cast(rows, "uint8" if most < 1 << 8 else "int16" if most < 1 << 15 else "int32")
    return np.require(narrow, requirements=["C", "W"])
