from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer, disjoint_base

from ._config import Limits
from ._errors import TransportPhase
from ._types import (
    Completion,
    Divergence,
    ExpertsMode,
    FinalRow,
    LogprobsDtype,
    MissingLogprob,
    PromptLogprobs,
    StreamDelta,
    Wire,
)

__all__ = [
    "Body",
    "CallRecord",
    "CallSums",
    "NativeCall",
    "NativeEngine",
    "NativeMailbox",
    "Spare",
    "StreamDecoder",
    "build_info",
    "configure_memory",
    "decode",
    "decode_artifact",
    "decode_choices",
    "decode_prompt_logprobs",
    "divergence",
    "encode_routed_experts",
    "encode_token_ids",
    "give_way",
    "memory_stats",
    "scan_routing",
    "trim_memory",
]

def decode(
    body: bytes | Body | Buffer,
    /,
    *,
    wire: Wire,
    prompt_len: int | None = None,
    prompt_token_ids: NDArray[np.int32] | NDArray[np.int64] | Sequence[int] | None = None,
    routed_experts_prompt_start: int | None = None,
    num_layers: int | None = None,
    top_k: int | None = None,
    num_indexer_layers: int | None = None,
    index_topk: int | None = None,
    experts: ExpertsMode = "int32",
    experts_out: NDArray[np.int32] | None = None,
    require_logprobs: bool = True,
    require_routed_experts: bool = False,
    missing_logprob: MissingLogprob = "raise",
    logprobs_dtype: LogprobsDtype = "float64",
    final_row: FinalRow = "omitted",
    limits: Limits | None = None,
) -> Completion: ...
def decode_artifact(
    data: bytes | Body | Buffer,
    /,
    *,
    prompt_len: int | None = None,
    prompt_token_ids: NDArray[np.int32] | NDArray[np.int64] | Sequence[int] | None = None,
    routed_experts_prompt_start: int | None = None,
    num_layers: int | None = None,
    top_k: int | None = None,
    num_indexer_layers: int | None = None,
    index_topk: int | None = None,
    routers: Sequence[int] | None = None,
    experts: ExpertsMode = "int32",
    experts_out: NDArray[np.int32] | None = None,
    require_logprobs: bool = True,
    require_routed_experts: bool = False,
    missing_logprob: MissingLogprob = "raise",
    logprobs_dtype: LogprobsDtype = "float64",
    limits: Limits | None = None,
) -> Completion: ...
def decode_choices(
    body: bytes | Body | Buffer,
    /,
    *,
    wire: Wire,
    prompt_len: int | None = None,
    prompt_token_ids: NDArray[np.int32] | NDArray[np.int64] | Sequence[int] | None = None,
    routed_experts_prompt_start: int | None = None,
    num_layers: int | None = None,
    top_k: int | None = None,
    num_indexer_layers: int | None = None,
    index_topk: int | None = None,
    experts: ExpertsMode = "int32",
    experts_out: NDArray[np.int32] | None = None,
    require_logprobs: bool = True,
    require_routed_experts: bool = False,
    missing_logprob: MissingLogprob = "raise",
    logprobs_dtype: LogprobsDtype = "float64",
    final_row: FinalRow = "omitted",
    limits: Limits | None = None,
) -> list[Completion]: ...
def decode_prompt_logprobs(
    body: bytes | Body | Buffer,
    /,
    *,
    wire: Wire,
    prompt_token_ids: NDArray[np.int32] | NDArray[np.int64] | Sequence[int],
    start: int = 0,
    missing_logprob: MissingLogprob = "raise",
    logprobs_dtype: LogprobsDtype = "float64",
    limits: Limits | None = None,
) -> PromptLogprobs: ...
def divergence(
    sample_logprobs: NDArray[np.float32] | NDArray[np.float64],
    scored: PromptLogprobs | NDArray[np.float32] | NDArray[np.float64],
    mask: NDArray[np.bool_],
    *,
    missing_logprob: Literal["raise", "skip"] = "raise",
) -> Divergence: ...
def encode_routed_experts(
    array: NDArray[np.integer[Any]], *, start: int = 0, narrow: bool = True
) -> dict[str, Any]: ...
def encode_token_ids(
    prefix: bytes, ids: NDArray[np.int32] | NDArray[np.int64] | Sequence[int], suffix: bytes
) -> bytes: ...

@final
class Body:
    def __new__(cls, capacity: int = 0, /, *, expected: int = 0) -> Body: ...
    def append(self, chunk: Buffer) -> None: ...
    def spare(self, count: int) -> Spare: ...
    def tobytes(self) -> bytes: ...
    def close(self) -> None: ...
    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    @property
    def closed(self) -> bool: ...
    @property
    def frozen(self) -> bool: ...

