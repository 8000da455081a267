"""vLLM's /inference/v1/generate in its dialects, and what all of its routes that sample share."""

# Handlers are named for their routes, and all have one signature.
# ruff: noqa: ARG001, D102

from __future__ import annotations

import time
from typing import Any, get_args

import numpy as np

from dynamo_tito.simulator.app import App
from dynamo_tito.simulator.calls import Ask, Call, EngineError
from dynamo_tito.simulator.config import VllmVersion
from dynamo_tito.simulator.contents import UNFILLED
from dynamo_tito.simulator.encode import Raw, array_of, f32_wide_text, ids, routing_npy
from dynamo_tito.simulator.flight import Flight
from dynamo_tito.simulator.model import Sample
from dynamo_tito.simulator.response import Response

from .common import Entry, entries, prompt_entries, prompt_maps, speculation
from .vllm_request import Sampling, check_prompt, missing, read_ids, read_sampling

__all__ = ["VllmGenerateRoutes"]

#: Of the ids of requests; chat's is that of every other route.
_PREFIXES = {"/inference/v1/generate": "generate-tokens", "/v1/completions": "cmpl"}
#: `metrics` has no times on this route.
_TIMES = ("time_to_first_token_ms", "generation_time_ms", "queue_time_ms", "mean_itl_ms", "tokens_per_second")
_VERSIONS: tuple[VllmVersion, ...] = get_args(VllmVersion)


