"""The keywords of the clients and of their methods, each written once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict

from dynamo_tito._config import CONNECT_TIMEOUT, DEFAULT_TIMEOUT, MAX_CONCURRENCY, THREAD_FROM_BYTES, RetryPolicy
from dynamo_tito._requests import CallOptions, Keywords, SharedOptions

if TYPE_CHECKING:
    import os

    from dynamo_tito._config import HttpLibrary, Limits, RendererTransport, SamplingDefaults
    from dynamo_tito._http.environment import Tls
    from dynamo_tito._logprobs_report import LogprobsChecks
    from dynamo_tito._routing_report import RoutingChecks
    from dynamo_tito._types import ExpertsMode, FinalRow, LogprobsDtype, MissingLogprob

Progress: TypeAlias = Callable[[int, int], object]
"""Called after every sequence with how many are done, failed ones included, and how many there are."""

OnInterrupt: TypeAlias = Literal["raise", "return"]
"""What becomes of a stream that breaks off: an error, or the completion of what came before."""

SCORE_CONCURRENCY = 32
"""Sequences in flight at once. Scoring is prefill only: a few long sequences fill an engine."""


class ClientOptions(TypedDict, total=False):
    """The keywords of both clients, but for ``transport``; see :class:`AsyncTitoClient`."""

    http: HttpLibrary
    http_client: Any
    timeout: float | None
    connect_timeout: float
    max_concurrency: int
    api_key: str | None
    headers: Mapping[str, str] | None
    retries: RetryPolicy | None
    preflight: bool
    sampling_defaults: SamplingDefaults
    num_layers: int | None
    top_k: int | None
    num_indexer_layers: int | None
    index_topk: int | None
    experts: ExpertsMode
    missing_logprob: MissingLogprob
    logprobs_dtype: LogprobsDtype
    require_routed_experts: bool
    final_row: FinalRow
    strict_routing: bool | RoutingChecks
    strict_logprobs: bool | LogprobsChecks
    limits: Limits | None
    max_response_bytes: int | None
    thread_from_bytes: int
    compression: bool
    tls: Tls
    trust_env: bool
    save_refused: str | os.PathLike[str] | None


class SendOptions(TypedDict, total=False):
    """How one request is sent."""

    extra_headers: Mapping[str, str] | None
    deadline: float | None
    transport: RendererTransport | None


class StreamOptions(CallOptions, SendOptions, total=False):
    """The keywords of ``stream``: those of ``generate`` but for ``stream``; see :class:`GenerateOptions`."""

    on_interrupt: OnInterrupt


class GenerateOptions(StreamOptions, total=False):
    r"""The keywords of ``generate``.

    ``stop_token_ids`` defaults to ``()``, ``on_interrupt`` to ``"raise"``, the others to None.

    Attributes:
        sampling_params: as for vLLM or OpenAI; names are translated for the server. Without ``logprobs`` one per token
            is asked for; with ``logprobs`` 0 or None none is, and ``completion.logprobs`` is None.
        stop_token_ids: added to those of ``sampling_params``.
        cache_salt: separates prefix caches; 1 to 128 characters without ``@ / \\ NUL``.
        priority: in the backend's own sense: on ``dynamo_chat`` and ``dynamo_completions`` higher is sooner, on
            ``vllm_generate`` (Dynamo's too) and ``prime_chat_tokens`` lower is sooner, SGLang's depends on the server's
            settings.
        routed_experts_prompt_start: the first position whose routed experts are wanted, 0 to P. The result is the same
            whether the server trims, ignores the field or refuses it.
        features: multimodal features; ``vllm_generate`` only.
        artifact: ``"inline"`` asks Dynamo 1.7 for a generation artifact in the answer, in place of engine data:
            ``dynamo_chat`` and ``dynamo_completions`` only, and for routed experts only of a worker that captures them
            and knows its routers; ``experts="skip"`` asks for none. It takes no stop strings, and 1 MiB at most.
        extra_body: further members of the request's body; they win over the sampling parameters. On Dynamo an ``nvext``
            in it is merged with ours.
        session_id: keeps the requests of one conversation together.
        data_parallel_rank: the rank that serves the request.
        request_id: the request's id in the server's logs.
        extra_headers: for this request.
        deadline: seconds for this call, instead of the client's ``timeout``; ``math.inf`` for no limit.
        transport: the route of this call, instead of the client's.
        on_interrupt: what becomes of a call whose deadline passes or whose connection breaks after it was sent:
            ``"raise"``, or ``"return"``: the completion of what came before, ``aborted`` and not ``complete``. It asks
            for a stream. An error that is raised in either case has it as ``completion``: a cancellation, an interrupt
            of the thread, and what the server says within a stream.
        stream: whether to ask for a stream of events, which is read to its end. None asks for one only where a server
            answers 501 without, which is learnt once for each route, with nothing sampled.
    """

    stream: bool | None


class ScoreManyOptions(SharedOptions, SendOptions, total=False):
    """The keywords of ``score_many`` that apply to every sequence; see :class:`ScoreOptions`."""

    top_k: int
    temperature: float


class ScoreOptions(ScoreManyOptions, total=False):
    """The keywords of ``score``. ``start`` and ``top_k`` default to 0, ``temperature`` to 1.0, the others to None.

    Attributes:
        start: the first position whose log-probability is wanted, 0 to N; for a prompt and its completion usually where
            the completion begins. SGLang scores only from there on; on other servers the rest of the answer is ignored.
        top_k: how many alternatives to list at each position, beside the token itself.
        temperature: what the model's logits are divided by before they become log-probabilities. Only a patched SGLang
            has one (sgl-project/sglang#36213) and says so in its answer; elsewhere anything but 1 is a ValueError, or,
            of an SGLang without it, a MissingFieldError.
        cache_salt: as in :class:`GenerateOptions`, likewise ``priority``, ``extra_body``, ``session_id``,
            ``data_parallel_rank``, ``request_id``, ``extra_headers``, ``deadline`` and ``transport``.
    """

    start: int
    request_id: str | None


class TokenizeOptions(TypedDict, total=False):
    """The keywords of ``tokenize``, as vLLM's ``/tokenize`` has them."""

    add_generation_prompt: bool
    tools: Sequence[Mapping[str, Any]] | None
    chat_template_kwargs: Mapping[str, Any] | None


CLIENT = Keywords(
    ClientOptions,
    http="native",
    timeout=DEFAULT_TIMEOUT,
    connect_timeout=CONNECT_TIMEOUT,
    max_concurrency=MAX_CONCURRENCY,
    retries=RetryPolicy(),
    preflight=True,
    sampling_defaults="neutral",
    experts="int32",
    missing_logprob="raise",
    logprobs_dtype="float64",
    require_routed_experts=False,
    final_row="omitted",
    strict_routing=False,
    strict_logprobs=False,
    thread_from_bytes=THREAD_FROM_BYTES,
    compression=False,
    tls="verify",
    trust_env=True,
)
GENERATE = Keywords(GenerateOptions, stop_token_ids=(), on_interrupt="raise")
STREAM = Keywords(StreamOptions, stop_token_ids=(), on_interrupt="raise")
SCORE = Keywords(ScoreOptions, start=0, top_k=0, temperature=1.0)
SCORE_MANY = Keywords(ScoreManyOptions, top_k=0, temperature=1.0)
TOKENIZE = Keywords(TokenizeOptions, add_generation_prompt=True)
