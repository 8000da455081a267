"""The hash model: the properties that comparisons rely on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dynamo_tito.simulator.model import Model
from dynamo_tito.simulator.tokenizer import Tokenizer

PROMPT = list(range(300, 340))


def test_a_continued_prompt_continues_the_same() -> None:
    model = Model()
    whole = model.sample(PROMPT, 50)
    part = model.sample([*PROMPT, *whole.token_ids[:20].tolist()], 30)
    np.testing.assert_array_equal(part.token_ids, whole.token_ids[20:])
    np.testing.assert_array_equal(part.logprobs, whole.logprobs[20:])
    np.testing.assert_array_equal(part.routed_experts, whole.routed_experts)


def test_scoring_agrees_with_sampling() -> None:
    model = Model()
    sample = model.sample(PROMPT, 25)
    ids = np.concatenate([sample.prompt_ids, sample.token_ids])
    np.testing.assert_array_equal(model.score(ids).logprobs[len(PROMPT) :], sample.logprobs)


def test_routing_of_a_position_depends_on_what_is_before_it_only() -> None:
    model = Model(num_layers=3, top_k=4, num_experts=60)
    ids = np.array([*PROMPT, *range(1000, 1040)])
    other = ids.copy()
    other[50] += 1
    rows, changed = model.routing(ids), model.routing(other)
    np.testing.assert_array_equal(rows[:50], changed[:50])
    assert not (rows[50:] == changed[50:]).all(axis=(1, 2)).any()
    np.testing.assert_array_equal(model.routing(ids, start=17, stop=60), rows[17:60])


@pytest.mark.parametrize(("num_experts", "top_k"), [(1, 1), (2, 2), (60, 6), (128, 8), (256, 8), (257, 3), (65_536, 4)])
def test_a_token_goes_to_different_experts_in_range(num_experts: int, top_k: int) -> None:
    model = Model(num_layers=3, top_k=top_k, num_experts=num_experts)
    rows = model.sample(PROMPT, 60).routed_experts
    assert rows.dtype == (np.uint8 if num_experts <= 256 else np.uint16)
    assert int(rows.max()) < num_experts
    ordered = np.sort(rows, axis=2)
    assert (ordered[:, :, 1:] != ordered[:, :, :-1]).all()


def test_neighbouring_rows_and_values_differ() -> None:
    """Data shifted by one token must not look like the right data."""
    sample = Model().sample(PROMPT, 2_000)
    rows = sample.routed_experts
    assert not (rows[1:] == rows[:-1]).all(axis=(1, 2)).any()
    assert len(np.unique(sample.logprobs)) == len(sample.logprobs)
    assert (sample.logprobs < 0).all()
    assert len(np.unique(sample.token_ids)) > 1_900


@pytest.mark.parametrize("change", ["seed", "version", "index", "request_seed"])
def test_the_inputs_of_a_sample(change: str) -> None:
    base = Model().sample(PROMPT, 20)
    if change == "seed":
        other = Model(seed=1).sample(PROMPT, 20)
    else:
        value: dict[str, object] = {"version": "step_1", "index": 1, "request_seed": 0}
        other = Model().sample(PROMPT, 20, **{change: value[change]})  # type: ignore[arg-type]
    assert not np.array_equal(base.token_ids, other.token_ids)
    # Another choice of the same prompt has the same prompt routing; other weights have another.
    same_routing = np.array_equal(base.routed_experts[: len(PROMPT)], other.routed_experts[: len(PROMPT)])
    assert same_routing is (change in ("index", "request_seed"))


def test_stops() -> None:
    model = Model()
    free = model.sample(PROMPT, 10)
    stop = int(free.token_ids[4])
    stopped = model.sample(PROMPT, 10, stop_token_ids=[stop])
    assert (stopped.finish_reason, stopped.stop_reason, len(stopped.token_ids)) == ("stop", stop, 5)
    assert len(model.sample(PROMPT, 10, stop_token_ids=[stop], min_tokens=5).token_ids) == 10
    ended = Model(eos_rate=0.2).sample(PROMPT, 1_000)
    assert ended.finish_reason == "eos"
    assert ended.token_ids[-1] == Model().eos_token_id
    assert len(Model(eos_rate=0.2).sample(PROMPT, 300, ignore_eos=True).token_ids) == 300


def test_alternatives_are_ranked_and_never_the_given_token() -> None:
    model = Model()
    scores = model.sample(PROMPT, 200).scores
    ids, logprobs, ranks, counts = model.alternatives(scores, 4)
    assert set(scores.ranks.tolist()) == {1, 2, 3}
    for at in range(200):
        count = int(counts[at])
        assert count == 3
        assert scores.token_ids[at] not in ids[at]
        everyone = sorted([*ranks[at, :count].tolist(), int(scores.ranks[at])])
        assert everyone == [1, 2, 3, 4]
        values = dict(zip(ranks[at, :count].tolist(), logprobs[at, :count].tolist(), strict=True))
        values[int(scores.ranks[at])] = float(scores.logprobs[at])
        assert [values[rank] for rank in everyone] == sorted(values.values(), reverse=True)
    assert (model.alternatives(scores, 1)[3] == (scores.ranks != 1)).all()


@pytest.mark.parametrize(
    "wrong", [{"top_k": 0}, {"top_k": 129}, {"num_experts": 70_000}, {"num_layers": 0}, {"vocab_size": 260}]
)
def test_shapes_that_make_no_sense(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Model(**wrong)


def test_the_tokenizer_reads_its_own_text() -> None:
    tokenizer = Tokenizer(32_000)
    text = "<|im_start|>user\nh\u00e9llo \U0001f600<|im_end|>\n"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode([300, 31_997, 400], skip_special=True) == "w300w400"
    # What was sampled is never what encoding its text gives.
    assert tokenizer.encode(tokenizer.decode([300, 400])) != [300, 400]
    assert tokenizer.decode([0xC3]) == "\ufffd"


def test_the_chat_template() -> None:
    tokenizer = Tokenizer(32_000)
    messages: list[dict[str, Any]] = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": None}]
    text = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(tokenizer.apply_chat_template(messages)) == text
    open_end = tokenizer.apply_chat_template(messages, continue_final_message=True)
    assert tokenizer.decode(open_end) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
