"""The whole answer of a call as bytes, for callers that read it themselves."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from dynamo_tito._requests import Request

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dynamo_tito._native import Body
    from dynamo_tito._requests import Call, Dialect, Draft

    from .caller import Caller
    from .decoding import Decoding
    from .driver_async import AsyncTitoClient
    from .steps import Steps


def decoding_of(client: AsyncTitoClient) -> Decoding:
    """How the client decodes its own answers."""
    return client._caller.decoding  # noqa: SLF001 - the client is of this package


async def whole_answer(
    client: AsyncTitoClient, spec: Dialect, call: Call, headers: Mapping[str, str], *, verbatim: Draft | None = None
) -> Body | bytes:
    """Send a call as the client sends its own, with its retries and its preflight, and return the answer's body.

    Args:
        client: the server.
        spec: the route.
        call: what is asked.
        headers: sent beside those of the client and of the route.
        verbatim: the body to send instead of the one that the route makes of the call.

    Raises:
        OverlongPromptError, ServerError, TransportError: as of :meth:`AsyncTitoClient.generate`.
    """
    caller = client._caller  # noqa: SLF001 - the client is of this package
    draft = spec.draft(call, send_start=not caller.start_refused) if verbatim is None else verbatim
    request = Request(spec, call, draft, caller.headers(spec, call, headers))
    return await client._call(functools.partial(_content, caller, request), None)  # noqa: SLF001 - likewise


def _content(caller: Caller, request: Request, deadline: float | None) -> Steps[Body | bytes]:
    response = yield from caller.ask(request, deadline)
    return response.content
