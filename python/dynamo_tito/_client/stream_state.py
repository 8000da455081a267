"""What the two streams have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .generate import Generation

if TYPE_CHECKING:
    from dynamo_tito._types import Completion

    from .steps import Steps


class StreamState:
    """How far a stream is."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        self._steps: Steps[Completion] | None = None
        self._ended = False
        self._completion: Completion | None = None

    @property
    def completion(self) -> Completion:
        """The whole completion, once the stream has ended.

        With ``on_interrupt="return"`` also once it broke off or was left: what came before.

        Raises:
            RuntimeError: there is none yet, or there will be none.
        """
        if self._completion is None:
            raise RuntimeError("the stream has no completion" if self._ended else "the stream has not ended yet")
        return self._completion

    @property
    def request_id(self) -> str | None:
        """The id that the request is sent with, for :meth:`AsyncTitoClient.abort`."""
        return self._generation.request_id

    def _end(self, completion: Completion) -> None:
        self._ended = True
        self._completion = completion

    def _interrupted(self, error: BaseException) -> bool:
        """Whether the stream ends here without an error; otherwise it has none of a completion."""
        self._ended = True
        kept = self._generation.kept(error)
        self._completion = kept or getattr(error, "completion", None)
        return kept is not None

    def _leave(self) -> None:
        if self._steps is not None:
            self._steps.close()
        if not self._ended:
            self._ended = True
            self._completion = self._generation.left()
