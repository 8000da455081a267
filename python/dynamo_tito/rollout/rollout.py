"""The rollout: a conversation that grows turn by turn as one token sequence, exactly as the engine saw it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_args, overload

from dynamo_tito import _observe
from dynamo_tito._client import TitoClient
from dynamo_tito._logprobs_report import LogprobsChecks, logprobs_checks
from dynamo_tito._routing_report import RoutingChecks, routing_checks
from dynamo_tito._types import FinalRow

from . import tree
from .answers import Answers
from .asking import asked_for, rest
from .handover import Handover
from .held import Held
from .messages import plain
from .plan import OnDrift
from .planning import Planner
from .training import make_sample, make_samples

if TYPE_CHECKING:
    from dynamo_tito._client import AsyncTitoClient
    from dynamo_tito._types import Completion, Int32Array

    from .asking import FullRequest, Request
    from .bridge import Renderer
    from .messages import Message
    from .plan import Drift, Plan
    from .routing import FinalRowPolicy
    from .sample import TrainingSample
    from .tree import Turn

T = TypeVar("T")


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
        handover = Handover(renderer, tools)
        self._renderer = renderer
        self._blocking = bool(getattr(renderer, "blocking", False))
        self._held = Held()
        self._planner = Planner(self._held, renderer, handover, tools, on_drift)
        self._answers = Answers(
            handover,
            routing_checks(strict_routing),
            logprobs_checks(strict_logprobs),
            omitted=1 if final_row == "omitted" else 0,
        )
        self._plan: Plan | None = None
        self._stepping = False

    # --- what it holds ---

    @property
    def head(self) -> Turn | None:
        """The turn that the next one continues; None before the first."""
        return self._held.head

    @property
    def turns(self) -> list[Turn]:
        """The turns of the current sequence, first to last."""
        return [part.turn for part in tree.parts(self._held.head)]

    @property
    def leaves(self) -> list[Turn]:
        """The last turn of every branch, in the order in which the branches got it."""
        return list(self._held.leaves)

    @property
    def token_ids(self) -> Int32Array:
        """int32: the current sequence, read-only."""
        return self._held.ids.view(0 if self._held.head is None else self._held.head.end)

    @property
    def messages(self) -> list[Message]:
        """The current conversation."""
        return tree.conversation(self._held.head)

    @property
    def interrupted(self) -> Completion | None:
        """What a call had sampled that was cancelled, or that the server failed; None where there is nothing."""
        return None if self._plan is None else self._plan.cut

    @property
    def on_drift(self) -> OnDrift:
        """What is done where the conversation cannot continue token by token."""
        return self._planner.on_drift

    @property
    def drifts(self) -> list[Drift]:
        """Every drift so far, in order."""
        return self._planner.drifts

    @property
    def drift_counts(self) -> Counter[str]:
        """How often each kind of drift occurred."""
        return Counter(drift.kind for drift in self.drifts)

    def __repr__(self) -> str:
        tokens = 0 if self._held.head is None else self._held.head.end
        return f"Rollout({len(self.turns)} turns, {tokens} tokens, {len(self._held.leaves)} branches)"

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
        return self._planned_for(next_messages, conversation, {}).ids

    @overload
    def request(
        self, next_messages: Iterable[Any] | None = None, *, conversation: Iterable[Any] | None = None
    ) -> Request: ...

    @overload
    def request(
        self,
        next_messages: Iterable[Any] | None = None,
        *,
        conversation: Iterable[Any] | None = None,
        resume: bool = False,
        sampling_params: Mapping[str, Any] | None = None,
    ) -> FullRequest: ...

    def request(
        self,
        next_messages: Iterable[Any] | None = None,
        *,
        conversation: Iterable[Any] | None = None,
        resume: bool = False,
        sampling_params: Mapping[str, Any] | None = None,
    ) -> FullRequest:
        """The next prompt as the keywords of ``generate``.

        Args:
            next_messages: as of :meth:`prompt_ids`.
            conversation: likewise.
            resume: ask for the rest of the current turn instead; arguments and errors as of :meth:`resume`.
            sampling_params: of the whole turn, returned among the arguments and kept for ``resume``. Without them a
                resumed turn has those of its first request, if the rollout has them.

        Raises:
            DriftError, ValueError: as of :meth:`prompt_ids`.
        """
        if resume:
            if next_messages is not None or conversation is not None:
                raise TypeError("resume=True continues the current turn: give no messages with it")
            if self.interrupted is not None:
                self.append(self.interrupted)
            plan, keywords = self._planned_rest(asked_for(sampling_params, {}))
        else:
            keywords = asked_for(sampling_params, {})
            plan = self._planned_for(next_messages, conversation, keywords)
        return cast("FullRequest", self._request(plan, keywords))

    @property
    def routed_experts_prompt_start(self) -> int:
        """From which position on the planned prompt needs routing.

        That is the last token held, whose row the engine omitted when it sampled it; earlier, where rows are missing.
        """
        parent, start = (self._held.head, None) if self._plan is None else (self._plan.parent, self._plan.start)
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
            AlignmentError: the completion answers another prompt, or its weight versions or sampling mask do not fit.
            EngineError: it ended with an error.
            RoutedExpertsError: rows that do not continue those held; the rollout stays as it was.
            RuntimeError: no prompt was planned.
        """
        plan = self._planned()
        return self._commit(self._answers.turn(plan, completion, message), plan)

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
            **arguments: its other keywords. The renderer's stop tokens are sent along. With ``on_interrupt="return"`` a
                turn that a deadline or a broken connection cuts is held as an aborted one, for :meth:`resume`.

        Raises:
            TypeError: the client is the blocking one.
            asyncio.CancelledError, ServerError: the turns stay as they were. What had been sampled is
                :attr:`interrupted` and the error's ``completion`` (with ``on_interrupt="return"``).
            Exception: as of :meth:`prompt_ids`, ``generate`` and :meth:`append`; the rollout stays as it was.
        """
        with self._one_step(client):
            asked = asked_for(sampling_params, arguments)
            plan = await self._aside(lambda: self._planned_for(next_messages, conversation, asked))
            return await self._answered(client, plan, arguments | asked)

    async def resume(
        self,
        client: AsyncTitoClient,
        *,
        sampling_params: Mapping[str, Any] | None = None,
        **arguments: Any,
    ) -> Turn:
        """Continue the current turn token by token after it was aborted; call it again while ``turn.aborted``.

        It continues what is :attr:`interrupted`, too.

        The tokens that the turn holds become the prompt, and routing is asked for from the first position on whose row
        is missing. What comes back and what is held become one turn with one message, which takes the place of the
        turn that was cut. A turn that ended by ``"length"`` is continued alike.

        Args:
            client: of the server.
            sampling_params: of the whole turn, ``max_tokens`` and ``min_tokens`` too: what the turn has sampled is
                subtracted. None for those with which the turn was asked for.
            **arguments: other keywords of :meth:`dynamo_tito.AsyncTitoClient.generate`. Those with which the turn was
                asked for are repeated, but for ``request_id`` and ``deadline``; those given here win.

        Returns:
            The turn with all its tokens.

        Raises:
            TypeError: the client is the blocking one.
            ValueError: there is nothing to resume: no turn, a whole one, one that was continued, or no tokens left.
            Exception: as of ``generate`` and :meth:`append`; the rollout stays as it was.
        """
        with self._one_step(client):
            if (cut := self.interrupted) is not None:
                turn = await self._appended(self._planned(), cut)
                if not turn.aborted:
                    return turn
            plan, keywords = self._planned_rest(asked_for(sampling_params, arguments))
            return await self._answered(client, plan, arguments | keywords)

    def rewind(self, turn: Turn | None) -> None:
        """Continue from an earlier turn, or another branch's; None starts anew. Later turns stay in the tree."""
        if turn is not None and not self._held.knows(turn):
            raise ValueError("this turn is not one of the rollout's, or was resumed since: take it from rollout.turns")
        self._held.move(turn)
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
        turn = self._held.head if turn is None else turn
        if turn is None:
            raise ValueError("the rollout has no turn yet")
        return make_sample(turn, final_row=final_row)

    def samples(self, *, final_row: FinalRowPolicy = "repeat") -> list[TrainingSample]:
        """One sample per branch; ``shared`` says how much of it is in an earlier one."""
        return make_samples(self._held.leaves, final_row=final_row)

    # --- plans and answers ---

    def _planned(self) -> Plan:
        if self._plan is None:
            raise RuntimeError("no prompt was planned: call prompt_ids first, once for every completion")
        return self._plan

    def _planned_for(
        self, next_messages: Iterable[Any] | None, conversation: Iterable[Any] | None, asked: Mapping[str, Any]
    ) -> Plan:
        """Plan the prompt of a new turn, whose request has these keywords."""
        if next_messages is not None and conversation is None:
            plan = self._planner.added(self.head, plain(next_messages))
        elif conversation is not None and next_messages is None:
            plan = self._planner.whole(plain(conversation))
        else:
            raise TypeError("give either next_messages or conversation")
        self._plan = dataclasses.replace(plan, asked=asked)
        return self._plan

    def _planned_rest(self, asked: Mapping[str, Any]) -> tuple[Plan, dict[str, Any]]:
        """Plan the rest of the current turn; and the keywords of its request, limits counted over the turn."""
        plan = self._planner.resume()
        turn = plan.resumes
        assert turn is not None  # noqa: S101 - what is resumed
        whole = {**turn.asked, **asked}
        keywords, left = rest(whole, len(turn.token_ids))
        if left == 0:
            raise ValueError(
                f"turn {turn.number} has {len(turn.token_ids)} tokens, the limit of the whole turn: nothing is left to "
                "sample; give a larger max_tokens, or continue with the next messages"
            )
        self._plan = dataclasses.replace(plan, asked=whole)
        if _observe.observer is not None:
            _observe.observer.resumed()
        return self._plan, keywords

    def _request(self, plan: Plan, keywords: Mapping[str, Any]) -> dict[str, Any]:
        stops = [*keywords.get("stop_token_ids", ()), *self._renderer.get_stop_token_ids()]
        return {
            **keywords,
            "prompt_ids": plan.ids,
            "stop_token_ids": stops,
            "routed_experts_prompt_start": self.routed_experts_prompt_start,
        }

    async def _answered(self, client: AsyncTitoClient, plan: Plan, keywords: Mapping[str, Any]) -> Turn:
        request = await self._aside(lambda: self._request(plan, keywords))
        try:
            completion = await client.generate(**request)
        except BaseException as error:
            self._plan = dataclasses.replace(plan, cut=getattr(error, "completion", None))
            raise
        try:
            return await self._appended(plan, completion)
        except asyncio.CancelledError:
            self._plan = dataclasses.replace(plan, cut=completion)
            raise

    async def _appended(self, plan: Plan, completion: Completion) -> Turn:
        turn = await self._aside(lambda: self._answers.turn(plan, completion, None))
        return self._commit(turn, plan)

    def _commit(self, turn: Turn, plan: Plan) -> Turn:
        if plan.drift is not None:
            self.drifts.append(plan.drift)
        self._held.commit(turn, plan)
        self._plan = None
        return turn

    @contextlib.contextmanager
    def _one_step(self, client: object) -> Iterator[None]:
        """One step at a time, and with a client that can be awaited."""
        if isinstance(client, TitoClient):
            raise TypeError(
                "step and resume take an AsyncTitoClient, this is a TitoClient; with it call "
                "rollout.append(client.generate(**rollout.request(messages)))"
            )
        if self._stepping:
            raise RuntimeError("a step of this rollout is under way; one follows the other")
        self._stepping = True
        try:
            yield
        finally:
            self._stepping = False

    async def _aside(self, call: Callable[[], T]) -> T:
        """In a thread, if the renderer waits for a server."""
        return await asyncio.to_thread(call) if self._blocking else call()
