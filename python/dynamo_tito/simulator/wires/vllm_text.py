"""vLLM's routes that take and give text: chat and completions, with the token ids beside it."""

# Handlers are named for their routes, and all have one signature.
# ruff: noqa: D102

from __future__ import annotations

import json
import time
from typing import Any

from dynamo_tito.simulator.calls import Call
from dynamo_tito.simulator.encode import Raw, array_of, f32_wide_text, ids
from dynamo_tito.simulator.model import Sample
from dynamo_tito.simulator.response import Response

from .common import Entry, entries
from .vllm_errors import bad_field, bad_request, invalid
from .vllm_generate import VllmGenerateRoutes
from .vllm_request import Sampling, check_prompt, check_room, missing, read_ids, read_sampling

__all__ = ["VllmTextRoutes"]


class VllmTextRoutes(VllmGenerateRoutes):
    """Mixed into a server. Key by key as recorded; 0.31, of which nothing is recorded, as its source has it."""

    def add_text_routes(self) -> None:
        self.route("POST", "/v1/chat/completions", self.chat)
        self.route("POST", "/v1/completions", self.completions)

    # --- chat ---

    async def chat(self, call: Call) -> Response:
        document = self.document(call)
        if "messages" not in document:
            raise missing("messages", document)
        messages = document["messages"]
        if not isinstance(messages, list):
            line = bad_field("list_type", "body.messages", "Input should be a valid list", messages)
            raise invalid(line, param="body.messages")
        return await self.answer_chat(call, document, self.engine.tokenizer.apply_chat_template(messages))

    async def answer_chat(self, call: Call, document: dict[str, Any], prompt: list[int]) -> Response:
        """A chat completion of these prompt tokens."""
        wanted = self._read_chat(document, prompt)
        if call.streams(document):
            _check_stream(wanted)
            return await self.stream_chat(call, document, wanted)
        samples = await self.sample(call, wanted.ask)
        returned = bool(document.get("return_token_ids"))
        choices: list[dict[str, Any]] = []
        for sample in samples:
            content = self.chat_content(sample, wanted, document) if document.get("logprobs") else None
            choice = {
                "index": sample.index,
                "message": self._message(sample),
                "logprobs": None if content is None else {"content": content},
                "finish_reason": self.finish_reason(sample),
                "stop_reason": sample.stop_reason,
                "token_ids": ids(sample.token_ids) if returned else None,
                "routed_experts": await self.routing(call, sample, wanted.start),
            }
            if self.since("0.33"):
                choice["weight_versions"] = self.spans(sample) if document.get("return_weight_versions") else None
            choices.append(choice)
        scored = None if wanted.prompt_logprobs is None else self.prompt_logprobs(samples[0], wanted)
        answer = self._envelope(self.id_of(call), "chat.completion", choices, samples) | {
            "prompt_logprobs": scored,
            "prompt_token_ids": prompt if returned else None,
        }
        if self.since("0.32"):
            answer |= {"prompt_text": None, "kv_transfer_params": None, "ec_transfer_params": None, "metrics": None}
        else:
            answer["kv_transfer_params"] = None
        return self.reply(answer)

    async def stream_chat(self, call: Call, document: dict[str, Any], wanted: Sampling) -> Response:
        """The answer in chunks."""
        raise NotImplementedError

    def _read_chat(self, document: dict[str, Any], prompt: list[int]) -> Sampling:
        config = self.engine.config
        limit = document.get("max_completion_tokens")
        values = document | {"logprobs": document.get("top_logprobs") or 0 if document.get("logprobs") else None}
        if limit is not None:
            values["max_tokens"] = limit
        check_room(len(prompt), config, counted=False)
        wanted = read_sampling(values, prompt, config, where="body")
        check_prompt(prompt, config)
        return wanted

    def _message(self, sample: Sample) -> dict[str, Any]:
        content = self.engine.tokenizer.decode(sample.token_ids.tolist(), skip_special=True)
        absent: dict[str, Any] = dict.fromkeys(("refusal", "annotations", "audio", "function_call"))
        if not self.since("0.32"):
            absent["tool_calls"] = []
        return {"role": "assistant", "content": content, **absent, "reasoning": None}

    def chat_content(self, sample: Sample, wanted: Sampling, document: dict[str, Any]) -> Raw:
        return self.text_content(
            sample, wanted.logprobs or 0, placeholders=bool(document.get("return_tokens_as_token_ids"))
        )

    def text_content(self, sample: Sample, k: int, *, placeholders: bool = False, cut: bool = True) -> Raw:
        """Entries with text, or with placeholders for `return_tokens_as_token_ids`.

        Cut: the sampled token and the best of the others are k together.
        """
        tokenizer = self.engine.tokenizer

        def top(item: Entry) -> str:
            # A placeholder's bytes are its own here; the entry above them has those of the token.
            text, data = tokenizer.placeholder(item[0]) if placeholders else tokenizer.whole_piece(item[0])
            return f'{{"token":{text},"logprob":{item[1]},"bytes":{data}}}'

        def content(row: list[Entry]) -> str:
            text, data = tokenizer.whole_piece(row[0][0])
            if placeholders:
                text = tokenizer.placeholder(row[0][0])[0]
            tops = ",".join(map(top, row[:k] if cut else row))
            return f'{{"token":{text},"logprob":{row[0][1]},"bytes":{data},"top_logprobs":[{tops}]}}'

        return array_of(map(content, entries(self.engine.model, sample.scores, k, f32_wide_text)))

    # --- completions ---

    async def completions(self, call: Call) -> Response:
        document = self.document(call)
        wanted: list[Sampling] = []
        for prompt in self._prompts(document):
            check_room(len(prompt), self.engine.config, counted=not isinstance(document["prompt"], str))
            wanted.append(read_sampling(document, prompt, self.engine.config, where="body"))
            check_prompt(prompt, self.engine.config)
        if call.streams(document):
            _check_stream(wanted[0])
            return await self.stream_completions(call, document, wanted)
        samples = await self.sample(call, *(one.ask for one in wanted))
        choices = [
            await self._text_choice(call, document, sample, wanted[number // wanted[0].ask.n], number)
            for number, sample in enumerate(samples)
        ]
        answer = self._envelope(self.id_of(call), "text_completion", choices, samples) | {
            "kv_transfer_params": None,
        }
        if self.since("0.32"):
            answer |= {"ec_transfer_params": None, "metrics": None}
        return self.reply(answer)

    async def stream_completions(self, call: Call, document: dict[str, Any], wanted: list[Sampling]) -> Response:
        """The answer in chunks."""
        raise NotImplementedError

    def _prompts(self, document: dict[str, Any]) -> list[list[int]]:
        """A text, token ids, or a list of either."""
        prompt = document.get("prompt")
        if prompt is None:
            raise missing("prompt", document)
        if isinstance(prompt, str):
            return [self.engine.tokenizer.encode(prompt)]
        if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list):
            return [
                self.engine.tokenizer.encode(one) if isinstance(one, str) else read_ids({"prompt": one}, "prompt")
                for one in prompt
            ]
        return [read_ids(document, "prompt")]

    def _envelope(self, name: str, kind: str, choices: list[Any], samples: list[Sample]) -> dict[str, Any]:
        return {
            "id": name,
            "object": kind,
            "created": int(time.time()),
            "model": self.engine.config.model,
            "choices": choices,
            "service_tier": None,
            "system_fingerprint": self.fingerprint,
            "usage": self.usage(samples),
        }

    async def _text_choice(
        self, call: Call, document: dict[str, Any], sample: Sample, wanted: Sampling, index: int
    ) -> dict[str, Any]:
        returned = bool(document.get("return_token_ids"))
        scored = None if wanted.prompt_logprobs is None else self.prompt_logprobs(sample, wanted)
        choice = {
            "index": index,
            "text": self.engine.tokenizer.decode(sample.token_ids.tolist(), skip_special=True),
            "logprobs": (
                None
                if wanted.logprobs is None
                else self.text_logprobs(
                    sample, wanted.logprobs, placeholders=bool(document.get("return_tokens_as_token_ids"))
                )
            ),
            "finish_reason": self.finish_reason(sample),
            "stop_reason": sample.stop_reason,
            "token_ids": ids(sample.token_ids) if returned else None,
            "prompt_logprobs": scored,
            "prompt_token_ids": ids(sample.prompt_ids) if returned else None,
            "routed_experts": await self.routing(call, sample, wanted.start),
        }
        if self.since("0.33"):
            choice["weight_versions"] = self.spans(sample) if document.get("return_weight_versions") else None
        return choice

    def text_logprobs(self, sample: Sample, k: int, *, offset: int = 0, placeholders: bool = False) -> dict[str, Any]:
        """Lists beside each other, `offset` letters into the text, or into the placeholders.

        The alternatives are keyed by their text, so that equal texts are one.
        """
        tokenizer = self.engine.tokenizer
        piece = tokenizer.placeholder if placeholders else tokenizer.whole_piece
        rows = entries(self.engine.model, sample.scores, k, f32_wide_text)
        texts = [piece(row[0][0])[0] for row in rows]
        tops = [
            "{" + ",".join(f"{text}:{lp}" for text, lp in {piece(t)[0]: lp for t, lp, _ in row}.items()) + "}"
            for row in rows
        ]
        offsets, at = [], offset
        for text in texts:
            offsets.append(at)
            at += len(json.loads(text))
        return {
            "text_offset": offsets,
            "token_logprobs": array_of(f32_wide_text(sample.logprobs)),
            "tokens": array_of(texts),
            "top_logprobs": array_of(tops),
        }


def _check_stream(wanted: Sampling) -> None:
    if wanted.prompt_logprobs:
        name = "prompt_logprobs"
        raise bad_request(f"`{name}` are not available when `stream=True`.", name)
