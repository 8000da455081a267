"""Adapters of one worker: what each backend says in words of its own, and a name that is in use."""

from __future__ import annotations

import re
from collections.abc import Mapping

from dynamo_tito._errors import NotFoundError, ServerError, TitoError
from dynamo_tito.control._http import cards_of
from dynamo_tito.control._types import check_path

from .base import HttpAdmin

_IN_USE = re.compile(r"already (been )?(loaded|exists)", re.IGNORECASE)


class NameInUseError(ServerError):
    """The worker has an adapter of this name, and keeps it."""


class AdapterAdmin(HttpAdmin):
    """What the backends share. A backend says how an adapter is loaded under a free name, and how it is unloaded.

    No backend replaces an adapter under its name reliably: vLLM up to 0.32 keeps ``load_inplace`` with the adapter and
    reads it from disk at every step (SkyRL#1606), Dynamo 1.6.1 answers ``success`` and keeps the old one, SGLang
    refuses. So the old adapter is unloaded first. If the worker then refuses the new one, the old one is loaded again.
    """

    _paths: dict[str, str] | None = None

    async def adapters(self) -> Mapping[str, str | None] | None:
        """``GET /v1/models``: the ``parent`` of a base model is null, the ``root`` of an adapter is its path."""
        try:
            cards = await cards_of(self._server)
        except NotFoundError:
            return None
        return {str(card["id"]): _text(card.get("root")) for card in cards if card.get("parent", "") is not None}

    async def load_lora(self, name: str, path: str) -> None:
        """Load an adapter; one that has the name is unloaded first."""
        check_path(path)
        if self._paths is None:
            self._paths = {}
        listed = await self.adapters() or {}
        in_use = name in listed
        if not in_use:
            try:
                await self._load(name, path)
            except NameInUseError:
                in_use = True
        if in_use:
            await self._replace(name, path, listed.get(name) or self._paths.get(name))
        self._paths[name] = path

    async def unload_lora(self, name: str) -> None:
        """Drop an adapter."""
        raise NotImplementedError

    async def _load(self, name: str, path: str) -> None:
        """Load under a name; NameInUseError if the worker says that it has it already."""
        raise NotImplementedError

    async def _replace(self, name: str, path: str, old: str | None) -> None:
        await self.unload_lora(name)
        try:
            await self._load(name, path)
        except ServerError as error:
            error.args = (f"{error}; {await self._restored(name, old)}",)
            raise

    async def _restored(self, name: str, old: str | None) -> str:
        """What became of a name whose new adapter was refused."""
        if old is not None:
            try:
                await self._load(name, old)
            except TitoError as error:
                return f"no adapter is loaded as {name} now, {old} could not be loaded again: {error}"
            return f"{old} is loaded as {name} again"
        return f"no adapter is loaded as {name} now"


def name_in_use(error: ServerError) -> NameInUseError | None:
    """The refusal of a name that is in use, if this is one."""
    if (error.status or 500) >= 500 or not _IN_USE.search(str(error)):
        return None
    return NameInUseError(str(error), status=error.status)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
