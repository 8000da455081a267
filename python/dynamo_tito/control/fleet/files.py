"""The checkpoint of an update, checked as far as this machine sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dynamo_tito._errors import TitoError
from dynamo_tito.weights.checkpoint import BadCheckpointError, Checkpoint, compare_names, read_checkpoint, visible

if TYPE_CHECKING:
    from dynamo_tito.control.admin.base import AdminApi


async def read_visible(path: str | None, *, check_files: bool | None) -> Checkpoint | None:
    """The checkpoint, checked; None if ``check_files`` is False, or is None and the path is not visible here."""
    if path is None or check_files is False or (check_files is None and not visible(path)):
        return None
    return await asyncio.to_thread(read_checkpoint, path)


async def check_against_root(path: str, found: Checkpoint | None, admins: Sequence[AdminApi]) -> list[str]:
    """Compare a checkpoint with the directory that a worker was started from, if this machine has that directory.

    Args:
        path: the checkpoint.
        found: what was read of it; None if it was not read yet.
        admins: the workers.

    Returns:
        What could not be checked, in words.

    Raises:
        BadCheckpointError: it is not there, though the workers' own directory is, or it lacks tensors that the workers'
            own has.
    """
    roots = await asyncio.gather(*(_root(admin) for admin in admins))
    root = next((each for each in roots if each is not None and each.startswith("/") and Path(each).is_dir()), None)  # noqa: ASYNC240
    if found is None:
        if root is None:
            return [f"the checkpoint was not checked: {path} is not visible on this machine"]
        found = await asyncio.to_thread(read_checkpoint, path)
    if root is not None and found.tensors:
        try:
            known = await asyncio.to_thread(read_checkpoint, root)
        except BadCheckpointError:
            return []
        compare_names(found, known)
    return [] if found.note is None else [found.note]


async def _root(admin: AdminApi) -> str | None:
    try:
        return await admin.model_root()
    except TitoError:
        return None
