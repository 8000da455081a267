"""What vLLM's server reads from a request, and how it refuses it: coercion as pydantic does, then the engine's checks.

Facts: bodies of vLLM 0.32.0 and 0.33.0, which agree in all of this; `vllm/sampling_params.py` of 0.32.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dynamo_tito.simulator.calls import Ask, EngineError
from dynamo_tito.simulator.config import EngineConfig

from .vllm_errors import bad_field, bad_request, invalid, late

__all__ = ["Sampling", "check_prompt", "check_room", "check_salt", "missing", "read_ids", "read_sampling"]

SALT_LIMIT = 128
_GENERATE = "body.sampling_params"
_INTEGERS = (
    "max_tokens", "n", "seed", "min_tokens", "logprobs", "prompt_logprobs", "routed_experts_prompt_start",
)  # fmt: skip
#: A bias from which on a token is always sampled.
_CERTAIN = 100.0


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample, and the fields of the answer."""

    ask: Ask
    #: How many alternatives of each sampled and of each prompt token; None: no log-probabilities.
    logprobs: int | None
    prompt_logprobs: int | None
    #: First position of the routed experts.
    start: int
    detokenize: bool
    #: `prompt_logprob_token_ids`, each row as long as the longest, with -1 behind the ids; None: not asked for.
    given: list[list[int]] | None = None


def missing(name: str, document: dict[str, Any]) -> EngineError:
    """A field that the body must have."""
    return invalid(bad_field("missing", f"body.{name}", "Field required", document), param=f"body.{name}")


def read_ids(document: dict[str, Any], name: str) -> list[int]:
    """A list of token ids that is not empty; text and whole floats are taken for integers."""
    if name not in document:
        raise missing(name, document)
    values, where = document[name], f"body.{name}"
    if not isinstance(values, list):
        raise invalid(bad_field("list_type", where, "Input should be a valid list", values), param=where)
    if not values:
        said = "List should have at least 1 item after validation, not 0"
        context = {"field_type": "List", "min_length": 1, "actual_length": 0}
        raise invalid(bad_field("too_short", where, said, values, context), param=where)
    read = [_whole(value, f"{where}.{at}") for at, value in enumerate(values)]
    wrong = [line for line in read if isinstance(line, str)]
    if wrong:
        first = next(at for at, line in enumerate(read) if isinstance(line, str))
        raise invalid(*wrong, param=f"{where}.{first}")
    ids = [value for value in read if isinstance(value, int)]
    if min(ids) < 0:
        said = f"{name} must not contain negative values"
        context = {"error": ValueError(said)}
        raise invalid(bad_field("value_error", where, f"Value error, {said}", values, context), param=where)
    return ids


def read_sampling(
    values: dict[str, Any], prompt: Sequence[int], config: EngineConfig, *, where: str = _GENERATE
) -> Sampling:
    """The sampling parameters: of `sampling_params`, or of a chat body (`where="body"`).

    Raises:
        EngineError: 400, with the parameter that is wrong.
    """
    numbers = _integers(values, where)
    stop = values.get("stop") or ()
    stop = (stop,) if isinstance(stop, str) else tuple(stop)
    max_tokens, n, least = numbers["max_tokens"], numbers["n"], numbers["min_tokens"] or 0
    n = 1 if n is None else n
    if n < 1:
        raise bad_request(f"n must be at least 1, got {n}.")
    if max_tokens is not None and max_tokens < 1:
        raise bad_request(f"max_tokens must be at least 1, got {max_tokens}.", "max_tokens", max_tokens)
    if max_tokens is not None and least > max_tokens:
        raise bad_request(f"min_tokens must be less than or equal to max_tokens={max_tokens}, got {least}.")
    start = numbers["routed_experts_prompt_start"]
    if start is not None and not 0 <= start <= len(prompt):
        name = "routed_experts_prompt_start"
        raise late(f"{name} must be between 0 and the prompt length ({len(prompt)}), inclusive.", name, start)
    forced = [int(token) for token, bias in (values.get("logit_bias") or {}).items() if bias >= _CERTAIN]
    ask = Ask(
        prompt,
        max_tokens,
        n=n,
        seed=numbers["seed"],
        stop_token_ids=values.get("stop_token_ids") or (),
        stop=stop,
        ignore_eos=bool(values.get("ignore_eos")),
        min_tokens=least,
        forced=forced[0] if forced else None,
        stream_interval=values.get("stream_interval"),
    )
    return Sampling(
        ask=ask,
        logprobs=_alternatives(numbers["logprobs"], "logprobs", "sample logprobs", config),
        prompt_logprobs=_alternatives(numbers["prompt_logprobs"], "prompt_logprobs", "prompt logprobs", config),
        start=start or 0,
        detokenize=values.get("detokenize") is not False,
        given=_given(values, prompt),
    )


