"""Record pairs of answers to one request, streamed and in one piece, from the real servers: tests/data/streams.

    python tools/record_streams.py vllm .vllm            # needs `make install-vllm`
    python tools/record_streams.py dynamo .dynamo/1.6.1  # needs `make install-dynamo`
    python tools/record_streams.py dynamo .dynamo/1.7.0.dev20261026 sglang_  # the rest is as in 1.6.1
    python tools/record_streams.py dynamo .dynamo/1.7.0.dev20261026 artifact_  # which 1.6.1 refuses

For each case of the tables below NAME.sse and NAME.json, and a line in index.json: the request (the stream's adds
`stream` and `stream_options`), both HTTP statuses, the keyword arguments that decode the answers, what the stand-in
engine sampled, and in what the two must differ. A server that does not answer in one piece (501) has no NAME.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT / "tests"))

from support.dynamo_stack import DynamoStack  # noqa: E402
from support.vllm_stack import MODEL, VllmServer  # noqa: E402

OUT = CHECKOUT / "tests" / "data" / "streams"
GENERATE, CHAT, COMPLETIONS = "/inference/v1/generate", "/v1/chat/completions", "/v1/completions"
SGLANG = "/generate"
USAGE = {"stream_options": {"include_usage": True}}
CONTINUOUS = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
UNSERVED = 501
PROMPT = [40, 41, 42, 43, 44, 45, 46, 47]


@dataclass(frozen=True)
class Case:
    """One request.

    Attributes:
        wire: as `tito.decode` calls it.
        body: of the request in one piece.
        more: what only the stream's request has.
        decode: keyword arguments of `tito.decode`.
        control: of the stand-in engine.
        lacks: attributes of a `Completion` that the stream cannot have.
        differs: why the two answers cannot be compared; nothing where they can.
        abort_after: abort the stream after so many events; no request in one piece is sent.
    """

    wire: str
    path: str
    body: dict[str, Any]
    more: dict[str, Any] = field(default_factory=dict)
    decode: dict[str, Any] = field(default_factory=dict)
    control: dict[str, Any] = field(default_factory=dict)
    lacks: tuple[str, ...] = ()
    differs: str = ""
    abort_after: int | None = None


# --- vLLM ---


def vllm_generate(params: dict[str, Any] | None = None, *, decode: dict[str, Any] | None = None, **more: Any) -> Case:
    """A request to `/inference/v1/generate`; `decode` adds to what decodes its answers."""
    case = {key: more.pop(key) for key in ("more", "differs", "abort_after") if key in more}
    params = {"max_tokens": 5, "seed": 3, "ignore_eos": True} | (params or {})
    decode = {"prompt_len": len(PROMPT)} | (decode or {})
    if "logprobs" not in params:
        decode["require_logprobs"] = False
    lacks = ("prompt_logprobs",) if "prompt_logprobs" in params else ()
    body = {"token_ids": PROMPT, "sampling_params": params, **more}
    return Case("vllm_generate", GENERATE, body, decode=decode, lacks=lacks, **case)


def vllm_chat(*, more: dict[str, Any] | None = None, **fields: Any) -> Case:
    """A request to vLLM's chat route that asks for token ids."""
    messages = [{"role": "user", "content": "the quick fox"}]
    body = {
        "model": MODEL,
        "messages": messages,
        "max_tokens": 5,
        "seed": 3,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    decode = {} if fields.get("logprobs") else {"require_logprobs": False}
    return Case("vllm_chat", CHAT, body | fields, more=more or {}, decode=decode, lacks=("routed_experts",))


START = {"routed_experts_prompt_start": 4}
VLLM: dict[str, Case] = {
    "generate_plain": vllm_generate(),
    "generate_logprobs_0": vllm_generate({"logprobs": 0}),
    "generate_logprobs_1": vllm_generate({"logprobs": 1}),
    "generate_logprobs_3": vllm_generate({"logprobs": 3}),
    "generate_n2": vllm_generate({"logprobs": 1, "n": 2}),
    "generate_start": vllm_generate({"logprobs": 1} | START, decode=START),
    "generate_echo": vllm_generate({"logprobs": 1}, return_token_ids=True),
    "generate_echo_n2": vllm_generate({"logprobs": 1, "n": 2}, return_token_ids=True),
    "generate_usage": vllm_generate({"logprobs": 1}, more=USAGE),
    "generate_usage_continuous": vllm_generate({"logprobs": 1}, more=CONTINUOUS),
    "generate_greedy": vllm_generate({"logprobs": 1, "temperature": 0.0}),
    "generate_one_token": vllm_generate({"logprobs": 1, "max_tokens": 1}, more=USAGE),
    "generate_eos": vllm_generate({"logprobs": 1, "ignore_eos": False, "logit_bias": {"342": 100}}),
    "generate_stop_token": vllm_generate({"logprobs": 1, "max_tokens": 30, "stop_token_ids": list(range(0, 512, 7))}),
    "generate_stop_text": vllm_generate({"logprobs": 1, "max_tokens": 60, "stop": ["a", "e", "t"]}),
    "generate_request_id": vllm_generate({"logprobs": 1}, request_id="mine-1"),
    "generate_prompt_logprobs": vllm_generate({"logprobs": 1, "prompt_logprobs": 1}),
    "generate_text": vllm_generate({"logprobs": 1}, output_mode="text", differs="no wire of this package"),
    "generate_long": vllm_generate({"logprobs": 1, "max_tokens": 40}, more=USAGE),
    "generate_chunks_of_3": vllm_generate({"logprobs": 1, "max_tokens": 8, "stream_interval": 3}),
    "generate_aborted": vllm_generate({"logprobs": 1, "max_tokens": 400}, request_id="leave", abort_after=3),
    "generate_refused": vllm_generate({"logprobs": -2}),
    "chat_plain": vllm_chat(),
    "chat_logprobs": vllm_chat(logprobs=True),
    "chat_top_2": vllm_chat(logprobs=True, top_logprobs=2),
    "chat_token_ids": vllm_chat(logprobs=True, top_logprobs=2, return_tokens_as_token_ids=True),
    "chat_n2": vllm_chat(logprobs=True, n=2),
    "chat_usage": vllm_chat(logprobs=True, more=USAGE),
    "chat_usage_continuous": vllm_chat(logprobs=True, more=CONTINUOUS),
    "chat_stop_text": vllm_chat(logprobs=True, max_tokens=60, stop=["a", "e", "t"]),
    "chat_eos": vllm_chat(logprobs=True, ignore_eos=False, logit_bias={"342": 100}),
    "chat_no_ids": vllm_chat(logprobs=True, return_token_ids=False),
    "chat_prompt_logprobs": vllm_chat(logprobs=True, prompt_logprobs=1),
}  # fmt: skip

# --- Dynamo ---

IDS = [1, 2, 300, 4_000, 31_999]
NAMED = ["completion_token_ids", "routed_experts"]
EVERY = [*NAMED, "engine_data", "stop_reason", "detailed_finish_reason", "prompt_logprobs", "worker_id", "timing"]


def dynamo(path: str, extra_fields: list[str] | None = None, **fields: Any) -> Case:
    """A request to Dynamo's chat or completions route."""
    case = {key: fields.pop(key) for key in ("more", "differs", "control") if key in fields}
    nvext = {"extra_fields": ["engine_data"] if extra_fields is None else extra_fields} | fields.pop("nvext", {})
    body = {"model": "tito-model", "max_tokens": 4, "nvext": nvext, **fields}
    if path == CHAT:
        nvext["token_data"] = IDS
        body |= {"messages": [{"role": "user", "content": "(tokens)"}]}
    else:
        body |= {"prompt": IDS}
    decode: dict[str, Any] = {"prompt_token_ids": IDS}
    if not fields.get("logprobs"):
        decode["require_logprobs"] = False
    if case.get("control", {}).get("routed_experts") == "bare":
        decode |= {"num_layers": 4, "top_k": 2}
    wire = "dynamo_chat" if path == CHAT else "dynamo_completions"
    return Case(wire, path, body, decode=decode, **case)


def dynamo_cases(path: str) -> Iterator[tuple[str, Case]]:
    """The cases that both routes have, by the end of their name."""
    some: dict[str, Any] = {"logprobs": True} if path == CHAT else {"logprobs": 1}
    three: dict[str, Any] = {"logprobs": True, "top_logprobs": 3} if path == CHAT else {"logprobs": 3}
    both = [*NAMED, "engine_data"]
    one = "in one piece only the last choice's fields are there"
    yield "engine_data", dynamo(path)
    yield "logprobs", dynamo(path, **some)
    yield "top_3", dynamo(path, **three)
    yield "named", dynamo(path, NAMED, **some)
    yield "named_without_logprobs", dynamo(path, NAMED)
    yield "every_field", dynamo(path, EVERY, prompt_logprobs=1, **some)
    yield "no_fields", dynamo(path, [], **some)
    yield "one_token", dynamo(path, both, max_tokens=1, **some)
    yield "n2_engine_data", dynamo(path, n=2, differs=one, **some)
    if path == CHAT:
        yield "n2_named", dynamo(path, NAMED, n=2, differs=one, **some)
    for step in (3, 10):
        yield f"chunks_of_{step}", dynamo(path, both, max_tokens=7, control={"chunk": step}, **some)
    yield "uint16", dynamo(path, control={"num_experts": 512}, **some)
    yield "bare_experts", dynamo(path, both, control={"routed_experts": "bare"}, **some)
    yield "no_experts", dynamo(path, both, control={"routed_experts": None}, **some)
    yield "prompt_logprobs", dynamo(path, prompt_logprobs=2, **some)
    yield "usage", dynamo(path, more=USAGE, **some)
    yield "usage_continuous", dynamo(path, both, more=CONTINUOUS, **some)
    yield "annotations", dynamo(path, nvext={"annotations": ["token_ids", "formatted_prompt", "llm_metrics"]}, **some)
    yield "nonfinite", dynamo(path, NAMED, control={"nonfinite": True}, **some)
    yield "logprobs_missing_at_1", dynamo(path, control={"drop_logprobs_at": 1}, **some)
    for reason in ("stop", "abort", "cancelled", "content_filter"):
        yield (
            f"finish_{reason}",
            dynamo(path, [*both, "detailed_finish_reason"], control={"finish_reason": reason}, **some),
        )
    yield "row_too_few", dynamo(path, control={"extra_rows": -1}, **some)
    for after in (0, 2):
        yield f"error_after_{after}", dynamo(path, both, control={"error_after": after}, **some)
    yield "error_at_once", dynamo(path, control={"raise": {"kind": "HttpError", "args": [503, "no more room"]}}, **some)
    yield "refused", dynamo(path, nope=1, **some)


def sglang(*, decode: dict[str, Any] | None = None, control: dict[str, Any] | None = None, **fields: Any) -> Case:
    """A request to SGLang's native route."""
    params = {"max_new_tokens": 4} | fields.pop("params", {})
    body = {"input_ids": IDS, "sampling_params": params, "return_logprob": True, "stream": False, **fields}
    decode = {"prompt_token_ids": IDS, "num_layers": 4, "top_k": 2} | (decode or {})
    if not body["return_logprob"]:
        decode["require_logprobs"] = False
    return Case("sglang_generate", SGLANG, body, decode=decode, control=control or {})


def artifact_cases(path: str) -> Iterator[tuple[str, Case]]:
    """Requests for a generation artifact, as both routes take them, by the end of their name."""
    three: dict[str, Any] = {"logprobs": True, "top_logprobs": 3} if path == CHAT else {"logprobs": 3}

    def case(contents: list[str], extra_fields: list[str] | None = None, **fields: Any) -> Case:
        upload = {"kind": "generation_artifact", "contents": contents, "mode": "inline_base64"}
        fields.setdefault("nvext", {"metadata_upload": upload})
        return dynamo(path, ["completion_token_ids"] if extra_fields is None else extra_fields, **fields)

    usual = ["moe_routes", "selected_logprobs"]
    yield "usual", case(usual, ["detailed_finish_reason", "completion_token_ids"])
    yield "alone", case(usual, [])
    yield "ids", case([])
    yield "candidates", case([*usual, "topk_logprobs"], **three)
    yield "engine_data", case(usual, ["engine_data", "completion_token_ids"])
    yield "chunks_of_3", case(usual, max_tokens=7, control={"chunk": 3})
    yield "one_token", case(usual, max_tokens=1)
    yield "uint16", case(usual, control={"num_experts": 512})
    yield "usage", case(usual, more=USAGE)
    yield "failed", case(usual, control={"extra_rows": 1})
    yield "cancelled", case(usual, control={"finish_reason": "cancelled"})


ROUTED = {"return_routed_experts": True}
SGLANG_CASES: dict[str, Case] = {
    "plain": sglang(return_logprob=False),
    "logprobs": sglang(),
    "top_3": sglang(top_logprobs_num=3),
    "routed": sglang(**ROUTED),
    "routed_start": sglang(routed_experts_start_len=3, decode={"routed_experts_prompt_start": 3}, **ROUTED),
    "prompt_logprobs": sglang(logprob_start_len=0, top_logprobs_num=2, return_prompt_token_ids=True, **ROUTED),
    "rid": sglang(rid="mine-1"),
    "n2": sglang(params={"n": 2}, **ROUTED),
    "one_token": sglang(params={"max_new_tokens": 1}, **ROUTED),
    "chunks_of_3": sglang(params={"max_new_tokens": 7}, control={"chunk": 3}, **ROUTED),
    "seed": sglang(params={"sampling_seed": 7}),
    "finish_stop": sglang(control={"finish_reason": "stop"}, **ROUTED),
    "finish_abort": sglang(control={"finish_reason": "abort"}, **ROUTED),
    "error_after_2": sglang(control={"error_after": 2}),
    "error_at_once": sglang(control={"raise": {"kind": "HttpError", "args": [503, "no more room"]}}),
    "refused": sglang(input_ids="nope"),
}  # fmt: skip
DYNAMO: dict[str, Case] = {
    **{f"chat_{name}": case for name, case in dynamo_cases(CHAT)},
    **{f"completions_{name}": case for name, case in dynamo_cases(COMPLETIONS)},
    **{f"sglang_{name}": case for name, case in SGLANG_CASES.items()},
    **{f"artifact_chat_{name}": case for name, case in artifact_cases(CHAT)},
    **{f"artifact_completions_{name}": case for name, case in artifact_cases(COMPLETIONS)},
    "generate": Case(
        "vllm_generate",
        GENERATE,
        {"model": "tito-model", "token_ids": IDS, "sampling_params": {"max_tokens": 4, "logprobs": 1}},
        decode={"prompt_len": len(IDS)},
    ),
}  # fmt: skip

# --- recording ---


@contextmanager
def posted(url: str, body: dict[str, Any]) -> Iterator[Any]:
    """The answer to a POST, whatever its status."""
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)  # noqa: S310 - of the loopback interface
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        response = opener.open(request, timeout=120)
    except urllib.error.HTTPError as error:
        response = error
    with response:
        yield response


