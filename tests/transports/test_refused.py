"""What `save_refused` keeps is decoded to the same error, and is bounded, and shows no secret."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import dynamo_tito as tito
from dynamo_tito import simulator
from dynamo_tito._client import refused
from dynamo_tito.simulator import Fault
from support.driver import Driver, Kind
from support.raw_server import RawServer, reply

PROMPT = list(range(100, 120))
SECRET = "sk-7f3a9c-very-secret"
Connect = Callable[..., Driver]

FAULTS = [
    Fault(kind="wrong_rows", by=1),
    Fault(kind="positive_logprobs"),
    Fault(kind="zero_logprobs"),
    Fault(kind="error_body"),
    Fault(kind="unrouted_row", at=10),
    Fault(kind="long_echo"),
]
STREAM_FAULTS = [Fault(kind="no_finish"), Fault(kind="error_event", at=2), Fault(kind="wrong_ids")]


def records(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json"))


def same(kept: Path, raised: tito.TitoError) -> None:
    """The record names the error that was raised, and comes to it again."""
    said = json.loads(kept.read_bytes())["error"]
    with pytest.raises(tito.TitoError) as found:
        tito.replay(kept)
    again = found.value
    assert said["class"] == type(again).__name__
    for name in ("kind", "path", "offset"):
        assert said[name] == getattr(again, name, None)
    assert str(again) == said["message"]
    if isinstance(raised, tito.DecodeError):
        assert type(again) is type(raised)
        assert (again.kind, again.path, again.offset) == (raised.kind, raised.path, raised.offset)
    assert str(again) == str(raised)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_refused_answer_replays(kind: Kind, tmp_path: Path, *, stream: bool) -> None:
    faults = STREAM_FAULTS if stream else FAULTS
    with (
        simulator.running(backend="dynamo", prompt_start="ignore") as engine,
        Driver(
            kind,
            engine.url,
            transport="dynamo_chat",
            strict_logprobs=True,
            strict_routing={"num_experts": 128},
            trust_env=False,
            save_refused=tmp_path / "deep" / "er",
        ) as client,
    ):
        client.generate(PROMPT, stream=stream)
        assert not records(tmp_path / "deep" / "er")
        for number, fault in enumerate(faults, 1):
            engine.inject(fault)
            with pytest.raises(tito.TitoError) as raised:
                client.generate(
                    PROMPT, stream=stream, routed_experts_prompt_start=3, sampling_params={"max_tokens": 100}
                )
            kept = records(tmp_path / "deep" / "er")
            assert len(kept) == number, fault.kind
            same(max(kept, key=lambda file: int(file.stem.rpartition("-")[2])), raised.value)


def test_a_refused_score_replays(connect: Connect, server: RawServer, tmp_path: Path) -> None:
    server.play(reply(200, {"output_ids": [4], "meta_info": {"id": "x", "finish_reason": {"type": "length"}}}))
    with pytest.raises(tito.DecodeError) as raised:
        connect(transport="sglang_generate", save_refused=tmp_path).score([1, 2, 3])
    (kept,) = records(tmp_path)
    same(kept, raised.value)


def test_the_command_replays(tmp_path: Path) -> None:
    with (
        simulator.running(backend="vllm") as engine,
        tito.TitoClient(
            engine.url, model="tito-model", transport="vllm_generate", save_refused=tmp_path, trust_env=False
        ) as client,
    ):
        engine.inject(Fault(kind="wrong_rows", by=-1))
        with pytest.raises(tito.RoutedExpertsError) as raised:
            client.generate(PROMPT)
    (kept,) = records(tmp_path)
    command = [sys.executable, "-m", "dynamo_tito", "decode", str(kept)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"{kept}: RoutedExpertsError: {raised.value}"


def test_no_secret_is_kept(connect: Connect, server: RawServer, tmp_path: Path) -> None:
    echo = {"error": {"message": f"key {SECRET}"}, "choices": []}
    server.play(lambda _: reply(200, echo))
    client = connect(
        transport="dynamo_chat", api_key=SECRET, headers={"x-auth-token": "hush-hush"}, save_refused=tmp_path
    )
    with pytest.raises(tito.ServerError):
        client.generate(extra_body={"note": f"Bearer {SECRET}"})
    written = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert SECRET.encode() not in written
    assert b"hush-hush" not in written
    (kept,) = records(tmp_path)
    body = kept.with_suffix(".body").read_bytes()
    assert json.loads(body) == {"error": {"message": "key " + "*" * len(SECRET)}, "choices": []}
    request = json.loads(kept.read_bytes())["request"]
    assert request["headers"]["authorization"] == "Bearer ***"
    assert request["method"] == "POST"
    assert json.loads(request["body"])["nvext"]["token_data"] == [1, 2, 3, 4, 5]


def test_a_short_secret_leaves_the_body_as_it_is(connect: Connect, server: RawServer, tmp_path: Path) -> None:
    server.play(reply(200, b'{"choices":[1]}'))
    client = connect(transport="dynamo_chat", headers={"x-auth-token": "1"}, save_refused=tmp_path)
    with pytest.raises(tito.DecodeError) as raised:
        client.generate()
    (kept,) = records(tmp_path)
    assert kept.with_suffix(".body").read_bytes() == b'{"choices":[1]}'
    assert json.loads(kept.read_bytes())["request"]["headers"]["x-auth-token"] == "***"
    with pytest.raises(type(raised.value)):
        tito.replay(kept)


def broken(client: Driver) -> None:
    with pytest.raises(tito.MalformedBodyError):
        client.generate()


def test_a_directory_takes_so_many(
    connect: Connect,
    server: RawServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(refused, "MAX_FILES", 3)
    server.play(reply(200, b"{"))
    client = connect(save_refused=tmp_path)
    with caplog.at_level(logging.WARNING, "dynamo_tito"):
        for _ in range(5):
            broken(client)
    assert len(records(tmp_path)) == 3
    assert len([*tmp_path.iterdir()]) == 6
    assert caplog.text.count("is full") == 2


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_directory_takes_so_many_bytes(
    connect: Connect, server: RawServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, stream: bool
) -> None:
    monkeypatch.setattr(refused, "MAX_BYTES", 4_000)
    server.play(reply(200, b"{" + b" " * 5_000), reply(200, b"{"))
    client = connect(save_refused=tmp_path)
    for _ in range(2):
        with pytest.raises(tito.MalformedBodyError):
            client.generate(stream=stream)
    (kept,) = records(tmp_path)
    assert kept.with_suffix(".body").read_bytes() == b"{"


def test_what_cannot_be_written_hides_no_error(
    connect: Connect, server: RawServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.play(reply(200, b"{"))
    folder = tmp_path / "gone"
    client = connect(save_refused=folder)
    folder.rmdir()
    with caplog.at_level(logging.WARNING, "dynamo_tito"):
        broken(client)
    assert "was not kept" in caplog.text


def test_what_is_no_record_is_refused(tmp_path: Path) -> None:
    for text in ("[]", "{}", '{"format": 1}'):
        file = tmp_path / "x.json"
        file.write_text(text)
        with pytest.raises(ValueError, match="is not a dynamo-tito refused answer"):
            tito.replay(file)


def test_the_logger_is_silent_by_default(tmp_path: Path) -> None:
    """Without a handler Python prints warnings to standard error."""
    code = "import logging, dynamo_tito; from dynamo_tito._client import refused; refused.logger.warning('x')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
