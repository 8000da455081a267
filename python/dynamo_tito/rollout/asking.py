"""The keywords of a turn's request, and of the request for its rest: limits less the tokens it holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

if TYPE_CHECKING:
    from dynamo_tito._types import Int32Array


class Request(TypedDict):
    """The arguments that a rollout has for :meth:`dynamo_tito.AsyncTitoClient.generate`."""

    prompt_ids: Int32Array
    stop_token_ids: list[int]
    routed_experts_prompt_start: int


class FullRequest(Request):
    """With the sampling parameters, if the rollout has them."""

    sampling_params: NotRequired[Mapping[str, Any]]


_MOST = ("max_tokens", "max_completion_tokens", "max_new_tokens")
_LEAST = ("min_tokens", "min_new_tokens")

_OF_ONE_REQUEST = ("request_id", "deadline")
"""Keywords that belong to one request, not to the turn."""


def asked_for(sampling_params: Mapping[str, Any] | None, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords of the request for a turn, which are sent again when it is resumed.

    Raises:
        TypeError: one of them is the rollout's own.
    """
    if "routed_experts_prompt_start" in arguments:
        raise TypeError("leave out routed_experts_prompt_start: the rollout asks for the rows that it lacks")
    kept = {name: value for name, value in arguments.items() if name not in _OF_ONE_REQUEST}
    return kept if sampling_params is None else {"sampling_params": dict(sampling_params), **kept}


def rest(asked: Mapping[str, Any], sampled: int) -> tuple[dict[str, Any], int | None]:
    """The same keywords for the rest of a turn that has ``sampled`` tokens.

    Limits are counted wherever the client takes them: in ``sampling_params``, in ``extra_body`` and in an
    ``extra_body["sampling_params"]``.

    Returns:
        The keywords, and how many tokens they leave, at least 0; None where no limit is named.
    """
    left: list[int] = []
    found = dict(asked)
    for name in ("sampling_params", "extra_body"):
        if isinstance(members := found.get(name), Mapping):
            found[name] = _less(members, sampled, left)
    return found, min(left, default=None)


def _less(members: Mapping[str, Any], sampled: int, left: list[int]) -> dict[str, Any]:
    found = dict(members)
    for name, value in members.items():
        if name == "sampling_params" and isinstance(value, Mapping):
            found[name] = _less(value, sampled, left)
        elif isinstance(value, int) and not isinstance(value, bool):
            if name in _MOST:
                found[name] = max(value - sampled, 0)
                left.append(found[name])
            elif name in _LEAST:
                found[name] = max(value - sampled, 0)
    return found
