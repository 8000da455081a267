"""A client for each event loop, and completions that are asked for until they end."""

from __future__ import annotations

import asyncio
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from dynamo_tito._client import AsyncTitoClient, connect
from dynamo_tito._errors import RoutedExpertsError
from dynamo_tito._types import Completion, RoutedExperts

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from dynamo_tito._types import Int32Array


T = TypeVar("T")


class Connection:
    """The arguments of :func:`dynamo_tito.connect`, which travel to other processes, and a client for each event loop.

    Args:
        base_url: the server.
        **options: as of :func:`dynamo_tito.connect`.
    """

    def __init__(self, base_url: str, **options: Any) -> None:
        self._base_url = base_url
        self._options = options
        self._clients: weakref.WeakKeyDictionary[Any, AsyncTitoClient] = weakref.WeakKeyDictionary()

    def client(self) -> AsyncTitoClient:
        """The client of the running event loop."""
        loop = asyncio.get_running_loop()
        if (client := self._clients.get(loop)) is None:
            client = self._clients[loop] = connect(self._base_url, **self._options)
        return client

    async def aclose(self) -> None:
        """Close the client of the running event loop."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (type(self), self._base_url, self._options)


def _again(kind: type[Connection], base_url: str, options: Mapping[str, Any]) -> Connection:
    return kind(base_url, **options)


async def all_of(calls: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of calls that run at once. The first error cancels the others, and is raised when they have ended."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


async def until_ended(
    client: AsyncTitoClient,
    prompt_ids: Int32Array,
    params: Mapping[str, Any],
    *,
    pause: float,
    seen: Callable[[Completion], object] = lambda _: None,
    **options: Any,
) -> Completion:
    """A completion; one that is aborted, as by an update of weights, is continued until it ends.

    Args:
        client: the client.
        prompt_ids: int32 [P].
        params: sampling parameters with ``max_tokens``, which is counted over all answers.
        pause: seconds to wait before an aborted completion is continued.
        seen: called with each answer when it is there.
        **options: of ``generate``, but for ``routed_experts_prompt_start``.

    Returns:
        One completion; one that is aborted with its last token ended by length. Its rows of routing are each of the
        answer that first had them; its weight versions are those of all answers, and None where one of them names none
        or only a label without positions.
    """
    budget = int(params["max_tokens"])
    whole = await client.generate(prompt_ids, sampling_params=dict(params), **options)
    seen(whole)
    while whole.aborted and len(whole.token_ids) < budget:
        await asyncio.sleep(pause)
        held = 0 if whole.routed_experts is None else len(whole.routed_experts.array)
        rest = await client.generate(
            np.concatenate([prompt_ids, whole.token_ids]),
            sampling_params={**params, "max_tokens": budget - len(whole.token_ids)},
            **{**options, "routed_experts_prompt_start": held or None},
        )
        seen(rest)
        whole = _joined(whole, rest)
    return replace(whole, finish_reason="length", aborted=False) if whole.aborted else whole


def _joined(before: Completion, after: Completion) -> Completion:
    count = len(before.token_ids)
    logprobs = None
    if before.logprobs is not None and after.logprobs is not None:
        logprobs = np.concatenate([before.logprobs, after.logprobs])
    elif not count:
        logprobs = after.logprobs
    versions = None
    if before.weight_versions and after.weight_versions and "end" in before.weight_versions[-1]:
        later = [
            {**span, "start": span["start"] + count, "end": span["end"] + count}
            for span in after.weight_versions
            if "end" in span
        ]
        versions = [*before.weight_versions, *later] if len(later) == len(after.weight_versions) else None
    elif not count:
        versions = after.weight_versions
    return Completion(
        token_ids=np.concatenate([before.token_ids, after.token_ids]),
        logprobs=logprobs,
        top_logprobs=None,
        prompt_token_ids=before.prompt_token_ids,
        prompt_logprobs=before.prompt_logprobs,
        routed_experts=_joined_rows(before.routed_experts, after.routed_experts, bare=not count),
        sampling_mask=None,
        finish_reason=after.finish_reason,
        finish_reason_raw=after.finish_reason_raw,
        stop_reason=after.stop_reason,
        aborted=after.aborted,
        request_id=after.request_id,
        index=0,
        usage=after.usage,
        weight_versions=versions,
        sources=dict(after.sources),
    )


def _joined_rows(before: RoutedExperts | None, after: RoutedExperts | None, *, bare: bool) -> RoutedExperts | None:
    if after is None:
        if before is not None:
            raise RoutedExpertsError("the rest of an aborted completion came without routed experts", kind="rows")
        return None
    if before is None or not len(before.array):
        if before is None and not bare:
            raise RoutedExpertsError("the beginning of an aborted completion came without routed experts", kind="rows")
        return after
    if after.start != len(before.array):
        raise RoutedExpertsError(f"rows begin at {after.start}, {len(before.array)} are held", kind="gap")
    dtype = np.result_type(before.array, after.array)
    wire = before.wire_dtype if np.can_cast(after.wire_dtype, before.wire_dtype) else after.wire_dtype
    array = np.concatenate([before.array, after.array], dtype=dtype)
    return RoutedExperts(array=array, start=0, wire_dtype=wire, complete=after.complete)