def _given(values: dict[str, Any], prompt: Sequence[int]) -> list[list[int]] | None:
    """`prompt_logprob_token_ids`: a row for each scored position, padded with -1."""
    name = "prompt_logprob_token_ids"
    rows: list[list[int]] | None = values.get(name)
    start = values.get("prompt_logprob_start") or 0
    if rows is None:
        return None
    expected = max(len(prompt) - 1 - start, 0)
    if len(rows) != expected:
        said = f"the prompt has {expected} scored rows (prompt_len - 1 - prompt_logprob_start)"
        raise late(f"{name} has {len(rows)} rows, but {said}.", name, len(rows))
    width = max(map(len, rows), default=0)
    return [row + [-1] * (width - len(row)) for row in rows]


def check_prompt(prompt: Sequence[int], config: EngineConfig) -> None:
    """What the engine refuses of a prompt: ids that the model has not, and what leaves no room for a token."""
    limit = config.max_model_len
    if len(prompt) > limit:
        raise late(
            f"The decoder prompt (length {len(prompt)}) is longer than the maximum model length of {limit}. Make sure "
            "that `max_model_len` is no smaller than the number of text tokens."
        )
    if len(prompt) == limit:
        raise late(
            f"The decoder prompt (length {limit}) plus the number of requested output tokens (at least 1) is longer "
            f"than the maximum model length of {limit}. Make sure that `max_model_len` is no smaller than the number "
            "of text tokens (prompt + requested output tokens)."
        )
    if (largest := max(prompt, default=0)) >= config.vocab_size:
        raise late(f"Token id {largest} is out of vocabulary")


def check_room(count: int, config: EngineConfig, *, counted: bool) -> None:
    """What chat and completions refuse of a prompt; one that was text is not counted beyond the limit."""
    limit = config.max_model_len
    if count > limit or (count == limit and not counted):
        said = str(count) if counted else f"at least {(count := min(count, limit + 1))}"
        raise bad_request(
            f"This model's maximum context length is {limit} tokens. However, your prompt contains {said} input "
            "tokens, which exceeds this limit even without any output tokens. Please reduce the length of the input "
            "prompt.",
            "input_tokens",
            count,
        )
    if count == limit:
        raise bad_request("max_tokens must be at least 1, got 0.", "max_tokens", 0)


def check_salt(salt: Any) -> None:
    """`cache_salt`: text that is not part of a path."""
    name = "cache_salt"
    if salt is None:
        return
    if not isinstance(salt, str) or not salt:
        raise bad_request(f"Parameter '{name}' must be a non-empty string if provided.", name)
    if len(salt) > SALT_LIMIT or set(salt) & set("@/\\\0"):
        said = f"must be at most {SALT_LIMIT} characters and must not contain '@', '/', '\\\\', or NUL."
        raise bad_request(f"Parameter '{name}' {said}", name)


def _integers(values: dict[str, Any], where: str) -> dict[str, int | None]:
    read = {
        name: None if (value := values.get(name)) is None else _whole(value, f"{where}.{name}") for name in _INTEGERS
    }
    wrong = [line for line in read.values() if isinstance(line, str)]
    ids = values.get("prompt_logprob_token_ids")
    if isinstance(ids, list):
        at = f"{where}.prompt_logprob_token_ids"
        wrong += [
            bad_field("list_type", f"{at}.{number}", "Input should be a valid list", row)
            for number, row in enumerate(ids)
            if not isinstance(row, list)
        ]
    if wrong and where == _GENERATE:
        said = "Input should be an instance of SamplingParams"
        wrong.insert(0, bad_field("is_instance_of", where, said, values, {"class": "SamplingParams"}))
        raise invalid(*wrong, param=where)
    if wrong:
        first = next(name for name, line in read.items() if isinstance(line, str))
        raise invalid(*wrong, param=f"{where}.{first}")
    return {name: value for name, value in read.items() if not isinstance(value, str)}


def _whole(value: Any, where: str) -> int | str:
    """The integer that pydantic parses, or its error."""
    match value:
        case int():
            return int(value)
        case float() if value.is_integer():
            return int(value)
        case float():
            said = "Input should be a valid integer, got a number with a fractional part"
            return bad_field("int_from_float", where, said, value)
        case str():
            try:
                return int(value)
            except ValueError:
                said = "Input should be a valid integer, unable to parse string as an integer"
                return bad_field("int_parsing", where, said, value)
        case _:
            return bad_field("int_type", where, "Input should be a valid integer", value)


def _alternatives(count: int | None, name: str, what: str, config: EngineConfig) -> int | None:
    """The number of alternatives; -1 is the whole vocabulary."""
    if count is None:
        return None
    if count < -1:
        raise bad_request(f"{name} must be non-negative or -1, got {count}.", name, count)
    count = config.vocab_size if count == -1 else count
    most = config.vocab_size if config.max_logprobs == -1 else config.max_logprobs
    if count > most:
        raise late(f"Requested {what} of {count}, which is greater than max allowed: {most}", name, count)
    return count
