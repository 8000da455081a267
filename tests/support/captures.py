"""What each recorded response means.

The bodies in ``tests/data/captures`` are answers of a real Dynamo 1.6.1 frontend. The engine behind it invented its
output by rules (``_Engine``), so the truth is computed here and never read from the bodies.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from dynamo_tito import _errors
from dynamo_tito._types import Wire

from .bodies import Experts

FOLDER = Path(__file__).parents[1] / "data" / "captures"

ROUTES: dict[str, Wire] = {
    "/v1/chat/completions": "dynamo_chat",
    "/v1/completions": "dynamo_completions",
    "/inference/v1/generate": "vllm_generate",
}

LAYERS, TOP_K = 4, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What one choice must decode to."""

    tokens: list[int]
    logprobs: list[float] | None = None
    top: list[list[tuple[int, float]]] | None = None
    echo: list[int] | None = None
    prompt_logprobs: list[float] | None = None
    prompt_top: list[list[tuple[int, float]]] | None = None
    experts: Experts | None = None
    start: int = 0
    finish: str | None = "length"
    raw: str | None = None
    """As on the wire, where that differs from ``finish``."""
    stop: int | str | None = None
    aborted: bool | None = None
    index: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """How a body must be refused."""

    error: type[_errors.TitoError]
    kind: str | None = None
    path: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """One recorded body, how to ask for it, and what must come of it."""

    name: str
    expected: list[Choice] | Refusal
    options: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    @property
    def wire(self) -> Wire:
        return ROUTES[index()[self.name]["path"]]

    @property
    def body(self) -> bytes:
        return (FOLDER / self.name).read_bytes()

    def __str__(self) -> str:
        return f"{self.name.removesuffix('.json')}{self.note and f'-{self.note}'}"


@cache
def index() -> dict[str, dict[str, Any]]:
    entries: dict[str, dict[str, Any]] = json.loads((FOLDER / "index.json").read_bytes())
    return entries


def answers() -> list[str]:
    """Bodies of the routes that can be decoded; a stream is another format."""
    return sorted(name for name, entry in index().items() if entry["path"] in ROUTES and name.endswith(".json"))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Engine:
    """The rules by which the engine behind the recordings invented its output."""

    prompt: list[int] = field(default_factory=lambda: [1, 2, 3, 4, 5])
    completion: int = 4
    choice: int = 0
    experts: int = 128
    base: float = 0.01

    @property
    def tokens(self) -> list[int]:
        return [1000 + 100 * self.choice + position for position in range(self.completion)]

    @property
    def float64(self) -> list[float]:
        """As ``completion_logprobs`` carries them."""
        return [-self.base * (position + 1) - self.choice for position in range(self.completion)]

    @property
    def float32(self) -> list[float]:
        """As ``/inference/v1/generate`` carries them: rounded to binary32, then written out in full."""
        return [float(np.float32(value)) for value in self.float64]

    @property
    def short(self) -> list[float]:
        """As chat entries carry them: rounded to binary32, then written as short as binary32 allows."""
        return [float(str(np.float32(value))) for value in self.float64]

    def routed(self, start: int = 0) -> Experts:
        rows = len(self.prompt) + self.completion - 1 - start
        dtype: Any = np.uint8 if self.experts <= 256 else np.uint16
        rng = np.random.default_rng(7 + self.choice)
        array: Experts = rng.integers(0, self.experts, (rows, LAYERS, TOP_K), dtype=dtype)
        return array

    def top(self, count: int) -> list[list[tuple[int, float]]]:
        return [
            [(token + rank, float(np.float32(value - rank))) for rank in range(count)]
            for token, value in zip(self.tokens, self.float64, strict=True)
        ]

    @property
    def prompt_logprobs(self) -> list[float]:
        return [math.nan, *(-0.5 - token % 7 for token in self.prompt[1:])]

    def prompt_top(self, count: int, *, masked: bool = False) -> list[list[tuple[int, float]]]:
        rows: list[list[tuple[int, float]]] = [[]]
        for token in self.prompt[1:]:
            others = [(token + rank + 1, math.nan if masked else -1.0 - rank) for rank in range(count)]
            own = (token, -0.5 - token % 7)
            rows.append([own, *others] if masked else sorted([own, *others], key=lambda pair: (-pair[1], pair[0])))
        return rows


_E = _Engine()
_E3 = _Engine(completion=3)
_P = _E.prompt
_QUIET: dict[str, Any] = {"require_logprobs": False, "prompt_len": 5}
_SERVER = Refusal(error=_errors.ServerError)
_NO_TOKENS = Refusal(error=_errors.MissingFieldError, kind="missing", path="nvext.engine_data.completion_token_ids")
_SEVERAL = Refusal(error=_errors.MalformedBodyError, kind="several_choices", path="choices[1]")


def _engine_data(engine: _Engine, *, scored: bool = False, **facts: Any) -> list[Choice]:
    """A chat or completions answer with ``engine_data``."""
    return [
        Choice(
            tokens=engine.tokens,
            logprobs=engine.float64 if scored else None,
            echo=engine.prompt,
            experts=engine.routed(),
            **facts,
        )
    ]


