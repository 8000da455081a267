"""verl 0.9: agent loops that sample from any server, and samples as agent loops return them.

Rows of routing: verl takes those of positions 0 to P + C - 2, int16, and fills the last position with zeros itself;
its replay and its metrics leave that position out (``verl/experimental/agent_loop/agent_loop.py``,
``verl/trainer/ppo/metric_utils.py``). So the row that a policy made for the last token is never handed over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ._connection import Connection, until_ended
from ._frameworks import framework
from ._records import (
    cast,
    completion_of,
    ids_of,
    last_version,
    logprobs_of,
    prompt_length,
    recorded_rows,
    sample_from,
    sampled_logprobs,
    version_number,
    whole_rows,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dynamo_tito._types import Completion
    from dynamo_tito.rollout import FinalRowPolicy, TrainingSample

__all__ = ["ServerClient", "agent_loop_output", "from_agent_loop_output", "from_token_output", "token_output"]

_STOP = {"stop": "completed", "length": "completed", "abort": "aborted"}
_REASONS = {"completed": "stop", "aborted": "abort"}


class ServerClient:
    """In place of verl's ``LLMServerClient``: its agent loops sample with ``generate``.

    It travels to Ray actors, and has one HTTP client for each event loop.

    Args:
        config: verl's whole configuration. Where a call names no ``max_tokens``, its ``rollout.response_length`` and
            ``rollout.prompt_length`` bound the response, as verl's own servers do.
        load_balancer_handle: not used: the server balances.
        base_url: the server.
        resume: whether a completion that is aborted is continued until it ends; if not, it is returned as verl's
            synchronous client returns it, with ``stop_reason="aborted"``.
        pause: seconds before an aborted completion is continued.
        **options: as of :func:`dynamo_tito.connect`, such as ``backend``, ``model`` and ``api_key``.
    """

    def __init__(
        self,
        config: Any = None,
        load_balancer_handle: Any = None,  # noqa: ARG002 - verl's `get_client` passes it
        *,
        base_url: str,
        resume: bool = True,
        pause: float = 1.0,
        **options: Any,
    ) -> None:
        self.config = config
        self.tokenizer: Any = None
        self._resume = resume
        self._pause = pause
        self._connection = Connection(base_url, **options)

    async def generate(
        self,
        request_id: str,
        *,
        prompt_ids: Sequence[int],
        sampling_params: Mapping[str, Any],
        image_data: Any = None,
        video_data: Any = None,
        audio_data: Any = None,
        priority: int = 0,
        **_: Any,
    ) -> Any:
        """Sample one completion.

        Args:
            request_id: keeps the requests of one trajectory together.
            prompt_ids: token ids [P].
            sampling_params: vLLM's, with ``logprobs`` true or false.
            image_data: must be empty, like the next two: the ids alone are sent.
            video_data: likewise.
            audio_data: likewise.
            priority: in the server's own sense; 0 is not sent.

        Returns:
            verl's ``TokenOutput``; see :func:`token_output`.

        Raises:
            NotImplementedError: images, video or audio.
            ValueError: neither ``max_tokens`` nor a configuration bounds the response.
        """
        if image_data or video_data or audio_data:
            raise NotImplementedError("images, video and audio are not sent: the server takes token ids")
        prompt = ids_of(prompt_ids)
        params = {**sampling_params}
        params["logprobs"] = 1 if params.get("logprobs") else None
        params["max_tokens"] = self._budget(params.pop("max_new_tokens", params.pop("max_tokens", None)), len(prompt))
        options: dict[str, Any] = {"session_id": str(request_id), "priority": priority or None}
        client = self._connection.client()
        if self._resume:
            completion = await until_ended(client, prompt, params, pause=self._pause, **options)
        else:
            completion = await client.generate(prompt, sampling_params=params, **options)
        return token_output(completion, prompt_len=len(prompt))

    async def aclose(self) -> None:
        """Close the HTTP client of the running event loop."""
        await self._connection.aclose()

    def _budget(self, asked: int | None, prompt_len: int) -> int:
        if asked is not None:
            return asked
        if self.config is None:
            raise ValueError("max_tokens is missing: give it in sampling_params, or ServerClient(config=...)")
        rollout = self.config.actor_rollout_ref.rollout
        return max(
            1, min(int(rollout.response_length), int(rollout.prompt_length + rollout.response_length) - prompt_len)
        )


def token_output(completion: Completion, *, prompt_len: int) -> Any:
    """A completion as verl's ``TokenOutput``.

    Args:
        completion: with every row of routing from position 0 on, or none.
        prompt_len: P.

    Returns:
        ``routed_experts`` is an int16 array [P + C - 1, layers, top_k]. ``extra_fields`` has ``global_steps`` (the
        number that the last version of the weights ends with, or None) and its ``min_`` and ``max_`` over all of them.

    Raises:
        RoutedExpertsError: rows are missing, or an id is above 32,767.
    """
    rows = whole_rows(completion, prompt_len)
    steps = [version_number(str(span["version"])) for span in completion.weight_versions or ()]
    known = [step for step in steps if step is not None]
    return framework("verl.workers.rollout.replica", extra="verl").TokenOutput(
        token_ids=completion.token_ids.tolist(),
        log_probs=None if completion.logprobs is None else logprobs_of(completion).tolist(),
        routed_experts=None if rows is None else cast(rows, np.int16),
        stop_reason=_STOP.get(completion.finish_reason or "", completion.finish_reason),
        extra_fields={
            "global_steps": version_number(last_version(completion)),
            "min_global_steps": min(known, default=None),
            "max_global_steps": max(known, default=None),
        },
    )


def from_token_output(output: Any, *, prompt_len: int) -> Completion:
    """The completion that a ``TokenOutput`` holds.

    Raises:
        AlignmentError: its log-probabilities are not one for each token.
        RoutedExpertsError: its rows are not P + C - 1 or P + C.
    """
    reason = _REASONS.get(output.stop_reason, output.stop_reason)
    return completion_of(
        output.token_ids,
        output.log_probs or None,
        source="verl.TokenOutput",
        prompt_len=prompt_len,
        rows=output.routed_experts,
        finish_reason=reason,
    )


def agent_loop_output(sample: TrainingSample, **fields: Any) -> Any:
    """A sample as the ``AgentLoopOutput`` that an agent loop returns.

    Args:
        sample: the trajectory. The tokens before the first sampled one are the prompt, all others the response;
            ``response_mask`` is 1 where they were sampled.
        **fields: further fields of the output, such as ``reward_score``, ``metrics`` and ``extra_fields``.

    Returns:
        ``routed_experts`` is an int16 array [N - 1, layers, top_k]; verl fills the last position.

    Raises:
        MissingFieldError: a sampled token has no log-probability.
        ValueError: no token was sampled.
    """
    start = prompt_length(sample)
    rows = recorded_rows(sample)
    return framework("verl.experimental.agent_loop.agent_loop", extra="verl").AgentLoopOutput(
        prompt_ids=sample.token_ids[:start].tolist(),
        response_ids=sample.token_ids[start:].tolist(),
        response_mask=sample.mask[start:].astype(np.int64).tolist(),
        response_logprobs=sampled_logprobs(sample)[start:].tolist(),
        routed_experts=None if rows is None else cast(rows, np.int16),
        **{"num_turns": 2 * len(sample.turns), "metrics": {}, **fields},
    )


def from_agent_loop_output(output: Any, *, final_row: FinalRowPolicy = "repeat") -> TrainingSample:
    """The sample that an ``AgentLoopOutput`` holds.

    Args:
        output: as agent loops return it, not padded.
        final_row: the row of the last token.

    Raises:
        AlignmentError: its parts differ in length.
        RoutedExpertsError: its rows are not N - 1 or N.
    """
    start, response = len(output.prompt_ids), output.response_logprobs
    return sample_from(
        [*output.prompt_ids, *output.response_ids],
        np.concatenate([np.zeros(start, np.bool_), np.asarray(output.response_mask, np.bool_)]),
        None if not response else np.concatenate([np.full(start, np.nan), response]),
        rows=output.routed_experts,
        final_row=final_row,
    )
