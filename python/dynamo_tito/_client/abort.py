"""Telling a server to abort a request of one's own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dynamo_tito._errors import NotFoundError, ServerError
from dynamo_tito._http.endpoint import make_endpoint

from .server_errors import message_of

if TYPE_CHECKING:
    from .caller import Caller
    from .steps import Steps


def abort(
    caller: Caller, request_id: str, admin_base_url: str | Sequence[str] | None, deadline: float | None
) -> Steps[None]:
    """The steps of one call."""
    given = [admin_base_url] if isinstance(admin_base_url, str) else [*(admin_base_url or ())]
    # All are checked before anything is sent.
    routes, roots = caller.own.aborts(request_id), [make_endpoint(url).root for url in given]
    for root in roots or [caller.endpoint.root]:
        for route in routes:
            try:
                response = yield from caller.tell(route.path, route.members, deadline, root=root)
            except NotFoundError as error:
                if route is routes[-1]:
                    error.add_note(
                        "the server has no route to abort a request; on Dynamo the workers have one: name their system "
                        "servers with admin_base_url. Cancelling a call, or leaving a stream, stops the engine as well"
                    )
                    raise
            else:
                _check(bytes(response.content))
                break


def _check(content: bytes) -> None:
    """Raise where Dynamo says with status 200 that it did not abort."""
    try:
        answer = json.loads(content or b"null")
    except (ValueError, RecursionError):
        return
    if isinstance(answer, dict) and answer.get("status") == "error":
        raise ServerError(message_of(content, answer) or "the request was not aborted", status=200, body=content)
