"""The request that ``renderers.client.generate`` prepares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Prepared:
    """One request as they would send it.

    Attributes:
        url: where to.
        body: the request's members.
        options: ``{"headers": ...}``, or None.
        cast_to: the class of the answer that they ask the client for.
    """

    url: str
    body: dict[str, Any]
    options: Any
    cast_to: Any

    class Reached(Exception):  # noqa: N818 - no error: it ends their function where it sends
        """Their function is about to send."""

        def __init__(self, prepared: Prepared) -> None:
            super().__init__()
            self.prepared = prepared

    @property
    def prompt_ids(self) -> list[int]:
        """The rendered prompt."""
        ids: list[int] = self.body["token_ids"]
        return ids

    @property
    def expands(self) -> bool:
        """Whether the server makes the prompt longer, by content parts."""
        return bool(self.body.get("content_parts"))

    @property
    def sampling_params(self) -> dict[str, Any]:
        """The sampling parameters, stop tokens and log-probabilities included."""
        params: dict[str, Any] = self.body["sampling_params"]
        return params

    @property
    def head_size(self) -> int | None:
        """How many of the most likely tokens the caller wants; theirs asks for two more of them."""
        asked = self.sampling_params["logprobs"]
        return asked - 2 if asked > 1 else None

    @property
    def headers(self) -> dict[str, str]:
        """The headers of this call."""
        return dict((self.options or {}).get("headers") or {})


class Recorder:
    """The client that their function sees: its questions are answered, and its request is kept."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.base_url = client.base_url

    async def get(self, path: str, *, cast_to: Any) -> Any:
        """Their question for the context length."""
        return await self._client.get(path, cast_to=cast_to)

    async def post(self, path: str, *, cast_to: Any, body: Any = None, options: Any = None) -> Any:
        """Ends their function."""
        raise Prepared.Reached(Prepared(path, body, options, cast_to))
