"""NeMo-RL's codec and rows, as of commit 7ea279a, and its own code where a checkout is given (``NEMO_RL_DIR``)."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

import dynamo_tito as tito
from dynamo_tito.integrations import nemo_rl
from support.frameworks import checkout
from support.trajectories import PROMPT, conversation, same_values, single, turn


def text(dtype: str, shape: str, data: bytes) -> str:
    return f"nrlre1:{dtype}:{shape}:{base64.b64encode(data).decode()}"


def test_the_codec_is_the_envelope_of_version_1() -> None:
    rows = np.arange(24, dtype=np.uint8).reshape(3, 4, 2)
    for dtype, width in (("int8", 1), ("int16", 2), ("int32", 4)):
        written = nemo_rl.encode_routed_experts(rows, dtype=dtype)  # type: ignore[arg-type]
        assert written == text(dtype, "3x4x2", rows.astype(dtype).tobytes())
        again = nemo_rl.decode_routed_experts(written)
        assert (again.dtype.name, again.dtype.itemsize, again.tolist()) == (dtype, width, rows.tolist())
        assert again.flags.writeable
    assert nemo_rl.encode_routed_experts(rows[:0]) == text("int16", "0x4x2", b"")
    assert nemo_rl.decode_routed_experts(text("int8", "0x4x2", b"")).shape == (0, 4, 2)
    every_other = rows[:, ::2]
    assert nemo_rl.encode_routed_experts(every_other) == text("int16", "3x2x2", every_other.astype(np.int16).tobytes())


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ("nrlre2:int8:1x1x1:AA==", "container"),
        ("nrlre1:uint8:1x1x1:AA==", "container"),
        ("nrlre1:int8:1x1:AA==", "shape"),
        ("nrlre1:int8:1x-1x1:AA==", "shape"),
        ("nrlre1:int8:1x1x²:AA==", "shape"),
        ("nrlre1:int8:1x1x2:AA==", "size"),
        ("nrlre1:int16:1x1x1:AA==", "size"),
        ("nrlre1:int8:1x1x1:A!==", "base64"),
        ("nrlre1:int8:1x1x1:AA", "base64"),
        ("", "container"),
    ],
)
def test_what_is_no_envelope_is_refused(wrong: str, kind: str) -> None:
    with pytest.raises(tito.RoutedExpertsError) as caught:
        nemo_rl.decode_routed_experts(wrong)
    assert caught.value.kind == kind


def test_ids_that_do_not_fit_are_refused() -> None:
    with pytest.raises(tito.RoutedExpertsError, match="expert 128 does not fit int8"):
        nemo_rl.encode_routed_experts(np.full((1, 1, 1), 128, np.uint8), dtype="int8")
    assert [nemo_rl.carry_dtype(count) for count in (None, 128, 129, 32_768, 32_769)] == [
        "int16",
        "int8",
        "int16",
        "int16",
        "int32",
    ]


def test_a_gym_item_has_a_row_for_every_token() -> None:
    completion = turn(3)
    item = nemo_rl.gym_item(PROMPT, completion)
    rows = nemo_rl.decode_routed_experts(item["routed_experts"])
    assert completion.routed_experts is not None
    assert rows[:-1].tolist() == completion.routed_experts.array.tolist()
    # The last token's row: each expert once, which their replay asks of every row.
    assert rows[-1].tolist() == [[0, 1], [0, 1]]
    assert item["prompt_token_ids"] == PROMPT
    assert item["generation_token_ids"] == [100, 101, 102]
    assert item["generation_log_probs"] == [-1.0, -2.0, -3.0]


def test_rows_that_an_abort_left_out_say_so() -> None:
    short = turn(3)
    assert short.routed_experts is not None
    experts = tito.RoutedExperts(short.routed_experts.array[:5], 0, "uint8", complete=False)
    aborted = turn(3, experts=False, finish_reason="abort", aborted=True, routed_experts=experts)
    rows = nemo_rl.decode_routed_experts(nemo_rl.gym_item(PROMPT, aborted)["routed_experts"])
    assert rows[:5].tolist() == experts.array.tolist()
    assert (rows[5:7] == -1).all()
    assert rows[7].tolist() == [[0, 1], [0, 1]]


def test_outputs_are_padded_on_the_right() -> None:
    torch = pytest.importorskip("torch")
    prompts, completions = [PROMPT, PROMPT[:2]], [turn(3, finish_reason="length"), turn(4, prompt=2)]
    output = nemo_rl.generation_output(prompts, completions, pad_token_id=9)
    assert {name: (str(value.dtype), tuple(value.shape)) for name, value in output.items()} == {
        "output_ids": ("torch.int64", (2, 8)),
        "generation_lengths": ("torch.int64", (2,)),
        "unpadded_sequence_lengths": ("torch.int64", (2,)),
        "logprobs": ("torch.float32", (2, 8)),
        "truncated": ("torch.bool", (2,)),
        "routed_experts": ("torch.int16", (2, 8, 2, 2)),
    }
    assert output["output_ids"].tolist() == [[*PROMPT, 100, 101, 102], [*PROMPT[:2], 100, 101, 102, 103, 9, 9]]
    assert output["logprobs"].tolist() == [
        [0.0] * 5 + [-1.0, -2.0, -3.0],
        [0.0] * 2 + [-1.0, -2.0, -3.0, -4.0, 0.0, 0.0],
    ]
    assert output["unpadded_sequence_lengths"].tolist() == [8, 6]
    assert output["truncated"].tolist() == [True, False]
    for place, completion in enumerate(completions):
        assert completion.routed_experts is not None
        recorded = completion.routed_experts.array
        assert output["routed_experts"][place, : len(recorded)].tolist() == recorded.tolist()
        assert torch.equal(
            output["routed_experts"][place, len(recorded) :],
            torch.tensor([0, 1], dtype=torch.int16).expand(8 - len(recorded), 2, 2),
        )
    with pytest.raises(tito.RoutedExpertsError, match="1 of 2 completions have routed experts"):
        nemo_rl.generation_output(prompts, [completions[0], turn(4, experts=False)], pad_token_id=9)


def test_a_message_log_there_and_back() -> None:
    pytest.importorskip("torch")
    held = conversation()
    log = nemo_rl.message_log(held.sample)
    assert [(message["role"], len(message["token_ids"])) for message in log] == [
        ("user", 5),
        ("assistant", 3),
        ("user", 4),
        ("assistant", 2),
    ]
    rows = np.concatenate([message["routed_experts"].numpy() for message in log])
    assert rows[:-1].tolist() == held.rows.tolist()
    same_values(nemo_rl.from_message_log(log), held.sample)
    same_values(nemo_rl.from_message_log(nemo_rl.message_log(single())), single())
    del log[1]["routed_experts"]
    with pytest.raises(tito.RoutedExpertsError, match="11 rows of routed experts for 14 tokens"):
        nemo_rl.from_message_log(log)


def test_their_codec_and_ours_read_each_other() -> None:
    codec: Any = checkout("NEMO_RL_DIR", "nemo_rl.utils.routed_experts_codec")
    torch = pytest.importorskip("torch")
    completion = turn(3)
    item = nemo_rl.gym_item(PROMPT, completion, dtype="int16")
    theirs = codec.decode_routed_experts(item["routed_experts"], dtype=torch.int16)
    assert theirs.tolist() == nemo_rl.decode_routed_experts(item["routed_experts"]).tolist()
    assert codec.encode_routed_experts(theirs) == item["routed_experts"]


def test_their_flattening_takes_our_message_log() -> None:
    utils: Any = checkout("NEMO_RL_DIR", "nemo_rl.data.llm_message_utils")
    held = conversation()
    logs = [nemo_rl.message_log(held.sample), nemo_rl.message_log(single())]
    for log in logs:
        for message in log:
            message.setdefault("generation_logprobs", message["token_ids"].new_zeros(len(message["token_ids"])).float())
    flat, lengths = utils.batched_message_log_to_flat_message(logs)
    assert lengths.tolist() == [14, 9]
    assert flat["token_ids"][0].tolist() == held.token_ids.tolist()
    assert flat["routed_experts"][0][:13].tolist() == held.rows.tolist()
    assert flat["routed_experts"][0][13].tolist() == [[0, 1], [0, 1]]
