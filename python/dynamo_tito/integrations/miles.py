"""miles: a generate function over any server, and its ``Sample`` in both directions.

Written for miles at commit 31f1ca9 (``miles/utils/types.py``, ``miles/rollout/generate_hub/single_turn.py``).

Rows of routing: a ``Sample`` of T tokens has T - 1 rows, an int32 array; ``Sample.validate`` refuses another number. So
the row that a policy made for the last token is never handed over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import _samples
from ._frameworks import framework
from ._records import logprobs_of
from ._samples import decode_rows, encode_rows

if TYPE_CHECKING:
    from dynamo_tito._types import Completion
    from dynamo_tito.rollout import FinalRowPolicy, TrainingSample
    from dynamo_tito.rollout.routing import Chunk

__all__ = ["append", "decode_rows", "encode_rows", "from_sample", "generate", "to_sample"]

_INSTALL = "install miles from its repository, github.com/radixark/miles"


async def generate(input: Any) -> Any:  # noqa: A002 - miles tells the signature by this name
    """For ``--custom-generate-function-path dynamo_tito.integrations.miles.generate``.

    The server is the SGLang router of the run, unless ``tito_base_url``, ``tito_backend`` and ``tito_model`` are among
    the arguments. A sample that was aborted is continued from the tokens that it has.

    Args:
        input: miles' ``GenerateFnInput``: ``state``, ``sample`` and SGLang's ``sampling_params``.

    Returns:
        miles' ``GenerateFnOutput`` with the sample.

    Raises:
        NotImplementedError: images, video or audio.
        RoutedExpertsError: ``use_rollout_routing_replay`` is set, and the rows do not fit.
    """
    args, sample, tokenizer = input.args, input.sample, input.state.tokenizer
    output = framework("miles.rollout.base_types", extra="miles", install=_INSTALL).GenerateFnOutput
    params = dict(input.sampling_params)
    left = params.get("max_new_tokens", args.rollout_max_response_len) - sample.response_length
    prompt = _samples.prompt_of(sample, tokenizer)
    if args.rollout_max_context_len:
        left = min(left, args.rollout_max_context_len - len(prompt))
    if left <= 0:
        sample.status = type(sample).Status.TRUNCATED
        return output(samples=sample)
    held = 0 if sample.rollout_routed_experts is None else len(sample.rollout_routed_experts)
    completion = await _samples.ask(
        args, prompt, {**params, "max_new_tokens": left}, start=held, session=sample.routing_key
    )
    if not sample.tokens:
        sample.tokens = prompt.tolist()
    return output(samples=append(args, sample, completion, text=tokenizer.decode(completion.token_ids.tolist())))


def append(args: Any, sample: Any, completion: Completion, *, text: str = "") -> Any:
    """Append a completion to a ``Sample``, and check it with miles' own ``validate``.

    Args:
        args: of the run, for ``Sample.update_from_meta_info``.
        sample: with the tokens that the completion answers.
        completion: what was sampled.
        text: the same as text.

    Raises:
        MissingFieldError: a token has no log-probability.
        RoutedExpertsError: its rows do not continue those held.
    """
    prompt_len, added = len(sample.tokens), completion.token_ids.tolist()
    rows = _continued(sample.rollout_routed_experts, completion, prompt_len)
    logprobs = logprobs_of(completion).tolist()
    before = sample.response_length
    sample.tokens = [*sample.tokens, *added]
    sample.response_length += len(added)
    sample.response += text
    sample.rollout_log_probs = [*(sample.rollout_log_probs or [0.0] * before), *logprobs]
    if sample.loss_mask is not None:
        sample.loss_mask = [*sample.loss_mask, *[1] * len(added)]
    sample.rollout_routed_experts = rows
    sample.update_from_meta_info(args, _samples.meta_info(completion, prompt_len, None))
    sample.validate()
    return sample


def to_sample(sample: TrainingSample, **fields: Any) -> Any:
    """A training sample as miles' ``Sample``, ``COMPLETED`` unless ``status`` is given, and checked by ``validate``.

    Args:
        sample: the trajectory; the tokens before the first sampled one are the prompt.
        **fields: further fields, such as ``index``, ``prompt``, ``reward``.

    Returns:
        ``rollout_routed_experts`` is an int32 array [T - 1, layers, top_k], of the sample's memory where that is int32.

    Raises:
        MissingFieldError: a sampled token has no log-probability.
        ValueError: no token was sampled.
    """
    kind = framework("miles.utils.types", extra="miles", install=_INSTALL).Sample
    made = kind(**{"status": kind.Status.COMPLETED, **_samples.fields_of(sample), **fields})
    made.validate()
    return made


def from_sample(sample: Any, *, final_row: FinalRowPolicy = "repeat") -> TrainingSample:
    """The training sample that miles' ``Sample`` holds.

    Args:
        sample: with its tokens.
        final_row: the row of the last token.

    Raises:
        AlignmentError: its parts differ in length.
        RoutedExpertsError: its rows are not T - 1 or T.
    """
    return _samples.sample_of(sample, final_row=final_row)


def _continued(held: Chunk | None, completion: Completion, prompt_len: int) -> Chunk | None:
    rows = _samples.new_rows(completion, prompt_len)
    if rows is None or completion.routed_experts is None or not completion.routed_experts.start:
        return rows
    start = completion.routed_experts.start
    if held is None or len(held) < start:
        raise _samples.gap(start, 0 if held is None else len(held))
    return np.concatenate([held[:start], rows])
