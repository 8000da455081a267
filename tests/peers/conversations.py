"""Conversations of verifiers' own client and trace, and the judgement of what they hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import verifiers.v1 as vf
from numpy.typing import NDArray
from verifiers.v1 import graph
from verifiers.v1.clients import resolve_client
from verifiers.v1.dialects.chat import ChatDialect, message_to_wire

TOOLS = [vf.Tool(name="look", description="looks", parameters={"type": "object", "properties": {}})]

Sampling = Callable[[int], dict[str, Any]]


async def converse(config: Any, model: str, turns: int, sampling: Sampling, *, tools: bool = True) -> vf.Trace:
    """A conversation in which tools and users answer in turn; ``sampling`` gives the parameters of each turn."""
    trace = vf.Trace(
        agent=vf.AgentInfo(config=vf.AgentConfig()),
        task=vf.TraceTask(type="Task", data=vf.TaskData(idx=0, prompt="x")),
    )
    client = resolve_client(config)
    messages: list[Any] = [vf.SystemMessage(content="be"), vf.UserMessage(content="hello")]
    offered = TOOLS if tools else []
    try:
        for number in range(turns):
            turn = graph.prepare_turn(trace, messages, offered)
            body = {"model": model, "messages": [message_to_wire(message) for message in messages]}
            params = vf.SamplingConfig(**sampling(number))
            response = await client.get_response(ChatDialect(), body, params, session_id=trace.id, turn=turn)
            turn.commit(response)
            answer: Any = vf.UserMessage(content=f"next {number}")
            if number % 2:
                answer = vf.ToolMessage(content=f"result {number}", tool_call_id="call_0")
            messages = [*messages, response.message, answer]
    finally:
        await client.close()
    return trace


def judge_trace(
    trace: vf.Trace,
    token_ids: NDArray[Any],
    sampled: NDArray[np.bool_],
    logprobs: NDArray[Any],
    routing: NDArray[Any],
    *,
    tolerance: float = 0.0,
) -> None:
    """The branch holds these tokens, the mask of the sampled ones, their log-probabilities, and the rows of all but the
    last token, for which verifiers repeats the row before it."""
    (branch,) = trace.branches
    assert np.array_equal(branch.token_ids, token_ids)
    assert np.array_equal(np.asarray(branch.sampled_mask), sampled)
    held = np.asarray(branch.logprobs, dtype=np.float32)[sampled]
    np.testing.assert_allclose(held, logprobs.astype(np.float32), rtol=0, atol=tolerance)
    rows = branch.routed_experts
    assert rows is not None
    assert len(rows) == len(token_ids)
    np.testing.assert_array_equal(rows[:-1], routing[: len(token_ids) - 1])
    np.testing.assert_array_equal(rows[-1], rows[-2])


def truth_of(samples: Sequence[Any]) -> tuple[NDArray[Any], NDArray[np.bool_], NDArray[Any], NDArray[Any]]:
    """Tokens, mask, log-probabilities and rows of a conversation, from what the engine recorded of each turn."""
    held = np.empty(0, np.int64)
    mask = np.empty(0, np.bool_)
    for sample in samples:
        assert np.array_equal(sample.prompt_ids[: len(held)], held), "a turn does not continue the one before"
        added = len(sample.prompt_ids) - len(held)
        held = np.concatenate([sample.prompt_ids, sample.token_ids])
        mask = np.concatenate([mask, np.zeros(added, np.bool_), np.ones(len(sample.token_ids), np.bool_)])
    return held, mask, np.concatenate([sample.logprobs for sample in samples]), samples[-1].routed_experts
