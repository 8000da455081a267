"""The doctor tells the servers apart and reports wrong settings."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

import pytest

import dynamo_tito as tito
from dynamo_tito import simulator
from dynamo_tito.cli._doctor import _lines
from dynamo_tito.control import Diagnosis, detect_backend, examine
from dynamo_tito.simulator import Engine
from support.raw_server import Answer, RawServer, Received, reply

GUISES: dict[str, dict[str, Any]] = {
    "vllm-0.31": {"backend": "vllm", "vllm_version": "0.31"},
    "vllm": {"backend": "vllm"},
    "prime": {"backend": "prime"},
    "dynamo": {"backend": "dynamo"},
    "dynamo-trim": {"backend": "dynamo", "prompt_start": "trim"},
    "sglang": {"backend": "sglang"},
}
NAMES = {"vllm": "vLLM", "prime": "prime-rl's server", "dynamo": "Dynamo", "sglang": "SGLang"}


def ask(engine: Engine, **options: Any) -> Diagnosis:
    return asyncio.run(examine(engine.url, rl_base_url=engine.rl_url, trust_env=False, **options))


def said(found: Diagnosis, topic: str) -> str:
    return "; ".join(f"{each.verdict}: {each.found}" for each in found.findings if each.topic == topic)


@pytest.mark.parametrize("name", GUISES)
def test_the_guises_are_told_apart(name: str) -> None:
    with simulator.running(**GUISES[name]) as engine:
        before = engine.admin.version
        found = ask(engine)
        assert found.name.startswith(NAMES[engine.config.backend])
        assert found.backend == engine.config.backend == asyncio.run(detect_backend(engine.url, trust_env=False))
        assert found.model == "tito-model"
        assert [each for each in found.findings if each.verdict == "change"] == []
        assert said(found, "context length") == "ok: 262,144 tokens"
        # Safe on a live server: one token at most, nothing changed.
        assert engine.requests
        assert all(len(sample.token_ids) == 1 for record in engine.requests for sample in record.samples)
        assert (engine.admin.version, engine.admin.paused, engine.admin.cache_flushes) == (before, None, 0)


@pytest.mark.parametrize(
    ("name", "transport", "says"),
    [
        ("vllm-0.31", "vllm_generate", "tokens as text"),
        ("vllm", "vllm_generate", "integer token ids"),
        ("dynamo", "vllm_generate", "tokens as text"),
    ],
)
def test_the_dialects_are_told_apart(name: str, transport: str, says: str) -> None:
    with simulator.running(**GUISES[name]) as engine:
        assert f"ok: answers with {says}" in said(ask(engine), transport)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("vllm", "an npy file"),
        ("prime", "an object of uint8"),
        ("sglang", "bare int32 rows"),
        ("dynamo", "an object of uint8"),
    ],
)
def test_the_container_of_routed_experts(name: str, form: str) -> None:
    with simulator.running(**GUISES[name]) as engine:
        found = ask(engine)
        transports = {each.topic for each in found.findings if each.found.startswith("routed experts")}
        assert transports
        assert all(f"routed experts as {form}" in said(found, each) for each in transports)


@pytest.mark.parametrize("container", ["object", "bare"])
@pytest.mark.parametrize(
    ("prompt_start", "says"), [("refuse", "note: refuses"), ("ignore", "note: ignores"), ("trim", "ok: honours")]
)
def test_the_prompt_start_of_dynamo(prompt_start: Any, says: str, container: Any) -> None:
    with simulator.running(prompt_start=prompt_start, routed_experts_container=container) as engine:
        found = ask(engine)
        assert says in said(found, "dynamo_chat")
        assert says in said(found, "dynamo_completions")
        assert "ok: honours" in said(found, "vllm_generate")
        assert f"{engine.instance_id}: 12 routes" in said(found, "administration")


@pytest.mark.parametrize("name", GUISES)
def test_missing_and_empty_routed_experts_are_found(name: str) -> None:
    with simulator.running(**GUISES[name], routed_experts=False) as engine:
        findings = [each for each in ask(engine).findings if each.found == "no routed experts"]
        assert findings
        assert all("--enable-return-routed-experts" in (each.advice or "") for each in findings)
    with simulator.running(**GUISES[name], num_experts=1, top_k=1) as engine:
        assert any("all routed experts are zero" in each.found for each in ask(engine).findings)


def test_discovery_that_is_off_is_found() -> None:
    with simulator.running() as engine:
        found = asyncio.run(examine(engine.url, rl_base_url=engine.url, trust_env=False))
        assert "does not exist" in said(found, "discovery")
    found = Guise({"/v1/models": cards("nvidia")}).examined()
    assert any("DYN_ENABLE_RL" in (each.advice or "") for each in found.findings if each.topic == "discovery")


def test_the_embedded_engine_names_its_discovery() -> None:
    with simulator.running() as engine:
        elsewhere = asyncio.run(examine(engine.url, rl_base_url=engine.url, trust_env=False))
        advice = next(each.advice for each in elsewhere.findings if each.topic == "discovery")
        assert advice == f"this is dynamo-tito serve: name its discovery with --rl-url {engine.rl_url}"


class Guise:
    """A server by its routes: what each answers, and the requests that came."""

    def __init__(self, routes: dict[str, Any]) -> None:
        self.routes = routes
        self.server = RawServer(script=[self.answer], models=self.answer)

    def answer(self, request: Received) -> Answer:
        known = self.routes.get(request.path.partition("?")[0])
        known = known(request.json) if callable(known) else known
        if known is None:
            return reply(405 if request.path in self.routes else 404, {"detail": "no"})
        if isinstance(known, bytes):
            return reply(200, known, content_type="text/event-stream")
        return reply(*known) if isinstance(known, tuple) else reply(200, known)

    def examined(self) -> Diagnosis:
        with self.server:
            return asyncio.run(examine(self.server.url, rl_base_url=self.server.url, trust_env=False))


def cards(owner: str) -> dict[str, Any]:
    return {"object": "list", "data": [{"id": "m", "owned_by": owner, "max_model_len": 64, "context_window": 64}]}


def generated(logprob: float) -> dict[str, Any]:
    entry = {"token_id": 7, "logprob": logprob, "rank": 1, "top_logprobs": []}
    choice = {"index": 0, "finish_reason": "length", "token_ids": [7], "logprobs": {"content": [entry]}}
    return {"request_id": "r", "choices": [choice]}


def native(document: dict[str, Any]) -> dict[str, Any]:
    meta = {
        "id": "r",
        "finish_reason": {"type": "length", "length": 1},
        "prompt_tokens": len(document["input_ids"]),
        "completion_tokens": 1,
        "output_token_logprobs": [[-0.5, 7, None]],
    }
    return {"text": "", "output_ids": [7], "meta_info": meta}


def events(*chunks: dict[str, Any]) -> bytes:
    return b"".join(b"data: %s\n\n" % json.dumps(chunk).encode() for chunk in chunks) + b"data: [DONE]\n\n"


EVENTS = events(generated(-0.5), {"choices": []})
NATIVE_EVENTS = events(native({"input_ids": [1, 2, 3]}))
GENERATE = "/inference/v1/generate"


@pytest.mark.parametrize("version", ["0.33.0", None])
def test_a_version_is_named_where_a_route_tells_it(version: str | None) -> None:
    routes = {"/v1/models": cards("vllm"), GENERATE: lambda _: generated(-0.5)}
    if version is not None:
        routes["/version"] = {"version": version}
    found = Guise(routes).examined()
    assert found.version == version
    assert found.name == ("vLLM" if version is None else f"vLLM {version}")
    told = "no route tells its version" if version is None else "/version tells version 0.33.0"
    assert said(found, "server") == f"ok: vLLM: its models are owned by vllm; {told}"


def test_no_version_of_dynamo_is_guessed() -> None:
    found = Guise({"/v1/models": cards("nvidia"), "/version": {"version": "9"}}).examined()
    assert (found.name, found.version) == ("Dynamo", None)
    assert "1.6" not in str(found)


def test_streams_are_probed_with_one_token() -> None:
    asked: list[dict[str, Any]] = []

    def generate(document: dict[str, Any]) -> Any:
        asked.append(document)
        return EVENTS if document.get("stream") else generated(-0.5)

    found = Guise({"/v1/models": cards("vllm"), GENERATE: generate}).examined()
    assert said(found, "vllm_generate").endswith(
        "ok: streams on request: 3 server-sent events for one token; "
        "ok: the stream decodes, and brings what the unary answer has"
    )
    assert [each["sampling_params"]["max_tokens"] for each in asked] == [1] * len(asked)
    ignores = Guise({"/v1/models": cards("vllm"), GENERATE: lambda _: generated(-0.5)}).examined()
    assert "note: ignores stream: true" in said(ignores, "vllm_generate")
    with simulator.running(backend="vllm") as engine:
        assert "ok: streams on request: 3 server-sent events for one token" in said(ask(engine), "vllm_generate")
    with simulator.running(backend="dynamo") as engine:
        assert "note: refuses streams (HTTP 501)" in said(ask(engine), "vllm_generate")


@pytest.mark.parametrize(
    ("chunks", "says"),
    [
        ([{"choices": []}], "change: the stream cannot be trusted: the stream has no answer"),
        ([generated(0.5)], "change: the stream cannot be trusted: found 0.5"),
        ([{"choices": [{"token_ids": [7], "finish_reason": "length"}]}], "note: the stream lacks logprobs, which"),
        (
            [generated(-0.5) | {"prompt_token_ids": [1, 2]}],
            "change: the stream cannot be trusted: the server ran",
        ),
        (
            [{"choices": [{**generated(-0.5)["choices"][0], "finish_reason": None}]}, generated(-0.5)],
            "note: the stream has 2 tokens, the unary answer 1",
        ),
    ],
)
def test_a_stream_is_compared_with_the_unary_answer(chunks: list[dict[str, Any]], says: str) -> None:
    def generate(document: dict[str, Any]) -> Any:
        return events(*chunks) if document.get("stream") else generated(-0.5)

    assert says in said(Guise({"/v1/models": cards("vllm"), GENERATE: generate}).examined(), "vllm_generate")


@pytest.mark.parametrize("name", GUISES)
def test_the_streams_of_the_guises_bring_what_their_answers_have(name: str) -> None:
    with simulator.running(**GUISES[name]) as engine:
        findings = ask(engine).findings
    streaming = [each.topic for each in findings if each.found.startswith("streams on request")]
    whole = [each.topic for each in findings if each.found.endswith("brings what the unary answer has")]
    assert streaming == whole != []


def test_the_native_route_of_a_dynamo_that_streams_only() -> None:
    """As of Dynamo 1.6.1: unary is 501."""

    def generate(document: dict[str, Any]) -> Any:
        return NATIVE_EVENTS if document.get("stream") else (501, {"message": "unary is not implemented", "code": 501})

    found = Guise({"/v1/models": cards("nvidia"), "/generate": generate}).examined()
    assert said(found, "sglang_generate") == (
        "note: answers no unary request (HTTP 501); ok: streams on request: 2 server-sent events for one token; "
        "ok: the stream decodes"
    )


def test_the_native_route_of_a_dynamo_that_answers() -> None:
    """As of Dynamo 1.7."""
    found = Guise(
        {"/v1/models": cards("nvidia"), "/generate": lambda it: NATIVE_EVENTS if it.get("stream") else native(it)}
    ).examined()
    assert said(found, "sglang_generate").startswith("ok: answers; ok: one log-probability per token")
    without = Guise({"/v1/models": cards("nvidia")}).examined()
    assert said(without, "sglang_generate").startswith("note: does not answer")
    assert any("DYN_SGLANG_ENABLE_GENERATE" in (each.advice or "") for each in without.findings)


@pytest.mark.parametrize(
    ("owner", "routes", "says"),
    [
        ("vllm", {}, "note: cannot be seen"),
        (
            "vllm",
            {"/server_info": {"vllm_config": {"model_config": {"generation_config": "auto"}}}},
            'note: generation_config "auto", overridden by {}',
        ),
        (
            "vllm",
            {
                "/server_info": {
                    "vllm_config": {
                        "model_config": {"generation_config": "vllm", "override_generation_config": {"top_k": 20}}
                    }
                }
            },
            'note: generation_config "vllm", overridden by {"top_k": 20}',
        ),
        (
            "vllm",
            {"/server_info": {"vllm_config": {"model_config": {"generation_config": "vllm"}}}},
            'ok: generation_config "vllm", overridden by {}',
        ),
        ("sglang", {"/model_info": {"model_path": "m", "preferred_sampling_params": None}}, "ok: none"),
        (
            "sglang",
            {"/model_info": {"model_path": "m", "preferred_sampling_params": {"top_p": 0.9}}},
            'note: preferred_sampling_params {"top_p": 0.9} apply',
        ),
        ("sglang", {"/model_info": {"model_path": "m"}}, "note: cannot be seen"),
        ("nvidia", {}, "note: cannot be seen"),
    ],
)
def test_the_sampling_defaults(owner: str, routes: dict[str, Any], says: str) -> None:
    found = Guise({"/v1/models": cards(owner), **routes}).examined()
    assert said(found, "sampling defaults").startswith(says)


def test_logits_are_found() -> None:
    found = Guise({"/v1/models": cards("vllm"), GENERATE: lambda _: generated(18.25)}).examined()
    (finding,) = (each for each in found.findings if "cannot be trusted" in each.found)
    assert finding.verdict == "change"
    assert "--logprobs-mode processed_logprobs" in (finding.advice or "")


def test_a_model_that_is_not_there_is_found() -> None:
    with simulator.running(backend="vllm") as engine:
        found = ask(engine, model="other")
        assert said(found, "model") == "change: /v1/models lists tito-model"
        assert "does not answer" in said(found, "vllm_generate")


def test_no_server_at_the_address() -> None:
    with simulator.running() as engine:
        url = engine.url
    with pytest.raises(tito.TransportError):
        asyncio.run(examine(url, trust_env=False))
    with simulator.running() as engine, pytest.raises(tito.ServerError, match="name the backend"):
        asyncio.run(examine(engine.rl_url, trust_env=False))


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.argv[1:] = {[*arguments]!r}; from dynamo_tito.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)


def test_the_command_doctor() -> None:
    with simulator.running() as engine:
        done = command("doctor", engine.url, "--rl-url", engine.rl_url)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"{engine.url}: Dynamo, model tito-model\n")
        assert max(map(len, done.stdout.splitlines())) <= 80
        document = json.loads(command("doctor", engine.url, "--rl-url", engine.rl_url, "--json").stdout)
        assert (document["name"], document["version"]) == ("Dynamo", None)
        wrong = command("doctor", engine.url, "--rl-url", engine.url)
        assert wrong.returncode == 1
        assert "DYN_ENABLE_RL" in wrong.stdout
    gone = command("doctor", engine.url)
    assert (gone.returncode, gone.stdout) == (2, "")


@pytest.mark.parametrize("name", GUISES)
def test_the_report_fits_a_pipe_and_a_terminal(name: str) -> None:
    with simulator.running(**GUISES[name], routed_experts=False) as engine:
        found = asyncio.run(examine(engine.url, rl_base_url=engine.url, trust_env=False))
    words = " ".join(each.found + " " + (each.advice or "") for each in found.findings).split()
    for width in (40, 80, 200):
        lines = [*_lines(found, width)]
        assert all(len(line) <= width for line in lines)
        if width > max(map(len, words)) + 10:
            assert set(words) <= set(" ".join(lines).split())


def test_serve_prints_the_command_that_examines_it() -> None:
    code = "import sys; sys.argv[1:] = ['serve']; from dynamo_tito.cli import main; main()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as serving:
        try:
            assert serving.stdout is not None
            line = next(line for line in serving.stdout if line.startswith("doctor"))
            _, program, *arguments = line.split()
            assert program == "dynamo-tito"
            done = command(*arguments)
            assert (done.returncode, done.stderr) == (0, "")
            assert "ok      1 workers" in done.stdout
        finally:
            serving.terminate()


def test_the_command_workers() -> None:
    with simulator.running() as engine, simulator.running(seed=1, world_size=4) as other:
        engine.join(other)
        engine.admin.name_version("step_3")
        done = command("workers", engine.url, "--rl-url", engine.rl_url)
        assert (done.returncode, done.stderr) == (0, "")
        lines = done.stdout.splitlines()
        assert lines[0].split() == ["worker", "model", "ranks", "routes", "version", "health"]
        assert len(lines) == 3
        line = next(line for line in lines if str(engine.instance_id) in line)
        assert line.split() == [f"dynamo.backend.rl/{engine.instance_id}", "tito-model", "1", "12", "step_3", "ok"]
        other.stopped = True
        broken = command("workers", engine.url, "--rl-url", engine.rl_url, "--json")
        assert broken.returncode == 1
        rows = [json.loads(line) for line in broken.stdout.splitlines()]
        assert sorted(row["health"] == "ok" for row in rows) == [False, True]
        nowhere = command("workers", engine.url, "--rl-url", engine.url)
        assert nowhere.returncode == 2
        assert engine.url + "/v1/rl/workers" in nowhere.stderr
        assert "DYN_ENABLE_RL" in nowhere.stderr
