"""Conversations that do not continue from the tokens that are held."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import numpy as np
import pytest

import dynamo_tito as tito
from dynamo_tito.rollout import Drift, Rollout
from support.chat import ChatRenderer, ShortRenderer, Tokens
from support.completions import completion

END = 31_997
FIRST = [{"role": "system", "content": "be"}, {"role": "user", "content": "a"}]


def say(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def played(renderer: ChatRenderer, on_drift: Any, *texts: str, last: int = END) -> Rollout:
    rollout = Rollout(renderer, on_drift=on_drift)
    for number, messages in enumerate([FIRST, *map(say, texts)]):
        rollout.prompt_ids(messages)
        rollout.append(completion([600 + number, 700, last], finish_reason="stop" if last == END else "length"))
    return rollout


class Forgetful(ChatRenderer):
    """Its template says something else about the past than it did when it was the present."""

    def bridge_to_next_turn(self, *_: Any, **__: Any) -> None:
        return None


class Careless(ChatRenderer):
    """Bridges by encoding the text of what was sampled."""

    def bridge_to_next_turn(
        self, previous_prompt_ids: list[int], previous_completion_ids: list[int], new_messages: list[Any], **_: Any
    ) -> Tokens:
        again = self.tokenizer.encode(self.tokenizer.decode(previous_completion_ids))
        return Tokens([*previous_prompt_ids, *again, *self.tokenizer.apply_chat_template(new_messages)])


@pytest.mark.parametrize("renderer", [Forgetful(), Careless()])
def test_raise_names_token_and_message(renderer: ChatRenderer) -> None:
    rollout = played(renderer, "raise")
    held = rollout.token_ids
    with pytest.raises(
        tito.DriftError, match=r"drifts \(prefix\) at token \d+, in message 2: position \d+ holds"
    ) as caught:
        rollout.prompt_ids(say("b"))
    # The first sampled token.
    assert (caught.value.kind, caught.value.token, caught.value.message) == ("prefix", len(held) - 3, 2)
    assert rollout.drift_counts == {"prefix": 1}
    assert rollout.turns[0].token_ids.tolist() == [600, 700, END]
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.kind, again.token, again.message, str(again)) == ("prefix", len(held) - 3, 2, str(caught.value))


def test_branch_keeps_both_and_shares_what_is_shared() -> None:
    rollout = played(Forgetful(), "branch")
    first = rollout.token_ids.copy()
    prompt = rollout.prompt_ids(say("b"))
    assert rollout.drifts == []  # it counts when it is answered
    turn = rollout.append(completion([800, END]))
    assert rollout.drifts == [Drift("prefix", len(first) - 3, 2, "branch")]
    one, two = rollout.samples()
    assert np.array_equal(one.token_ids, first)
    assert np.array_equal(two.token_ids, [*prompt, 800, END])
    assert (one.shared, two.shared) == (0, len(first) - 3)
    assert (int(one.mask.sum()), int(two.mask.sum())) == (3, 2)
    assert turn.parent is rollout.leaves[0]
    assert len(turn.prompt_ids) == len(prompt) - (len(first) - 3)


def test_rerender_replaces() -> None:
    rollout = played(Forgetful(), "rerender")
    prompt = rollout.prompt_ids(say("b"))
    rollout.append(completion([800, END]))
    (only,) = rollout.samples()
    assert np.array_equal(only.token_ids, [*prompt, 800, END])
    assert [drift.action for drift in rollout.drifts] == ["rerender"]


def test_a_turn_that_cannot_be_closed_has_its_own_drift() -> None:
    rollout = played(ShortRenderer(closes=False), "raise", last=701)
    with pytest.raises(tito.DriftError) as caught:
        rollout.prompt_ids(say("b"))
    assert (caught.value.kind, caught.value.message) == ("unclosed", 2)


def test_a_renderer_that_cannot_bridge_but_renders_the_same_has_no_drift() -> None:
    class Faithful(Forgetful):
        """Renders sampled tokens unchanged, because it records what it parses."""

        def render(self, messages: list[Any], **options: Any) -> Tokens:
            parts: list[int] = []
            for message in messages:
                if message["role"] == "assistant":
                    parts += [*self.tokenizer.encode("<|im_start|>assistant\n"), 600, 700, END, 10]
                else:
                    parts += self.tokenizer.apply_chat_template([message], add_generation_prompt=False)
            return Tokens([*parts, *self.tokenizer.encode("<|im_start|>assistant\n")])

    rollout = played(Faithful(), "raise")
    held = rollout.token_ids
    assert np.array_equal(rollout.prompt_ids(say("b"))[: len(held)], held)
    rollout.append(completion([800, END]))
    assert rollout.drifts == []
    assert rollout.sample().mask.sum() == 5


@pytest.mark.parametrize("whole", [False, True])
def test_the_head_is_continued_verbatim(whole: bool) -> None:
    rollout = played(ShortRenderer(), "raise", "b")
    held = rollout.token_ids
    arguments: Any = {"conversation": [*rollout.messages, *say("c")]} if whole else {"next_messages": say("c")}
    assert np.array_equal(rollout.prompt_ids(**arguments)[: len(held)], held)


def test_the_longest_recorded_prefix_wins() -> None:
    rollout = played(ShortRenderer(), "branch", "b", "c")
    turns = rollout.turns
    said = rollout.messages[:5]  # up to the answer to "b"
    prompt = rollout.prompt_ids(conversation=[*said, *say("d")])
    turn = rollout.append(completion([900, END]))
    assert turn.parent is turns[1]
    assert prompt[: turns[1].end].tolist() == rollout.token_ids[: turns[1].end].tolist()
    assert rollout.drifts == [Drift("messages", turns[1].end, 5, "branch")]
    assert rollout.leaves == [turns[2], turn]
    # The other branch is recorded just as well: going on there is no drift.
    rollout.prompt_ids(conversation=[*said, *say("c"), turns[2].message, *say("e")])
    last = rollout.append(completion([901, END]))
    assert last.parent is turns[2]
    assert len(rollout.drifts) == 1
    assert rollout.leaves == [turn, last]


def test_an_edited_message_is_named() -> None:
    rollout = played(ShortRenderer(), "raise", "b")
    messages = rollout.messages
    messages[1] = {"role": "user", "content": "A"}
    with pytest.raises(tito.DriftError) as caught:
        rollout.prompt_ids(conversation=[*messages, *say("c")])
    # The tokens before the edited word are the same.
    assert (caught.value.kind, caught.value.message) == ("messages", 0)
    assert rollout.token_ids[caught.value.token] == ord("a")


def test_several_candidates_are_no_accident() -> None:
    rollout = played(ShortRenderer(), "raise")
    rollout.rewind(None)
    rollout.prompt_ids(FIRST)
    # Other tokens, the same message.
    twin = rollout.append(completion([600, 700]), message=rollout.leaves[0].message)
    assert twin.message == {"role": "assistant", "content": "w600w700"}
    assert len(rollout.leaves) == 2
    with pytest.raises(tito.DriftError) as caught:
        rollout.prompt_ids(conversation=[*FIRST, twin.message, *say("b")])
    assert caught.value.kind == "ambiguous"


def test_going_back_branches_without_a_drift() -> None:
    rollout = played(ShortRenderer(), "raise", "b", "c")
    turns = rollout.turns
    rollout.rewind(turns[0])
    assert rollout.token_ids.tolist() == [*turns[0].prompt_ids, *turns[0].token_ids]
    rollout.prompt_ids(say("B"))
    rollout.append(completion([801, END]))
    one, two = rollout.samples()
    assert two.shared == turns[0].end
    assert np.array_equal(one.token_ids[: turns[0].end], two.token_ids[: turns[0].end])
    with pytest.raises(ValueError, match="not one of the rollout's"):
        rollout.rewind(played(ShortRenderer(), "raise").head)


def test_a_prompt_that_was_handed_out_never_changes() -> None:
    rollout = played(ShortRenderer(), "raise")
    first = rollout.prompt_ids(say("one"))
    kept = first.copy()
    second = rollout.prompt_ids(say("two"))
    assert np.array_equal(first, kept)
    assert not np.array_equal(first, second)
    rollout.append(completion([5, END]))
    assert np.array_equal(rollout.token_ids, [*second, 5, END])
    with pytest.raises(ValueError, match="read-only"):
        second[0] = 1


def test_wrong_calls() -> None:
    rollout = Rollout(ShortRenderer())
    with pytest.raises(RuntimeError, match="no prompt was planned"):
        rollout.append(completion([1]))
    with pytest.raises(ValueError, match="no turn yet"):
        rollout.sample()
    with pytest.raises(ValueError, match="no new message"):
        rollout.prompt_ids([])
    with pytest.raises(TypeError, match="either"):
        rollout.prompt_ids()
    with pytest.raises(TypeError, match="list of messages"):
        rollout.prompt_ids({"role": "user", "content": "a"})
    with pytest.raises(TypeError, match="must have a role"):
        rollout.prompt_ids([{"content": "a"}])
    with pytest.raises(ValueError, match="on_drift must be one of branch, rerender, raise"):
        Rollout(ShortRenderer(), on_drift="ignore")  # type: ignore[arg-type]
    rollout.prompt_ids(FIRST)
    with pytest.raises(tito.AlignmentError):
        rollout.append(completion([1], prompt_token_ids=np.array([1, 2], np.int32)))
    rollout.append(completion([END]))
    with pytest.raises(RuntimeError, match="no prompt was planned"):
        rollout.append(completion([END]))
    with pytest.raises(ValueError, match="no new message"):
        rollout.prompt_ids(conversation=rollout.messages)
    with pytest.raises(ValueError, match="final_row must be one of"):
        rollout.sample(final_row="nothing")  # type: ignore[arg-type]


def test_two_steps_at_once_are_refused() -> None:
    class Slow:
        async def generate(self, *_: Any, **__: Any) -> Any:
            await asyncio.sleep(0)
            return completion([END])

    async def both() -> list[Any]:
        rollout = Rollout(ShortRenderer())
        steps = (rollout.step(Slow(), FIRST) for _ in range(2))  # type: ignore[arg-type]
        return await asyncio.gather(*steps, return_exceptions=True)

    turn, error = asyncio.run(both())
    assert turn.token_ids.tolist() == [END]
    assert isinstance(error, RuntimeError)
