"""``dynamo-tito decode``, as a user runs it."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
from typer.testing import CliRunner

import dynamo_tito as tito
from dynamo_tito.cli._app import app
from support import captures, made, streams
from support.small import EXPERTS, GENERATE, swap, with_experts

COMMAND = str(Path(sys.executable).with_name("dynamo-tito"))
CAPTURES = captures.FOLDER


class Done(NamedTuple):
    """What a command left."""

    returncode: int
    stdout: str
    stderr: str


def run(*arguments: Any, stdin: bytes = b"") -> Done:
    """The command within this process: a process of its own takes half a second to start."""
    done = CliRunner().invoke(app, ["decode", *map(str, arguments)], stdin, prog_name="dynamo-tito")
    return Done(done.exit_code, done.stdout, done.stderr)


def spawn(*arguments: Any, stdin: bytes = b"") -> Done:
    """The command as a shell starts it."""
    done = subprocess.run(
        [COMMAND, "decode", *map(str, arguments)], input=stdin, capture_output=True, timeout=60, check=False
    )
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.mark.parametrize("start", [run, spawn])
def test_a_response_is_described(start: Callable[..., Done]) -> None:
    done = start(CAPTURES / "generate_prompt_logprobs.json", "--wire", "vllm_generate", "--prompt-len", 5)
    assert (done.returncode, done.stderr) == (0, "")
    rows = [re.split(r"  +", line.strip()) for line in done.stdout.splitlines()]
    assert rows[0][0].endswith("generate_prompt_logprobs.json: choice 0 of vllm_generate, 2,150 bytes")
    assert ["token_ids", "int32 [4]", "1000 1001 1002 1003", "choices[0].token_ids"] in rows
    assert ["logprobs", "float64 [4]", "-0.01 -0.02 -0.03 -0.04", "choices[0].logprobs.content"] in rows
    assert ["routed_experts", "int32 [8, 4, 2]", "69 37 … 30 105", "choices[0].routed_experts"] in rows
    assert ["routing", "from position 0, uint8 on the wire, complete"] in rows
    assert ["prompt_logprobs", "not read", "left out: needs prompt_token_ids"] in rows
    assert ["finish_reason", "length"] in rows


def test_without_a_wire_the_keys_say_it_and_why() -> None:
    done = run(CAPTURES / "generate_prompt_logprobs.json", "--json")
    assert done.returncode == 0
    assert done.stderr.endswith(
        "generate_prompt_logprobs.json: wire vllm_generate: choices[0] has token_ids, and neither message nor text\n"
    )
    assert json.loads(done.stdout)["token_ids"]["shape"] == [4]
    refused = run("-", stdin=b"{}")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "the body has the keys of no wire" in refused.stderr


def test_several_choices_are_shown_as_several() -> None:
    done = run(made.FOLDER / "vllm_0.32_n2.json", "--wire", "vllm_generate")
    assert done.returncode == 0
    assert [line[-40:] for line in done.stdout.splitlines() if "choice " in line] == [
        ": choice 0 of vllm_generate, 4,336 bytes",
        ": choice 1 of vllm_generate, 4,336 bytes",
    ]


def test_json_is_one_object_per_choice() -> None:
    done = run(made.FOLDER / "vllm_0.32_n2.json", "--wire", "vllm_generate", "--json")
    first, second = map(json.loads, done.stdout.splitlines())
    assert (first["index"], second["index"]) == (0, 1)
    assert first["bytes"] == 4336
    assert first["routed_experts"] == {
        "dtype": "int32",
        "shape": [11, 4, 2],
        "first": [9, 55],
        "last": [43, 29],
        "start": 0,
        "wire_dtype": "uint8",
        "complete": True,
    }
    assert first["weight_versions"] == [{"version": "step_7", "start": 0, "end": 5}]
    assert second["sources"]["token_ids"] == "choices[1].token_ids"


def test_json_has_no_nan() -> None:
    done = run(CAPTURES / "chat_nonfinite_logprobs.json", "--wire", "dynamo_chat", "--missing-logprob", "nan", "--json")
    (summary,) = map(json.loads, done.stdout.splitlines())
    assert summary["logprobs"]["first"] == [None, None]
    assert "NaN" not in done.stdout


@pytest.mark.parametrize(
    "name",
    [
        "dynamo-1.6.1/chat_bare_experts",
        "dynamo-1.6.1/completions_chunks_of_3",
        "dynamo-1.7.0.dev20261026/sglang_chunks_of_3",
        "vllm-0.32.0/generate_n2",
        "vllm-0.32.0/chat_n2",
    ],
)
def test_a_recorded_stream_is_shown_as_its_document(name: str) -> None:
    pair = streams.pairs()[name]
    shape = ["--num-layers", 4, "--top-k", 2] if "num_layers" in pair.arguments else []
    prompt_len = pair.arguments.get("prompt_len", len(pair.arguments.get("prompt_token_ids", ())))
    shape += ["--prompt-len", prompt_len] if prompt_len else []
    done = run(streams.FOLDER / f"{name}.sse", streams.FOLDER / f"{name}.json", "--json", *shape)
    assert done.returncode == 0, done.stderr
    why = [line for line in done.stderr.splitlines() if f": wire {pair.arguments['wire']}: " in line]
    assert [line.endswith(", in a stream of events") for line in why] == [True, False]
    shown = [*map(json.loads, done.stdout.splitlines())]
    for one in shown:
        for field in ("file", "bytes", "request_id", *pair.lacks):
            del one[field]
        for source in pair.lacks:
            one["sources"].pop(source, None)
    half = len(shown) // 2
    assert half == (2 if name.endswith("n2") else 1)
    assert shown[:half] == shown[half:]


def test_a_stream_that_broke_off_is_refused() -> None:
    whole = streams.pairs()["vllm-0.32.0/generate_n2"].stream
    done = run("-", "--prompt-len", 8, stdin=whole[: whole.index(b"[DONE]")])
    assert (done.returncode, done.stdout) == (1, "")
    assert "the stream broke off before [DONE]" in done.stderr


def test_the_types_of_log_probabilities() -> None:
    for dtype in ("float64", "float32"):
        done = run(CAPTURES / "generate_prompt_logprobs.json", "--logprobs-dtype", dtype)
        assert f"{dtype} [4]" in done.stdout


def test_standard_input() -> None:
    done = spawn("-", "--wire", "vllm_generate", stdin=GENERATE)
    assert done.returncode == 0
    assert done.stdout.startswith("stdin: choice 0 of vllm_generate")


def test_a_refusal_is_one_line_and_the_others_are_still_shown() -> None:
    bad = CAPTURES / "chat_partial_logprobs.json"
    done = spawn(bad, CAPTURES / "chat_all_fields.json", "--wire", "dynamo_chat")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{bad}: AlignmentError: ")
    assert re.search(r"\(at choices\[0\]\.logprobs\.content, byte \d+\)$", line)
    assert "chat_all_fields.json: choice 0" in done.stdout


def test_an_error_body_is_a_refusal() -> None:
    done = run(CAPTURES / "generate_unknown_model.json", "--wire", "vllm_generate")
    assert done.returncode == 1
    assert done.stderr.endswith("generate_unknown_model.json: ServerError: Model not found: nope\n")


def test_a_file_that_is_not_there() -> None:
    done = run("nowhere.json", "--wire", "vllm_generate")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "nowhere.json: No such file or directory\n")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["-", "--wire", "openai"],
        ["-", "--wire", "vllm_generate", "--prompt-len", "-1"],
        ["-", "--wire", "vllm_generate", "--nonsense"],
    ],
)
def test_wrong_usage(arguments: list[str]) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr


def test_a_missing_option_is_named() -> None:
    name = CAPTURES / "generate_sglang_re_error.json"
    done = run(name, "--wire", "vllm_generate")
    assert done.returncode == 2
    assert "num_layers" in done.stderr
    done = run(name, "--wire", "vllm_generate", "--num-layers", 4, "--top-k", 2, "--prompt-len", 5)
    assert done.returncode == 0
    assert "int32 [8, 4, 2]" in done.stdout


def test_every_keyword_of_decode_is_an_option() -> None:
    found = run("--help").stdout
    knobs = {"prompt_len", "routed_experts_prompt_start", "num_layers", "top_k", "experts", "missing_logprob"}
    knobs |= {"logprobs_dtype", "final_row", "require_logprobs", "require_routed_experts", "wire"}
    for knob in knobs:
        assert f"--{knob.replace('_', '-')}" in found
    for wire in get_args(tito.Wire):
        assert wire in found


def test_the_options_reach_the_decoder() -> None:
    body = with_experts()
    trimmed = run("-", "--wire", "vllm_generate", "--routed-experts-prompt-start", 3, "--json", stdin=body)
    assert json.loads(trimmed.stdout)["routed_experts"]["start"] == 3
    native = run("-", "--wire", "vllm_generate", "--experts", "native", "--json", stdin=body)
    assert json.loads(native.stdout)["routed_experts"]["dtype"] == "uint8"
    skipped = run("-", "--wire", "vllm_generate", "--experts", "skip", "--json", stdin=body)
    assert json.loads(skipped.stdout)["routed_experts"] is None
    assert run("-", "--wire", "vllm_generate", "--prompt-len", 2, stdin=body).returncode == 1
    present = ["--prompt-len", 2, "--final-row", "present"]
    assert run("-", "--wire", "vllm_generate", *present, stdin=body).returncode == 0
    assert run("-", "--wire", "vllm_generate", "--require-routed-experts", stdin=GENERATE).returncode == 1
    unscored = body.replace(b'"content"', b'"unread"')
    assert run("-", "--wire", "vllm_generate", stdin=unscored).returncode == 1
    assert run("-", "--wire", "vllm_generate", "--no-require-logprobs", stdin=unscored).returncode == 0


def test_a_pipe_gets_whole_lines() -> None:
    body = swap(GENERATE, b'"request_id":"r"', b'"request_id":"' + b"r" * 3000 + b'"')
    done = spawn("-", "--wire", "vllm_generate", stdin=body)
    assert f"request_id{' ' * 5}{'r' * 3000}\n" in done.stdout
    assert "\x1b" not in done.stdout


def test_text_of_a_server_holds_no_control_characters() -> None:
    body = swap(GENERATE, b'"request_id":"r"', rb'"request_id":"\u001b[2J\u0007"')
    assert "\x1b" not in run("-", "--wire", "vllm_generate", stdin=body).stdout
    done = run("-", "--wire", "vllm_generate", stdin=rb'{"error":{"message":"\u001b[2Jno"}}')
    assert "\x1b" not in done.stderr


def test_a_terminal_gets_a_table(tmp_path: Path) -> None:
    (tmp_path / "body.json").write_bytes(with_experts(EXPERTS))
    leader, follower = pty.openpty()
    environment = os.environ | {"TERM": "dumb", "COLUMNS": "120"}
    command = [COMMAND, "decode", str(tmp_path / "body.json"), "--wire", "vllm_generate"]
    with os.fdopen(leader, "rb", buffering=0) as terminal:
        with os.fdopen(follower, "wb") as output:
            done = subprocess.run(command, stdout=output, env=environment, timeout=60, check=False)
        shown = terminal.read(65536).decode()
    assert done.returncode == 0
    assert "first … last" in shown
    assert "int32 [4, 1, 2]" in shown
