"""A training sample of one completion, for those who keep no conversation."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import numpy as np

from dynamo_tito._errors import AlignmentError

from .routing import FinalRowPolicy, complete, new_rows
from .sample import TrainingSample, TurnSpan, cut
from .segments import segment_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dynamo_tito._types import Completion


def sample_of(
    prompt_ids: NDArray[np.integer] | Sequence[int], completion: Completion, *, final_row: FinalRowPolicy = "repeat"
) -> TrainingSample:
    """A prompt and its completion as a training sample, as a :class:`Rollout` of one turn makes it.

    Args:
        prompt_ids: token ids [P] that the completion answers.
        completion: what was sampled, with every row of routing from position 0 on, or none.
        final_row: the row of the last sampled token, which has no forward pass.

    Returns:
        The sample of P + C tokens; with ``final_row="drop"`` and routing, of as many as have a row.

    Raises:
        AlignmentError: the completion echoes another prompt.
        RoutedExpertsError: its rows do not begin at position 0, or more than the last one is missing.
    """
    if final_row not in get_args(FinalRowPolicy):
        raise ValueError(f"final_row must be one of {', '.join(get_args(FinalRowPolicy))}, not {final_row!r}")
    prompt = np.asarray(prompt_ids, np.int32)
    echo = completion.prompt_token_ids
    if echo is not None and not np.array_equal(echo, prompt):
        raise AlignmentError(
            f"the completion answers a prompt of {len(echo)} tokens, not this one of {len(prompt)}",
            kind="prompt_mismatch",
        )
    start, count = len(prompt), len(completion.token_ids)
    end = start + count
    ids = np.concatenate([prompt, completion.token_ids])
    mask = np.zeros(end, np.bool_)
    mask[start:] = True
    logprobs = np.full(end, np.nan, None if completion.logprobs is None else completion.logprobs.dtype)
    if completion.logprobs is not None:
        logprobs[start:] = completion.logprobs
    experts, rows = completion.routed_experts, None
    if experts is not None:
        present = experts.start + len(experts.array) == end
        _, chunk = new_rows(experts, held=0, end=end, omitted=0 if present else 1, like=None)
        rows = complete([chunk], tokens=end, policy=final_row)
    turn = TurnSpan(
        0,
        start,
        end,
        completion.finish_reason,
        completion.stop_reason,
        completion.aborted,
        completion.request_id,
        segment_of(completion, start).weight_versions,
    )
    kept = end if rows is None else len(rows)
    return TrainingSample(ids[:kept], mask[:kept], logprobs[:kept], rows, (cut(turn, 0, kept),))
