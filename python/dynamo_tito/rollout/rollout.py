"""The rollout: a conversation that grows turn by turn as one token sequence, exactly as the engine saw it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, TypeVar, get_args

import numpy as np

from dynamo_tito._errors import AlignmentError, DriftError, RoutedExpertsError
from dynamo_tito._logprobs_report import LogprobsChecks, logprobs_checks, refuse_logprobs
from dynamo_tito._routing_report import RoutingChecks, refuse_findings, routing_checks
from dynamo_tito._types import FinalRow

from . import tree
from .finish import assistant_message, finish_reason
from .handover import Handover, int32
from .ids import GrowingIds
from .messages import NO_MESSAGES, fingerprints, plain
from .routing import new_rows
from .training import make_sample

if TYPE_CHECKING:
    from dynamo_tito._client import AsyncTitoClient
    from dynamo_tito._types import Completion, Int32Array

    from .bridge import Renderer
    from .messages import Message
    from .routing import Chunk, FinalRowPolicy
    from .sample import TrainingSample
    from .tree import Turn

T = TypeVar("T")

OnDrift: TypeAlias = Literal["branch", "rerender", "raise"]
"""What to do where a conversation cannot continue token by token: keep what is held as a branch of its own and go on
from what is shared, replace what is held, or raise a :class:`dynamo_tito.DriftError`."""

DriftKind: TypeAlias = Literal["prefix", "unclosed", "messages", "ambiguous"]


class Request(TypedDict):
    """The arguments that a rollout has for :meth:`dynamo_tito.AsyncTitoClient.generate`."""

    prompt_ids: Int32Array
    stop_token_ids: list[int]
    routed_experts_prompt_start: int


@dataclass(frozen=True, slots=True)
class Drift:
    """A place where the conversation did not go on from what was held.

    Attributes:
        kind: as of :class:`dynamo_tito.DriftError`.
        token: position of the first token that differs.
        message: number of the message that it belongs to, from 0.
        action: what was done.
    """

    kind: DriftKind
    token: int
    message: int
    action: OnDrift


@dataclass(frozen=True, slots=True)
class _Plan:
    """The next prompt, and what becomes of the tree when it is answered."""

    ids: Int32Array  # the whole prompt
    parent: Turn | None
    start: int
    base: Turn | None
    said: tuple[Message, ...]
    fingerprint: bytes
    drift: Drift | None = None
    replaces: Turn | None = None


class Rollout:
    """One conversation, or a tree of them, as token sequences.

    What the engine sampled is kept verbatim and never encoded again; only what the environment says is rendered::

        rollout = Rollout(renderer)
        while not done:
            turn = await rollout.step(client, messages)  # system and user first, then what the environment answers
            messages, done = environment(turn.message)
        sample = rollout.sample()

    Without an event loop: ``rollout.append(client.generate(**rollout.request(messages)))``. Let the client decode with
    ``experts="native"``: routing is held at wire width anyway.

    Args:
        renderer: an object of the ``renderers`` package, a :class:`ServerRenderer`, or one of your own.
        tools: the conversation's tools, passed to the renderer.
        on_drift: what to do where the conversation cannot continue token by token.
        strict_routing: look for signs of a broken capture in each turn's new rows, as of the client's option of this
            name; here also where a turn disagrees with rows already held.
        strict_logprobs: look for log-probabilities that no engine computed in each turn, as of the client's option of
            this name.
        final_row: ``"present"`` where the engine sends a row for the last token, too: as of the client's option of this
            name, which must be the same.
    """

    def __init__(
        self,
        renderer: Renderer,
        *,
        tools: list[Any] | None = None,
        on_drift: OnDrift = "raise",
        strict_routing: bool | RoutingChecks = False,
        strict_logprobs: bool | LogprobsChecks = False,
        final_row: FinalRow = "omitted",
    ) -> None:
        if on_drift not in get_args(OnDrift):
            raise ValueError(f"on_drift must be one of {', '.join(get_args(OnDrift))}, not {on_drift!r}")
        if final_row not in get_args(FinalRow):
            raise ValueError(f"final_row must be one of {', '.join(get_args(FinalRow))}, not {final_row!r}")
        self.on_drift: OnDrift = on_drift
        self.drifts: list[Drift] = []
        """Every drift so far, in order."""
        self._renderer = renderer
        self._handover = Handover(renderer, tools)
        self._blocking = bool(getattr(renderer, "blocking", False))
        self._tools = tools
        self._checks = routing_checks(strict_routing)
        self._logprobs_checks = logprobs_checks(strict_logprobs)
        self._omitted = 1 if final_row == "omitted" else 0
        self._ids = GrowingIds()
        self._head: Turn | None = None
        self._leaves: dict[Turn, None] = {}
        self._recorded: dict[bytes, list[Turn]] = {}
        self._plan: _Plan | None = None
        self._stepping = False

    # --- what it holds ---

    @property
    def head(self) -> Turn | None:
        """The turn that the next one continues; None before the first."""
        return self._head

    @property
    def turns(self) -> list[Turn]:
        """The turns of the current sequence, first to last."""
        return [part.turn for part in tree.parts(self._head)]

    @property
    def leaves(self) -> list[Turn]:
        """The last turn of every branch, in the order in which the branches got it."""
        return list(self._leaves)

    @property
    def token_ids(self) -> Int32Array:
        """int32: the current sequence, read-only."""
        return self._ids.view(0 if self._head is None else self._head.end)

    @property
    def messages(self) -> list[Message]:
        """The current conversation."""
        return tree.conversation(self._head)

    @property
    def drift_counts(self) -> Counter[str]:
        """How often each kind of drift occurred."""
        return Counter(drift.kind for drift in self.drifts)

    def __repr__(self) -> str:
        tokens = 0 if self._head is None else self._head.end
        return f"Rollout({len(self.turns)} turns, {tokens} tokens, {len(self._leaves)} branches)"

    # --- one turn ---

    def prompt_ids(
        self, next_messages: Iterable[Any] | None = None, *, conversation: Iterable[Any] | None = None
    ) -> Int32Array:
        """The next prompt.

        Args:
            next_messages: what was said since the last completion; first, everything.
            conversation: the whole conversation instead. It continues the turn that recorded the longest part of it.

        Returns:
            int32 [P], read-only: what is held, verbatim, and the new messages.

        Raises:
            DriftError: with ``on_drift="raise"``, if it cannot continue.
            ValueError: nothing new was said.
        """
        if (next_messages is None) == (conversation is None):
            raise TypeError("give either next_messages or conversation")
        if next_messages is not None:
            self._plan = self._continue(self._head, plain(next_messages))
        elif conversation is not None:
            self._plan = self._match(plain(conversation))
        assert self._plan is not None  # noqa: S101 - one of the two was given
        return self._plan.ids

    def request(
        self, next_messages: Iterable[Any] | None = None, *, conversation: Iterable[Any] | None = None
    ) -> Request:
        """The next prompt with all that a client needs to ask for its completion; arguments and errors as above."""
        ids = self.prompt_ids(next_messages, conversation=conversation)
        return {
            "prompt_ids": ids,
            "stop_token_ids": self._renderer.get_stop_token_ids(),
            "routed_experts_prompt_start": self.routed_experts_prompt_start,
        }

    @property
    def routed_experts_prompt_start(self) -> int:
        """From which position on the planned prompt needs routing.

        That is the last token held, whose row the engine omitted when it sampled it; earlier, where rows are missing.
        """
        parent, start = (self._head, None) if self._plan is None else (self._plan.parent, self._plan.start)
        if parent is None:
            return 0
        end = parent.end if start is None else start
        return min(max(end - 1, 0), tree.rows_held(parent, end))

    def append(self, completion: Completion, *, message: Any = None) -> Turn:
        """Take the answer to the prompt that was planned last.

        Args:
            completion: as decoded; it becomes part of the rollout, which may hold its arrays without copying them.
            message: the assistant's message as the caller will hand it over in ``conversation``; None for what the
                renderer makes of the completion.

        Raises:
            AlignmentError: the completion answers another prompt.
            RoutedExpertsError: rows that do not continue those held; the rollout stays as it was.
            RuntimeError: no prompt was planned.
        """
        plan = self._planned()
        return self._commit(self._turn(plan, completion, message), plan)

    async def step(
        self,
        client: AsyncTitoClient,
        next_messages: Iterable[Any] | None = None,
        *,
        conversation: Iterable[Any] | None = None,
        sampling_params: Mapping[str, Any] | None = None,
        **arguments: Any,
    ) -> Turn:
        """One turn: plan the prompt, have it completed, append the answer.

        Args:
            client: of the server.
            next_messages: as of :meth:`prompt_ids`.
            conversation: likewise.
            sampling_params: as of :meth:`dynamo_tito.AsyncTitoClient.generate`.
            **arguments: its other keywords. The renderer's stop tokens are sent along.

        Raises:
            Exception: as of :meth:`prompt_ids`, ``generate`` and :meth:`append`; the rollout stays as it was.
        """
        if self._stepping:
            raise RuntimeError("a step of this rollout is under way; one follows the other")
        self._stepping = True
        try:
            request = await self._aside(lambda: self.request(next_messages, conversation=conversation))
            plan = self._planned()
            stops = [*arguments.pop("stop_token_ids", ()), *request["stop_token_ids"]]
            completion = await client.generate(
                request["prompt_ids"],
                sampling_params=sampling_params,
                stop_token_ids=stops,
                routed_experts_prompt_start=request["routed_experts_prompt_start"],
                **arguments,
            )
            turn = await self._aside(lambda: self._turn(plan, completion, None))
            return self._commit(turn, plan)
        finally:
            self._stepping = False

    def rewind(self, turn: Turn | None) -> None:
        """Continue from an earlier turn, or another branch's; None starts anew. Nothing is lost: later turns stay."""
        if turn is not None and not any(turn is known for known in self._recorded.get(turn.fingerprint, ())):
            raise ValueError("this turn is not one of the rollout's")
        self._move(turn)
        self._plan = None

    # --- samples ---

    def sample(self, turn: Turn | None = None, *, final_row: FinalRowPolicy = "repeat") -> TrainingSample:
        """The sequence up to a turn as training data.

        Args:
            turn: its last turn; None for the current one.
            final_row: what to put where the engine has no row, for the last token: ``"repeat"`` the row before,
                ``"zeros"``, ``"spread"`` (expert j in slot j), or ``"drop"`` the token with all that belongs to it.

        Raises:
            ValueError: there is no turn yet.
            RoutedExpertsError: more rows are missing than the last.
        """
        turn = self._head if turn is None else turn
        if turn is None:
            raise ValueError("the rollout has no turn yet")
        return make_sample(turn, final_row=final_row)

    def samples(self, *, final_row: FinalRowPolicy = "repeat") -> list[TrainingSample]:
        """One sample per branch; ``shared`` says how much of it is in an earlier one."""
        seen: list[Turn] = []
        found = []
        for leaf in self._leaves:
            shared = max((_shared(leaf, other) for other in seen), default=0)
            found.append(make_sample(leaf, final_row=final_row, shared=shared))
            seen.append(leaf)
        return found

    # --- planning ---

    def _match(self, messages: list[Message]) -> _Plan:
        """Continue the turn that recorded the longest part of a whole conversation."""
        marks = fingerprints(messages)
        length, candidates = next(
            ((n, found) for n in range(len(marks), 0, -1) if (found := self._recorded.get(marks[n - 1]))), (0, [])
        )
        new = messages[length:]
        if not candidates:
            if self._head is None:
                return self._continue(None, messages)
            return self._again(self._head, messages, kind="messages")
        if len(candidates) > 1:
            return self._again(candidates[-1], messages, kind="ambiguous", among=candidates)
        (turn,) = candidates
        if turn is self._head or turn in self._leaves:
            return self._continue(turn, new)
        # Recorded, but the sequence has gone on from there.
        drift = self._drifted("messages", token=turn.end, message=length, why="it went on differently before")
        return self._continue(turn, new, drift=drift)

    def _continue(self, turn: Turn | None, new: list[Message], *, drift: Drift | None = None) -> _Plan:
        """The new messages behind a turn's sequence, verbatim if the renderer can."""
        if not new:
            raise ValueError("there is no new message to continue with")
        mark = fingerprints(new, NO_MESSAGES if turn is None else turn.fingerprint)[-1]
        if turn is None:
            first = self._renderer.render(new, tools=self._tools, add_generation_prompt=True)
            prompt = self._grown(None, 0, int32(first.token_ids))
            return _Plan(prompt, None, 0, None, tuple(new), mark)
        ids = self._handover.added(turn, new)
        if ids is None:
            kind: DriftKind = "unclosed" if turn.finish_reason == "length" else "prefix"
            return self._again(turn, [*tree.conversation(turn), *new], kind=kind, drift=drift, new=new)
        replaces = self._replaced(drift, turn)
        prompt = self._grown(turn, turn.end, ids)
        return _Plan(prompt, turn, turn.end, turn, tuple(new), mark, drift, replaces)

    def _again(
        self,
        turn: Turn,
        messages: list[Message],
        *,
        kind: DriftKind,
        among: list[Turn] | None = None,
        drift: Drift | None = None,
        new: list[Message] | None = None,
    ) -> _Plan:
        """Render the whole conversation, and keep what it shares with the sequence of ``turn``, or one of ``among``."""
        rendered = self._renderer.render(messages, tools=self._tools, add_generation_prompt=True)
        ids = int32(rendered.token_ids)
        held = {candidate: _common(ids, tree.token_ids(candidate)) for candidate in among or [turn]}
        turn = max(held, key=held.__getitem__)
        common = held[turn]
        continues = common == turn.end
        if not continues or among or kind == "messages":
            number = _message_at(rendered, common, turn, len(messages))
            why = f"position {common} holds {_id(tree.token_ids(turn), common)}, rendered it is {_id(ids, common)}"
            drift = self._drifted(kind, token=common, message=number, why=why)
        base, said = (turn, tuple(new)) if new is not None else (None, tuple(messages))
        mark = fingerprints(said, NO_MESSAGES if base is None else base.fingerprint)[-1]
        parent = turn if continues else tree.owner(turn, common)
        replaces = self._replaced(drift, turn)
        prompt = self._grown(parent, common, ids[common:])
        return _Plan(prompt, parent, common, base, said, mark, drift, replaces)

    def _drifted(self, kind: DriftKind, *, token: int, message: int, why: str) -> Drift:
        """The drift as a fact, which counts when the prompt is answered; or as the error."""
        drift = Drift(kind, token, message, self.on_drift)
        if self.on_drift == "raise":
            self.drifts.append(drift)
            raise DriftError(
                f"the conversation drifts ({kind}) at token {token}, in message {message}: {why}",
                kind=kind,
                token=token,
                message=message,
            )
        return drift

    def _replaced(self, drift: Drift | None, turn: Turn) -> Turn | None:
        """The branch that makes way."""
        if drift is None or drift.action != "rerender":
            return None
        return turn if turn in self._leaves else self._head

    def _grown(self, turn: Turn | None, end: int, added: Int32Array) -> Int32Array:
        """The first ``end`` tokens of a sequence, and what is added to them."""
        if turn is self._head and (turn is None or end == turn.end):
            return self._ids.extended(end, added)
        prompt = np.concatenate([tree.token_ids(turn, end), added])
        prompt.flags.writeable = False
        return prompt

    # --- answers ---

    def _planned(self) -> _Plan:
        if self._plan is None:
            raise RuntimeError("no prompt was planned: call prompt_ids first, once for every completion")
        return self._plan

    def _turn(self, plan: _Plan, completion: Completion, message: Any) -> Turn:
        """The completion as a turn of the tree. Nothing changes yet."""
        echo = completion.prompt_token_ids
        if echo is not None and not np.array_equal(echo, plan.ids):
            raise AlignmentError(
                f"the completion answers a prompt of {len(echo)} tokens, not the one of {len(plan.ids)} planned",
                kind="prompt_mismatch",
            )
        refuse_logprobs(completion, self._logprobs_checks)
        held = tree.rows_held(plan.parent, plan.start)
        rows = self._rows(plan, completion, held)
        parsed = self._handover.parsed(completion.token_ids, plan.ids, plan.parent, plan.start)
        number = 0 if plan.parent is None else plan.parent.number + 1
        said = assistant_message(parsed, number) if message is None else plain([message])[0]
        return tree.Turn(
            parent=plan.parent,
            number=number,
            start=plan.start,
            prompt_ids=plan.ids[plan.start :].copy(),
            token_ids=completion.token_ids,
            logprobs=completion.logprobs,
            message=said,
            tool_calls=tuple(parsed.tool_calls),
            finish_reason=finish_reason(completion.finish_reason, parsed),
            stop_reason=completion.stop_reason,
            aborted=completion.aborted,
            weight_versions=tuple(completion.weight_versions or ()),
            request_id=completion.request_id,
            rows=rows,
            rows_start=held,
            base=plan.base,
            said=plan.said,
            fingerprint=fingerprints([said], plan.fingerprint)[0],
        )

    def _rows(self, plan: _Plan, completion: Completion, held: int) -> Chunk | None:
        experts = completion.routed_experts
        like = tree.some_rows(plan.parent)
        if experts is None:
            if like is not None:
                raise RoutedExpertsError("earlier turns brought routed experts, this one brings none", kind="gap")
            return None
        end = len(plan.ids) + len(completion.token_ids)
        again, rows = new_rows(experts, held=held, end=end, omitted=self._omitted, like=like)
        if self._checks is not None:
            refuse_findings(rows, self._checks)
            if len(again):
                before = np.concatenate(tree.rows(plan.parent, plan.start))[held - len(again) :]
                refuse_findings(np.ascontiguousarray(again), self._checks, earlier=before)
        return rows

    def _commit(self, turn: Turn, plan: _Plan) -> Turn:
        if plan.drift is not None:
            self.drifts.append(plan.drift)
        if plan.parent is not None and plan.start == plan.parent.end:
            self._leaves.pop(plan.parent, None)
        if plan.replaces is not None:
            self._leaves.pop(plan.replaces, None)
        self._leaves[turn] = None
        self._recorded.setdefault(turn.fingerprint, []).append(turn)
        self._ids.adopt(plan.ids, turn.token_ids)
        self._head = turn
        self._plan = None
        return turn

    def _move(self, turn: Turn | None) -> None:
        self._ids.adopt(tree.token_ids(turn), np.empty(0, np.int32))
        self._head = turn

    async def _aside(self, call: Callable[[], T]) -> T:
        """In a thread, if the renderer waits for a server."""
        return await asyncio.to_thread(call) if self._blocking else call()


def _shared(leaf: Turn, other: Turn) -> int:
    """Tokens that two branches have in common because they are the same ones."""
    ends = {id(part.turn): part.end for part in tree.parts(other)}
    return max((min(part.end, ends[id(part.turn)]) for part in tree.parts(leaf) if id(part.turn) in ends), default=0)


def _common(one: Int32Array, other: Int32Array) -> int:
    """Tokens that two sequences begin with alike."""
    length = min(len(one), len(other))
    differing = np.flatnonzero(one[:length] != other[:length])
    return int(differing[0]) if len(differing) else length


def _id(ids: Int32Array, position: int) -> str:
    return f"token {ids[position]}" if position < len(ids) else "no token"


def _message_at(rendered: Any, token: int, turn: Turn, count: int) -> int:
    """The message that a token belongs to: as the renderer says, else the first one of the turn that has it."""
    indices = getattr(rendered, "message_indices", None)
    if indices is not None and token < len(indices) and indices[token] >= 0:
        return int(indices[token])
    number = 0
    for part in tree.parts(turn):
        if token < part.turn.completion_start:
            return min(number, count - 1)
        number += len(part.turn.said)
        if token < part.turn.end:
            return min(number, count - 1)
        number += 1
    return min(number, count - 1)