class VllmGenerateRoutes(App):
    """Mixed into a server."""

    @property
    def version_name(self) -> VllmVersion:
        """Whose dialect it is."""
        return self.engine.config.vllm_version

    def since(self, version: VllmVersion) -> bool:
        """Whether the dialect is that of this version or of a newer one."""
        return _VERSIONS.index(self.version_name) >= _VERSIONS.index(version)

    @property
    def full_version(self) -> str:
        """The version in /version."""
        return f"{self.version_name}.0"

    @property
    def fingerprint(self) -> str | None:
        """``system_fingerprint`` of chat and completions."""
        return f"vllm-{self.full_version}-{self.engine.instance_id:016x}"[:20] if self.since("0.32") else None

    def document(self, call: Call) -> dict[str, Any]:
        """The request's JSON object."""
        raise NotImplementedError

    async def generate(self, call: Call) -> Response:
        document = self.document(call)
        prompt = read_ids(document, "token_ids")
        params = document.get("sampling_params")
        if not isinstance(params, dict):
            raise missing("sampling_params", document)
        wanted = read_sampling(params, prompt, self.engine.config)
        check_prompt(prompt, self.engine.config)
        text = document.get("output_mode") == "text" and self.since("0.32")
        if call.streams(document):
            return await self.stream_generate(call, document, wanted, text=text)
        samples = await self.sample(call, wanted.ask)
        choices = [await self.choice(call, sample, wanted, text=text) for sample in samples]
        answer = {"request_id": self.id_of(call)}
        scored = None if wanted.prompt_logprobs is None else self.prompt_logprobs(samples[0], wanted)
        whole = self.generate_answer(answer, document, samples, choices, scored)
        if self.since("0.32"):
            whole["prompt_token_id_logprobs"] = self.given_logprobs(samples[0], wanted)
            if wanted.ask.n == 1 and (speculated := self.speculation(samples[0])):
                whole["metrics"] = {**dict.fromkeys(_TIMES), "speculative_decoding": speculated}
        return self.reply(whole)

    def generate_answer(
        self,
        answer: dict[str, Any],
        document: dict[str, Any],
        samples: list[Sample],
        choices: list[dict[str, Any]],
        scored: Raw | None,
    ) -> dict[str, Any]:
        """The whole answer, in the dialect's order."""
        if not self.since("0.32"):
            return answer | {"choices": choices, "prompt_logprobs": scored, "kv_transfer_params": None}
        return answer | {
            "model": self.engine.config.model,
            "created": int(time.time()),
            "usage": self.usage(samples),
            "prompt_logprobs": scored,
            "prompt_token_id_logprobs": None,
            "prompt_token_ids": ids(samples[0].prompt_ids) if document.get("return_token_ids") else None,
            "mm_placeholders": None,
            "metrics": None,
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "output_mode": document.get("output_mode") or "tokens",
            "choices": choices,
        }

    def given_logprobs(self, sample: Sample, wanted: Sampling) -> Raw | None:
        """The log-probabilities of the ids that the request gave, a row for each position; -inf where it padded."""
        if wanted.given is None:
            return None
        prompt, first = sample.prompt_ids, len(sample.prompt_ids) - len(wanted.given)
        scores = np.full((len(wanted.given), len(wanted.given[0]) if wanted.given else 1), -np.inf, "<f4")
        for row, given in enumerate(wanted.given):
            for column, token in enumerate(given):
                if token >= 0:
                    ids = np.append(prompt[: first + row], token)
                    at = len(ids) - 1
                    scores[row, column] = self.engine.model.score(ids, version=sample.version, start=at).logprobs[0]
        return routing_npy(scores)

    def speculation(self, sample: Sample) -> dict[str, Any] | None:
        """Counts of speculative decoding."""
        drafts = self.engine.config.draft_tokens
        if not drafts:
            return None
        told = speculation(sample, drafts)
        return {
            "mean_acceptance_length": told["spec_accept_length"],
            "draft_acceptance_rate": told["spec_accept_rate"],
            "acceptance_histogram": told["spec_correct_drafts_histogram"] + [0] * (drafts - 1),
            "num_spec_steps": told["spec_verify_ct"],
            "num_accepted_draft_tokens": told["spec_num_correct_drafts"],
            "num_draft_tokens": told["spec_num_proposed_drafts"],
            "num_spec_tokens": drafts,
            "per_step_accepted": None,
            "per_step_drafted": None,
        }

    async def stream_generate(self, call: Call, document: dict[str, Any], wanted: Sampling, *, text: bool) -> Response:
        """The answer in chunks."""
        raise NotImplementedError

    async def choice(self, call: Call, sample: Sample, wanted: Sampling, *, text: bool) -> dict[str, Any]:
        """One choice of /inference/v1/generate, in the dialect's order."""
        end: dict[str, Any] = {
            "finish_reason": self.finish_reason(sample),
            "stop_reason": sample.stop_reason,
            "routed_experts": await self.routing(call, sample, wanted.start),
            "weight_versions": self.spans(sample),
        }
        return self.choice_of(sample, wanted, end, text=text)

    def choice_of(self, sample: Sample, wanted: Sampling, end: dict[str, Any], *, text: bool) -> dict[str, Any]:
        """These tokens of a choice, and what is said of its end; nothing of that while it goes on."""
        k = wanted.logprobs
        if k is None:
            logprobs = None
        elif text:
            logprobs = {"content": self.text_content(sample, k, cut=not self.since("0.33"))}
        else:
            logprobs = {"content": self.content(sample, k)}
        if not self.since("0.32"):
            return {
                "index": sample.index, "logprobs": logprobs, "finish_reason": end.get("finish_reason"), "token_ids":
                ids(sample.token_ids), "routed_experts": end.get("routed_experts"), **UNFILLED,
            }  # fmt: skip
        choice = {
            "index": sample.index,
            "finish_reason": end.get("finish_reason"),
            "stop_reason": end.get("stop_reason"),
            "token_ids": ids(sample.token_ids),
            "routed_experts": end.get("routed_experts"),
            **UNFILLED,
            "weight_versions": end.get("weight_versions"),
        }
        if text:
            choice["text"] = self.engine.tokenizer.decode(sample.token_ids.tolist(), skip_special=True)
        return choice | {"logprobs": logprobs}

    def text_content(self, sample: Sample, k: int, *, placeholders: bool = False, cut: bool = True) -> Raw:
        """Entries with text."""
        raise NotImplementedError

    def content(self, sample: Sample, k: int) -> Raw:
        """The entries of the sampled tokens: the token first, then rank order."""
        rows = entries(self.engine.model, sample.scores, k, f32_wide_text)
        if not self.since("0.33"):
            # Cut to k, the sampled token among them; from 0.33 on there are k entries, or k + 1.
            rows = [row[: max(k, 1)] for row in rows]
        if self.since("0.32"):

            def entry(item: Entry) -> str:
                return f'"token_id":{item[0]},"logprob":{item[1]},"rank":{item[2]}'
        else:

            def entry(item: Entry) -> str:
                return f'"token":"token_id:{item[0]}","logprob":{item[1]},"bytes":null'

        return array_of(
            f'{{{entry(row[0])},"top_logprobs":[{",".join(f"{{{entry(item)}}}" for item in row)}]}}' for row in rows
        )

    # --- shared with chat and completions ---

    async def sample(self, call: Call, *asks: Ask) -> list[Sample]:
        """Sample; while generation is paused, wait, or from 0.33 on refuse what the mode does not keep."""
        flight = await self.take_off(call, *asks, streams=False)
        try:
            return await flight.whole()
        finally:
            flight.land()

    async def take_off(self, call: Call, *asks: Ask, streams: bool) -> Flight:
        """Begin to sample, under the ids that the server gives its requests."""
        if self.since("0.33") and self.engine.admin.paused in ("abort", "wait"):
            raise EngineError(503, self.not_ready, kind="not_ready")
        flight = await self.engine.take_off(call, *asks, streams=streams)
        name = self.id_of(call)
        flight.names = {f"{name}-{number}" for number in range(len(asks))} if name.startswith("cmpl-") else {name}
        return flight

    def id_of(self, call: Call) -> str:
        """The id of the answer; under it, of completions with the number of the prompt, the request can be aborted."""
        document = call.request.json()
        named = call.request.headers.get("x-request-id") or document.get("request_id") or self.uuid(call)
        return f"{_PREFIXES.get(call.request.path, 'chatcmpl')}-{named}"

    async def routing(self, call: Call, sample: Sample, start: int) -> Any:
        """Routed experts in this server's container."""
        if not self.engine.routed(sample):
            return None
        return routing_npy(await self.engine.rows(call, sample, start))

    def prompt_logprobs(self, sample: Sample, wanted: Sampling) -> Raw:
        """The map form: the actual token first, then the best k."""
        piece = self.engine.tokenizer.whole_piece

        def write(place: int, entry: Entry) -> str:
            text = piece(entry[0])[0] if wanted.detokenize else "null"
            return f'{{"logprob":{entry[1]},"rank":{entry[2]},"decoded_token":{text}}}'

        k = wanted.prompt_logprobs or 0
        rows = prompt_entries(self.engine.model, sample.prompt_ids, sample.version, k, f32_wide_text)
        return prompt_maps(rows, write, shuffle=None)

    @staticmethod
    def spans(sample: Sample) -> list[dict[str, Any]]:
        """Which weights sampled which tokens; empty without any."""
        return sample.spans if len(sample.token_ids) else []

    @staticmethod
    def finish_reason(sample: Sample) -> str:
        """VLLM calls the end-of-sequence token a stop."""
        return "stop" if sample.finish_reason == "eos" else sample.finish_reason

    @staticmethod
    def usage(samples: list[Sample]) -> dict[str, Any]:
        """Token counts of the prompts, each counted once, and of the choices."""
        prompts = {sample.prompt_ids.tobytes(): len(sample.prompt_ids) for sample in samples}
        prompt, completion = sum(prompts.values()), sum(len(sample.token_ids) for sample in samples)
        return {
            "prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion,
            "prompt_tokens_details": None, "completion_tokens_details": None,
        }  # fmt: skip