def _generate(engine: _Engine, *, scored: bool = True, top: int = 1, start: int = 0, **facts: Any) -> Choice:
    """A choice of ``/inference/v1/generate``, whose finish reason tells of an abort."""
    return Choice(
        tokens=engine.tokens,
        logprobs=engine.float32 if scored else None,
        top=engine.top(top) if scored else None,
        experts=engine.routed(start),
        start=start,
        index=engine.choice,
        **{"aborted": False, **facts},
    )


_SCORED_PROMPT: dict[str, Any] = {"prompt_logprobs": _E.prompt_logprobs, "prompt_top": _E.prompt_top(1)}
_PRECISE = _Engine(completion=2, base=0.12345678901234567)
_WIDE = _Engine(experts=512)

DECODED = [
    Capture(
        name="chat_all_fields.json",
        options={"prompt_len": 5},
        expected=_engine_data(_E, scored=True, finish="stop", stop=31997, aborted=False, **_SCORED_PROMPT),
    ),
    *(
        Capture(name=f"{name}.json", options=_QUIET, expected=_engine_data(_E))
        for name in (
            "chat_cache_salt_priority_nvext",
            "chat_cache_salt_toplevel",
            "chat_engine_data_no_logprobs",
            "chat_greedy_ignore_eos_in_nvext",
            "chat_sampling_allowed_bad_words",
            "chat_session_headers",
        )
    ),
    *(
        Capture(name=f"{name}.json", options={"prompt_len": 5}, expected=_engine_data(_E, scored=True))
        for name in ("chat_engine_data_logprobs", "completions_int_prompt_engine_data", "completions_logprobs_0")
    ),
    Capture(name="chat_length_max_completion_tokens.json", options=_QUIET, expected=_engine_data(_E3)),
    Capture(
        name="chat_multi_token_chunks.json",
        options={"prompt_len": 5},
        expected=_engine_data(_Engine(completion=5), scored=True),
    ),
    Capture(name="chat_named_completion_token_ids.json", options=_QUIET, expected=[Choice(tokens=_E.tokens)]),
    Capture(name="chat_no_max_tokens.json", options=_QUIET, expected=_engine_data(_Engine(completion=6))),
    Capture(
        name="chat_nonfinite_logprobs.json",
        expected=Refusal(
            error=_errors.MissingFieldError, kind="no_logprob", path="nvext.engine_data.completion_logprobs[0]"
        ),
    ),
    Capture(
        name="chat_nonfinite_logprobs.json",
        note="nan",
        options={"prompt_len": 5, "missing_logprob": "nan"},
        expected=[
            Choice(
                tokens=_E.tokens,
                logprobs=[math.nan] * 4,
                echo=_P,
                experts=_E.routed(),
                prompt_logprobs=_E.prompt_logprobs,
                prompt_top=_E.prompt_top(2, masked=True),
            )
        ],
    ),
    Capture(
        name="chat_partial_logprobs.json",
        expected=Refusal(error=_errors.AlignmentError, kind="count", path="choices[0].logprobs.content"),
    ),
    Capture(name="chat_prompt_logprobs_engine_data.json", options=_QUIET, expected=_engine_data(_E, **_SCORED_PROMPT)),
    Capture(
        name="chat_prompt_logprobs_toplevel_0.json",
        options=_QUIET,
        expected=_engine_data(_E, prompt_logprobs=_E.prompt_logprobs, prompt_top=_E.prompt_top(0)),
    ),
    Capture(
        name="chat_sglang_style_routed_experts.json",
        options=_QUIET | {"num_layers": LAYERS, "top_k": TOP_K},
        expected=_engine_data(_E),
    ),
    Capture(name="chat_top_logprobs_20.json", expected=_engine_data(_Engine(completion=1), scored=True)),
    Capture(name="chat_uint16_experts.json", options=_QUIET, expected=_engine_data(_WIDE)),
    Capture(
        name="chat_zero_rows.json",
        note="counted by the echo",
        options={"require_logprobs": False},
        expected=Refusal(error=_errors.RoutedExpertsError, kind="rows", path="nvext.routed_experts"),
    ),
    Capture(
        name="chat_zero_rows.json",
        options=_QUIET,
        expected=Refusal(error=_errors.RoutedExpertsError, kind="rows", path="nvext.routed_experts"),
    ),
    Capture(
        name="mocker_chat_engine_data.json",
        options=_QUIET,
        expected=[Choice(tokens=[1302, 1430, 1984, 1751])],
    ),
    Capture(
        name="finish_reason_abort.json",
        options=_QUIET,
        expected=_engine_data(_E3, finish="abort", raw="cancelled", aborted=True),
    ),
    Capture(
        name="finish_reason_eos.json",
        options=_QUIET,
        expected=_engine_data(_E3, finish="stop", raw="eos", aborted=False),
    ),
    Capture(
        name="oov_token_31999_chat.json",
        options={"require_logprobs": False, "prompt_token_ids": [1, 31999]},
        expected=_engine_data(_Engine(prompt=[1, 31999], completion=3)),
    ),
    Capture(name="variant_ignore_unsupported_chat.json", options=_QUIET, expected=_engine_data(_E3)),
    Capture(
        name="variant_ignore_unsupported_chat.json",
        note="trimmed",
        options=_QUIET | {"routed_experts_prompt_start": 2},
        expected=[Choice(tokens=_E3.tokens, echo=_P, experts=_E3.routed()[2:], start=2)],
    ),
    Capture(
        name="completions_echo.json",
        options={"prompt_len": 5},
        expected=_engine_data(_E, scored=True, **_SCORED_PROMPT),
    ),
    Capture(
        name="completions_int_prompt_and_token_data.json",
        options={"prompt_len": 2, "require_logprobs": False},
        expected=_engine_data(_Engine(prompt=[1, 2])),
    ),
    Capture(
        name="completions_int_prompt_named_all.json",
        options={"prompt_token_ids": _P},
        expected=[
            Choice(
                tokens=_E.tokens,
                logprobs=_E.short,
                experts=_E.routed(),
                stop="x",
                aborted=False,
                prompt_logprobs=_E.prompt_logprobs,
                prompt_top=_E.prompt_top(1),
            )
        ],
    ),
    Capture(
        name="completions_int_prompt_named_all.json",
        note="no-prompt-ids",
        options={"prompt_len": 5},
        expected=[
            Choice(tokens=_E.tokens, logprobs=_E.short, experts=_E.routed(), stop="x", aborted=False),
        ],
    ),
    Capture(
        name="completions_logprob_precision.json",
        options={"prompt_len": 5},
        expected=_engine_data(_PRECISE, scored=True),
    ),
    *(
        Capture(name=f"{name}.json", options={"prompt_len": 5}, expected=[_generate(_E)])
        for name in ("generate_basic", "generate_logprobs_0", "generate_nvext")
    ),
    Capture(name="generate_uint16.json", options={"prompt_len": 5}, expected=[_generate(_WIDE)]),
    Capture(
        name="generate_prompt_logprobs.json",
        options={"prompt_token_ids": _P},
        expected=[_generate(_E, top=2, **_SCORED_PROMPT)],
    ),
    Capture(name="generate_logprob_precision.json", options={"prompt_len": 5}, expected=[_generate(_PRECISE)]),
    *(
        Capture(name=f"{name}.json", options=_QUIET, expected=[_generate(_Engine(completion=2), scored=False)])
        for name in ("generate_no_model", "generate_unknown_sampling")
    ),
    Capture(
        name="generate_prompt_start.json",
        options=_QUIET | {"routed_experts_prompt_start": 3},
        expected=[_generate(_E, scored=False, start=3)],
    ),
    Capture(
        name="generate_n2.json",
        options={"prompt_len": 5},
        expected=[_generate(_E3), _generate(_Engine(completion=3, choice=1))],
    ),
    Capture(
        name="generate_n2_routed_experts.json",
        options=_QUIET,
        expected=[_generate(_E3, scored=False), _generate(_Engine(completion=3, choice=1), scored=False)],
    ),
    Capture(
        name="generate_sglang_re_error.json",
        options={"prompt_len": 5, "num_layers": LAYERS, "top_k": TOP_K},
        expected=[_generate(_E)],
    ),
    Capture(
        name="finish_reason_content_filter_generate.json",
        options={"prompt_len": 5},
        expected=[_generate(_E3, finish="content_filter")],
    ),
    Capture(
        name="finish_reason_eos_generate.json",
        options={"prompt_len": 5},
        expected=[_generate(_E3, finish="stop", raw="eos")],
    ),
    Capture(
        name="oov_token_generate.json",
        options={"prompt_token_ids": [1, 40000]},
        expected=[_generate(_Engine(prompt=[1, 40000], completion=3))],
    ),
    Capture(
        name="overlong_prompt_generate.json",
        options={"prompt_len": 262145},
        expected=[Choice(tokens=_E3.tokens, logprobs=_E3.float32, top=_E3.top(1), aborted=False)],
    ),
]

REFUSED = [
    *(
        Capture(name=f"{name}.json", expected=_NO_TOKENS)
        for name in (
            "chat_named_prompt_logprobs_field_only",
            "chat_named_routed_experts",
            "chat_named_worker_id_timing",
            "chat_prompt_logprobs_toplevel",
            "chat_text_no_nvext",
            "completions_int_prompt_plain",
            "exact_context_prompt_chat",
            "mocker_completions_logprobs",
            "overlong_prompt_chat",
            "overlong_prompt_plus_max_tokens_chat",
        )
    ),
    *(
        Capture(name=f"{name}.json", expected=_SEVERAL)
        for name in (
            "chat_n2_engine_data",
            "chat_n2_routed_experts",
            "chat_prompt_logprobs_n2",
            "completions_batch_int_prompt",
            "completions_n2",
        )
    ),
    Capture(name="error_get_chat.json", expected=Refusal(error=_errors.MalformedBodyError, kind="truncated", path="")),
    *(
        Capture(name=name, expected=_SERVER)
        for name in answers()
        if index()[name]["status"] != 200 and index()[name]["bytes"]
    ),
]

CAPTURES = DECODED + REFUSED