def in_one_piece(url: str, case: Case) -> tuple[int, bytes]:
    """Status and body."""
    with posted(url + case.path, case.body) as response:
        return response.status, response.read()


def streamed(url: str, case: Case, abort: Callable[[], None]) -> tuple[int, bytes]:
    """Status and body; `abort` is called after the case's `abort_after` events."""
    with posted(url + case.path, case.body | {"stream": True} | case.more) as response:
        if case.abort_after is None:
            return response.status, response.read()
        lines: list[bytes] = []
        for line in response:
            lines.append(line)
            if lines.count(b"\n") == case.abort_after:
                threading.Thread(target=abort).start()
                case = Case(**{**vars(case), "abort_after": None})
        return response.status, b"".join(lines)


@dataclass
class Recorder:
    """Writes the cases of one server."""

    server: str
    version: str
    url: str
    index: dict[str, Any] = field(default_factory=dict)

    def record(
        self, name: str, case: Case, sampled: Callable[[], Any] | None = None, abort: Callable[[], None] = lambda: None
    ) -> None:
        """One case: both answers, and its line of the index."""
        folder = f"{self.server}-{self.version}"
        (OUT / folder).mkdir(parents=True, exist_ok=True)
        entry = {"server": self.server, "version": self.version, "wire": case.wire, "path": case.path}
        entry |= {"request": case.body, "stream": {"stream": True} | case.more, "decode": case.decode}
        status, text = streamed(self.url, case, abort)
        (OUT / folder / f"{name}.sse").write_bytes(text)
        entry["stream_status"] = status
        if sampled is not None:
            entry["sampled"] = sampled()
        if case.abort_after is None:
            status, text = in_one_piece(self.url, case)
            if status != UNSERVED:
                (OUT / folder / f"{name}.json").write_bytes(text)
            entry["status"] = status
        lacks = [*case.lacks, *([] if case.more else ["usage"])]
        optional = {"control": case.control, "lacks": lacks, "differs": case.differs}
        self.index[f"{folder}/{name}"] = entry | {key: value for key, value in optional.items() if value}

    def save(self) -> None:
        """Write the index; entries of other cases stay."""
        path = OUT / "index.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        entries = sorted((known | self.index).items())
        lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in entries)
        path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def record_vllm(directory: Path, cases: dict[str, Case]) -> None:
    """A server with routed experts, whose requests must not have top_k, top_p or min_p."""
    (found,) = directory.glob("venv/lib/python3*/site-packages/vllm*.dist-info")
    version = found.name.partition("-")[2].removesuffix(".dist-info")
    with VllmServer(directory, "moe_a", routed=True) as server:
        recorder = Recorder("vllm", version, server.url)

        def abort() -> None:
            with posted(
                f"{server.url}/inference/v1/abort_requests", {"request_ids": ["generate-tokens-leave"]}
            ) as response:
                response.read()

        for name, case in cases.items():
            if case.abort_after is None:
                in_one_piece(server.url, case)  # what it caches, both then find
            recorder.record(name, case, abort=abort)
        recorder.save()


