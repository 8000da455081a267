"""Makes a turn of the tree from a completion. The state of the rollout does not change here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamo_tito._errors import AlignmentError, EngineError
from dynamo_tito._logprobs_report import LogprobsChecks, refuse_logprobs
from dynamo_tito._routing_report import RoutingChecks, refuse_findings

from . import tree
from .finish import assistant_message, finish_reason
from .messages import fingerprints, plain
from .routing import joined_rows, new_rows
from .segments import joined_ids, segment_of

if TYPE_CHECKING:
    from dynamo_tito._types import Completion

    from .handover import Handover
    from .plan import Plan
    from .routing import Chunk
    from .segments import Segment
    from .tree import Turn


@dataclass(frozen=True, slots=True)
class Answers:
    """Makes turns of completions.

    Attributes:
        handover: what asks the renderer.
        checks: what the routing of a turn must pass; None for nothing.
        logprobs_checks: what the log-probabilities of an answer must pass; None for nothing.
        omitted: tokens at the end of a sequence that have no row: 1, or 0 where the engine sends the last row too.
    """

    handover: Handover
    checks: RoutingChecks | None
    logprobs_checks: LogprobsChecks | None
    omitted: int

    def turn(self, plan: Plan, completion: Completion, message: Any) -> Turn:
        """The completion as a turn; one that resumes a turn is joined with it.

        Raises:
            AlignmentError: the completion answers another prompt, or its weight versions or sampling mask do not fit.
            EngineError: it ended with an error.
            RoutedExpertsError: its rows do not continue those held.
        """
        _check_answer(plan, completion)
        refuse_logprobs(completion, self.logprobs_checks)
        before = plan.resumes
        segment = segment_of(completion, 0 if before is None else len(before.token_ids))
        held = tree.rows_held(plan.parent, plan.start)
        rows = self._rows(plan, completion, held)
        ids = completion.token_ids
        columns: dict[str, Any] = {name: getattr(completion, name) for name in tree.JOINED}
        parent, start, prompt, number = plan.parent, plan.start, plan.ids, 0
        segments: tuple[Segment, ...] = (segment,)
        if before is not None:
            cut = all(part.aborted for part in before.segments if part.start < part.stop)
            for name, join in tree.JOINED.items():
                pieces = [
                    (before.token_ids, getattr(before, name), cut),
                    (ids, columns[name], bool(completion.aborted)),
                ]
                columns[name] = join(pieces, name)
            ids = joined_ids(before.token_ids, ids)
            rows, held = joined_rows(before.rows, rows), before.rows_start
            parent, start, prompt = before.parent, before.start, prompt[: before.completion_start]
            segments = (*before.segments, segment)
        if parent is not None:
            number = parent.number + 1
        parsed = self.handover.parsed(ids, prompt, parent, start)
        said = assistant_message(parsed, number) if message is None else plain([message])[0]
        return tree.Turn(
            parent=parent,
            number=number,
            start=start,
            prompt_ids=prompt[start:].copy(),
            token_ids=ids,
            **columns,
            message=said,
            tool_calls=tuple(parsed.tool_calls),
            finish_reason=finish_reason(completion.finish_reason, parsed),
            stop_reason=completion.stop_reason,
            segments=segments,
            asked=plan.asked,
            rows=rows,
            rows_start=held,
            base=plan.base,
            said=plan.said,
            fingerprint=fingerprints([said], plan.fingerprint)[0],
        )

    def _rows(self, plan: Plan, completion: Completion, held: int) -> Chunk | None:
        """The rows that are new; None where the answer has none, which a later one then brings."""
        experts = completion.routed_experts
        if experts is None:
            return None
        end = len(plan.ids) + len(completion.token_ids)
        like = tree.some_rows(plan.parent)
        again, rows = new_rows(experts, held=held, end=end, omitted=self.omitted, like=like)
        if self.checks is not None:
            refuse_findings(rows, self.checks)
            if len(again):
                before = np.concatenate(tree.rows(plan.parent, plan.start))[held - len(again) :]
                refuse_findings(np.ascontiguousarray(again), self.checks, earlier=before)
        return rows


def _check_answer(plan: Plan, completion: Completion) -> None:
    echo = completion.prompt_token_ids
    if echo is not None and not np.array_equal(echo, plan.ids):
        raise AlignmentError(
            f"the completion answers a prompt of {len(echo)} tokens, not the one of {len(plan.ids)} planned",
            kind="prompt_mismatch",
        )
    if completion.finish_reason == "error":
        raise EngineError(
            f"the completion ends with finish reason 'error' after {len(completion.token_ids)} tokens: the engine "
            "failed, so this is no whole turn; ask for it again",
            request_id=completion.request_id,
        )
