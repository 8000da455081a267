"""slime: a generate function over any server, and its ``Sample`` in both directions.

Written for slime at commit 624b824 (``slime/utils/types.py``, ``slime/rollout/sglang_rollout.py``).

Rows of routing: a ``Sample`` of T tokens has T - 1 rows, int32, and slime adds a row of consecutive experts for the
last one (``slime/backends/megatron_utils/cp_utils.py``). So the row that a policy made is never handed over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import _samples
from ._frameworks import framework
from ._records import logprobs_of
from ._samples import decode_rows, encode_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dynamo_tito._types import Completion
    from dynamo_tito.rollout import FinalRowPolicy, TrainingSample

__all__ = ["append", "decode_rows", "encode_rows", "from_sample", "generate", "meta_info", "to_sample"]

_INSTALL = "install slime from its repository, github.com/THUDM/slime"


async def generate(args: Any, sample: Any, sampling_params: Mapping[str, Any]) -> Any:
    """For ``--custom-generate-function-path dynamo_tito.integrations.slime.generate``.

    The server is the SGLang router of the run, unless ``--custom-config-path`` sets ``tito_base_url``, ``tito_backend``
    and ``tito_model``. A sample that was aborted is continued from the tokens that it has.

    Args:
        args: of the run.
        sample: with a text or messages as prompt; or with ``tokens``, which are continued.
        sampling_params: SGLang's; ``max_new_tokens`` counts the whole response.

    Returns:
        The sample, with what was sampled.

    Raises:
        NotImplementedError: images, video or audio.
        RoutedExpertsError: ``use_rollout_routing_replay`` is set, and the rows do not fit.
    """
    tokenizer = framework("slime.rollout.sglang_rollout", extra="slime", install=_INSTALL).GenerateState(args).tokenizer
    left = sampling_params["max_new_tokens"] - sample.response_length
    if left <= 0:
        sample.status = type(sample).Status.TRUNCATED
        return sample
    prompt = _samples.prompt_of(sample, tokenizer)
    held = 0 if sample.rollout_routed_experts is None else len(sample.rollout_routed_experts)
    completion = await _samples.ask(
        args,
        prompt,
        {**sampling_params, "max_new_tokens": left},
        start=held,
        session=sample.session_id,
    )
    if not sample.tokens:
        sample.tokens = prompt.tolist()
    return append(args, sample, completion, text=tokenizer.decode(completion.token_ids.tolist()))


def append(args: Any, sample: Any, completion: Completion, *, text: str | None = None) -> Any:
    """Append a completion to a ``Sample`` with slime's own ``append_response_tokens``, which checks the rows.

    Args:
        args: of the run: ``num_layers`` and ``moe_router_topk``.
        sample: with the tokens that the completion answers.
        completion: what was sampled.
        text: the same as text.

    Raises:
        MissingFieldError: a token has no log-probability.
        ValueError: slime's own checks.
    """
    prompt_len = len(sample.tokens)
    info = _samples.meta_info(completion, prompt_len, _samples.new_rows(completion, prompt_len))
    sample.append_response_tokens(
        args,
        tokens=completion.token_ids.tolist(),
        log_probs=logprobs_of(completion).tolist(),
        trainable=True,
        meta_info=info,
        text=text,
    )
    return sample


def meta_info(completion: Completion, *, prompt_len: int) -> dict[str, Any]:
    """SGLang's ``meta_info`` of a completion as it comes over the wire, routed experts as base64 of int32.

    Args:
        completion: what was sampled.
        prompt_len: P.
    """
    rows = _samples.new_rows(completion, prompt_len)
    return _samples.meta_info(completion, prompt_len, None if rows is None else encode_rows(rows))


def to_sample(sample: TrainingSample, **fields: Any) -> Any:
    """A training sample as slime's ``Sample``, ``COMPLETED`` unless ``status`` is given.

    Args:
        sample: the trajectory; the tokens before the first sampled one are the prompt.
        **fields: further fields, such as ``index``, ``prompt``, ``reward``.

    Returns:
        ``rollout_routed_experts`` is an int32 tensor [T - 1, layers, top_k] that shares memory with the sample where
        that is int32 and can be written.

    Raises:
        MissingFieldError: a sampled token has no log-probability.
        ValueError: no token was sampled.
    """
    kind = framework("slime.utils.types", extra="slime", install=_INSTALL).Sample
    made = _samples.fields_of(sample)
    if (rows := made["rollout_routed_experts"]) is not None:
        made["rollout_routed_experts"] = framework("torch", extra="slime", install="pip install torch").from_numpy(
            np.require(rows, requirements="W")
        )
    return kind(**{"status": kind.Status.COMPLETED, **made, **fields})


def from_sample(sample: Any, *, final_row: FinalRowPolicy = "repeat") -> TrainingSample:
    """The training sample that slime's ``Sample`` holds.

    Args:
        sample: with its tokens.
        final_row: the row of the last token.

    Raises:
        AlignmentError: its parts differ in length.
        RoutedExpertsError: its rows are not T - 1 or T.
    """
    return _samples.sample_of(sample, final_row=final_row)