@final
class Spare:
    def filled(self, count: int) -> None: ...
    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __release_buffer__(self, buffer: memoryview, /) -> None: ...

@final
class CallSums:
    def __new__(cls, seconds: Sequence[float], tokens: Sequence[float], /) -> CallSums: ...
    def begin(self, prompt_tokens: int, /) -> CallRecord: ...
    def read(self) -> dict[str, Any]: ...

@disjoint_base
class CallRecord:
    headers: Mapping[str, str] | None
    def __new__(cls, sums: CallSums, prompt_tokens: int, /) -> Self: ...
    def answered(self, status: int, sent: int, received: int, whole: bool, /) -> None: ...
    def unanswered(self, sent: int, /) -> None: ...
    def arrived(self, received: int, /) -> None: ...
    def retried(self, cause: str, /) -> None: ...
    def decodes(self) -> None: ...
    def decoded(self) -> None: ...
    def refused(self, kind: str, /) -> None: ...
    def sampled(self, completion: Completion, start: int, missing: int, /) -> None: ...
    def scored(self, missing: int, /) -> None: ...
    def failed(self, error: str, interrupted: bool, /) -> None: ...
    def kept(self, completion: Completion, start: int, missing: int, /) -> None: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def retries(self) -> int: ...
    @property
    def sent(self) -> bool: ...
    @property
    def accepted(self) -> bool: ...
    @property
    def received(self) -> int: ...
    @property
    def seconds(self) -> float: ...
    @property
    def decoding(self) -> bool: ...

@final
class NativeEngine:
    def __new__(
        cls,
        *,
        connect_timeout: float,
        keepalive: float,
        max_head: int,
        max_body: int,
        max_error: int,
        proxy: tuple[bool, str, int, str | None] | None,
        roots: list[bytes] | None,
        verified: bool,
        named: bool,
    ) -> NativeEngine: ...
    def start(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        content: bytes,
        decoded: bool,
        expected: int,
        streamed: bool,
        mailbox: NativeMailbox | None,
        number: int,
    ) -> NativeCall: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...

@final
class NativeCall:
    @property
    def phase(self) -> TransportPhase: ...
    def wait(self, seconds: float) -> bool: ...
    def take(self) -> tuple[int, dict[str, str], Body | bytes]: ...
    def head(self) -> tuple[int, dict[str, str]] | None: ...
    def next(self) -> bytes | None: ...
    def cancel(self) -> None: ...

@final
class NativeMailbox:
    def __new__(cls) -> NativeMailbox: ...
    def fileno(self) -> int: ...
    def drain(self) -> list[int]: ...

@final
class StreamDecoder:
    def __new__(
        cls,
        *,
        wire: Wire,
        prompt_len: int | None = None,
        prompt_token_ids: NDArray[np.int32] | NDArray[np.int64] | Sequence[int] | None = None,
        routed_experts_prompt_start: int | None = None,
        num_layers: int | None = None,
        top_k: int | None = None,
        num_indexer_layers: int | None = None,
        index_topk: int | None = None,
        experts: ExpertsMode = "int32",
        experts_out: NDArray[np.int32] | None = None,
        require_logprobs: bool = True,
        require_routed_experts: bool = False,
        missing_logprob: MissingLogprob = "raise",
        logprobs_dtype: LogprobsDtype = "float64",
        final_row: FinalRow = "omitted",
        limits: Limits | None = None,
        deltas: bool = True,
    ) -> StreamDecoder: ...
    def feed(self, data: Buffer, /) -> StreamDelta | None: ...
    def feed_choices(self, data: Buffer, /) -> list[StreamDelta]: ...
    def finish(self) -> Completion: ...
    def finish_choices(self) -> list[Completion]: ...
    def abandon(self) -> Completion: ...
    def abandon_choices(self) -> list[Completion]: ...
    @property
    def done(self) -> bool: ...
    @property
    def tokens(self) -> int: ...

def give_way() -> None: ...
def build_info() -> dict[str, str]: ...
def memory_stats() -> dict[str, int]: ...
def trim_memory() -> int: ...
def configure_memory(*, max_bytes: int) -> None: ...
def scan_routing(
    array: NDArray[np.integer[Any]],
    /,
    *,
    num_experts: int | None = None,
    earlier: NDArray[np.integer[Any]] | None = None,
) -> dict[str, Any]: ...
