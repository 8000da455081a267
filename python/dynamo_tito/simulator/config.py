"""How an embedded engine is set up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from .faults import Fault

__all__ = ["Backend", "DynamoVersion", "EngineConfig", "PromptStart", "VllmVersion"]

Backend: TypeAlias = Literal["dynamo", "vllm", "prime", "sglang"]
PromptStart: TypeAlias = Literal["refuse", "ignore", "trim"]
VllmVersion: TypeAlias = Literal["0.31", "0.32", "0.33"]
DynamoVersion: TypeAlias = Literal["1.6.1", "1.7"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """All settings of an embedded engine; every one has a default that serves."""

    #: Whose server to be: NVIDIA Dynamo, vLLM, prime-rl's server, SGLang 0.5.23.
    backend: Backend = "dynamo"
    #: Version of vLLM: 0.31 names tokens as text, 0.32 cuts the alternatives of a token to those that were asked for
    #: and holds requests while it is paused, 0.33 does neither.
    vllm_version: VllmVersion = "0.33"
    #: Version of Dynamo: 1.7 sends generation artifacts and answers SGLang's own `/generate` in one piece too.
    dynamo_version: DynamoVersion = "1.6.1"
    #: Name under which the model is served.
    model: str = "tito-model"
    #: The loopback interface; anything else is the caller's decision.
    host: str = "127.0.0.1"
    #: Port of the main listener; 0 takes a free one.
    port: int = 0
    #: Same seed, same requests: same answers.
    seed: int = 0

    #: Shape of the mixture of experts.
    num_layers: int = 4
    top_k: int = 2
    num_experts: int = 128
    vocab_size: int = 32_000
    #: Context length, as `/v1/models` reports it: prompts that are longer are refused.
    max_model_len: int = 262_144
    #: The most alternatives of a token that vLLM gives (`--max-logprobs`); -1: the whole vocabulary.
    max_logprobs: int = 20
    #: Whether vLLM was started with `--enable-lora`, and with a weight transfer.
    lora: bool = True
    weight_transfer: bool = True
    #: Layers with an indexer of a sparse attention, and how many positions it chooses: SGLang with
    #: `--enable-return-indexer-topk`. 0: no layer.
    num_indexer_layers: int = 0
    index_topk: int = 2
    #: Tokens that are drafted per step of speculative decoding, of which the counts of SGLang and vLLM tell; 0: none.
    draft_tokens: int = 0
    #: Completion length of requests that name none.
    default_max_tokens: int = 16
    #: Probability per token that the engine ends the message.
    eos_rate: float = 0.0
    #: Whether answers carry routed experts at all.
    routed_experts: bool = True
    #: How Dynamo's chat and completions wrap them: as vLLM's worker does (object) or SGLang's (bare base64 of int32).
    routed_experts_container: Literal["object", "bare"] = "object"
    #: What Dynamo's chat and completions do with `nvext.routed_experts_prompt_start`: 400 naming the field (1.6.1),
    #: full rows, or trimmed rows with `start` stamped. `/inference/v1/generate` and the other backends always trim.
    prompt_start: PromptStart = "refuse"
    #: DYN_IGNORE_OPENAI_FE_UNSUPPORTED_FIELDS: Dynamo drops unknown top-level fields silently instead of answering 400.
    ignore_unsupported_fields: bool = False

    #: Seconds before an answer, and per sampled token.
    latency: float = 0.0
    token_latency: float = 0.0
    #: Tokens of a choice that one chunk of a stream brings.
    chunk_tokens: int = 1
    #: `--incremental-streaming-output` of SGLang: a chunk brings the new tokens, not all up to it.
    incremental_streaming_output: bool = False
    #: DYN_SGLANG_ENABLE_GENERATE: Dynamo serves SGLang's own `/generate`; 1.6.1 as streams only.
    sglang_generate: bool = False
    #: Compress bodies with gzip for clients that accept it.
    gzip: bool = False
    #: Share of requests with one of `random_faults`, chosen from the seed.
    fault_rate: float = 0.0
    random_faults: tuple[Fault, ...] = ()
    #: Requests that the engine keeps, the newest ones, with their bodies and samples.
    keep_records: int = 10_000
    #: Tensor- and data-parallel ranks of this worker, as discovery reports them.
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.backend not in get_args(Backend):
            raise ValueError(f"backend must be one of {', '.join(get_args(Backend))}, got {self.backend!r}")
        if self.vllm_version not in get_args(VllmVersion):
            raise ValueError(
                f"vllm_version must be one of {', '.join(get_args(VllmVersion))}, got {self.vllm_version!r}"
            )
        if self.dynamo_version not in get_args(DynamoVersion):
            raise ValueError(
                f"dynamo_version must be one of {', '.join(get_args(DynamoVersion))}, got {self.dynamo_version!r}"
            )
        if self.prompt_start not in get_args(PromptStart):
            raise ValueError(
                f"prompt_start must be one of {', '.join(get_args(PromptStart))}, got {self.prompt_start!r}"
            )
        if self.latency < 0 or self.token_latency < 0:
            raise ValueError("latency and token_latency must not be negative")
        if self.chunk_tokens < 1:
            raise ValueError(f"chunk_tokens must be at least 1, got {self.chunk_tokens}")