def record_dynamo(directory: Path, cases: dict[str, Case]) -> None:
    """The frontend with one stand-in engine behind it."""
    with DynamoStack(directory) as stack:
        recorder = Recorder("dynamo", stack.version, stack.url)
        (worker,) = stack.workers

        def sampled() -> Any:
            # The engine notes it after its last chunk.
            for _ in range(20):
                if found := [event["choices"] for event in worker.events() if event["event"] == "sampled"]:
                    return [{key: choice[key] for key in ("token_ids", "logprobs")} for choice in found[0]]
                time.sleep(0.01)
            return None

        for name, case in cases.items():
            if name.startswith("artifact_") and stack.version.startswith("1.6."):
                continue
            worker.control(**case.control)
            worker.forget()
            recorder.record(name, case, sampled)
        recorder.save()


def main() -> None:
    """Record the wanted cases of one server."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server", choices=("vllm", "dynamo"))
    parser.add_argument("directory", type=Path)
    parser.add_argument("only", nargs="?", default="", help="how the names of the wanted cases begin")
    args = parser.parse_args()
    record, cases = {"vllm": (record_vllm, VLLM), "dynamo": (record_dynamo, DYNAMO)}[args.server]
    record(args.directory, {name: case for name, case in cases.items() if name.startswith(args.only)})


if __name__ == "__main__":
    main()
