"""Weights on a shared file system: written by a trainer, loaded by workers, removed when no longer needed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .checkpoint import BadCheckpointError, read_checkpoint

STABLE = "STABLE"
"""The file that makes a version readable. It lists the version's files and their sizes; prime-rl's is empty."""

NCCL_READY = "NCCL_READY"
"""The file that tells the trainer that every worker waits for the collective."""

_PREFIX = "step_"
_POLL = 0.1
# Errors of a network file system for an entry that is not visible yet, or no longer.
_NOT_YET = (errno.ENOENT, errno.ESTALE, errno.ENOTDIR)


class WeightPublisher:
    """Versions of weights, or of an adapter, as directories ``step_<n>`` below one directory.

    A version exists for readers only when everything in it is on disk: :meth:`publish` fsyncs its files and
    directories before it writes ``STABLE``, the only file that is renamed. Readers on other machines see files late and
    in any order (NFS caches attributes), so :meth:`resolve` also waits until all that ``STABLE`` lists has its full
    size.

    A directory that prime-rl broadcasts into is read as well (``broadcasts`` below its output directory): an empty
    ``STABLE`` counts where the headers of the safetensors prove that they are whole.

    One process publishes into a directory; any number may write into an open version, and read. Adapters need a
    publisher with a directory of their own.

    Args:
        directory: made if it is not there.
        keep_recent: how many of the newest versions are never removed.
        max_off_policy_steps: how many steps old the weights of a rollout may be; ``keep_recent`` must be at least that.

    Raises:
        ValueError: ``keep_recent`` is too small.
    """

    def __init__(
        self, directory: str | os.PathLike[str], *, keep_recent: int, max_off_policy_steps: int | None = None
    ) -> None:
        least = 1 if max_off_policy_steps is None else max(1, max_off_policy_steps)
        if keep_recent < least:
            why = "max_off_policy_steps" if least > 1 else "one version"
            raise ValueError(f"keep_recent must be at least {least} ({why}), got {keep_recent}")
        self.directory = Path(directory).absolute()
        self.directory.mkdir(parents=True, exist_ok=True)
        self._keep = keep_recent
        self._oldest_in_use: int | None = None

    def path(self, step: int) -> Path:
        """The directory of a version; its name is the version's in a :class:`dynamo_tito.control.Fleet`."""
        if type(step) is not int or step < 0:
            raise ValueError(f"step must be an integer, at least 0, got {step!r}")
        return self.directory / f"{_PREFIX}{step}"

    @contextlib.contextmanager
    def publish(self, step: int) -> Iterator[Path]:
        """``with publisher.publish(7) as directory:`` write into the directory; the version is readable afterwards.

        Files of an earlier attempt are removed first. If the block raises, the version is removed and never becomes
        readable. Afterwards :meth:`clean` is called.

        Raises:
            FileExistsError: the version is published already; workers may be loading it.
            ValueError: the directory holds a link, which could change under its readers.
        """
        path = self.path(step)
        if (path / STABLE).exists():
            raise FileExistsError(errno.EEXIST, "the version is published already", str(path))
        _remove(path)
        path.mkdir()
        try:
            yield path
            sizes = _flush(path)
        except BaseException:
            _remove(path)
            raise
        _flush_directory(self.directory)
        _write_stable(path, sizes)
        self.clean()

    def resolve(self, step: int, timeout: float = 0.0, *, poll: float = _POLL) -> Path:
        """The directory of a published version; blocks until it is there in full.

        Args:
            step: which.
            timeout: seconds to wait.
            poll: seconds between two looks.

        Raises:
            TimeoutError: it is not published, or not visible here, in time.
        """
        path = self.path(step)
        ends = time.monotonic() + timeout
        while (missing := _missing(path)) is not None:
            left = ends - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"{path}: {missing} after {timeout:g} s")
            time.sleep(min(poll, left))
        return path

    def published(self) -> list[int]:
        """The versions with ``STABLE``, oldest first."""
        return [step for step in self._steps() if (self.path(step) / STABLE).exists()]

    def observe(self, versions: Iterable[str | None]) -> None:
        """Keep the versions that workers hold (:meth:`Fleet.versions`), and all newer ones.

        Unknown versions, and those with other names, are ignored.
        """
        steps = [step for step in map(_step_of, versions) if step is not None]
        self._oldest_in_use = min(steps, default=None)

    def clean(self) -> list[int]:
        """Remove versions that are neither among the ``keep_recent`` newest nor as new as the oldest in use.

        Returns:
            The steps that were removed.
        """
        published = self.published()
        if len(published) <= self._keep:
            return []
        bound = published[-self._keep]
        if self._oldest_in_use is not None:
            bound = min(bound, self._oldest_in_use)
        # Unfinished versions that are older than all kept ones are removed too.
        removed = [step for step in self._steps() if step < bound]
        for step in removed:
            _remove(self.path(step))
        return removed

    # --- collective transfers ---

    def mark_nccl_ready(self, step: int) -> None:
        """Tell the trainer that every worker is paused and about to receive: a ``before_update`` of a fleet."""
        path = self.path(step)
        path.mkdir(exist_ok=True)
        _create(path / NCCL_READY, b"")

    def wait_nccl_ready(self, step: int, timeout: float, *, poll: float = _POLL) -> None:
        """Block until :meth:`mark_nccl_ready`.

        Raises:
            TimeoutError: it was not marked in time.
        """
        path, ends = self.path(step), time.monotonic() + timeout
        while NCCL_READY not in _names(path):
            left = ends - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"{path}: no {NCCL_READY} after {timeout:g} s")
            time.sleep(min(poll, left))

    def _steps(self) -> list[int]:
        found = (_step_of(name) for name in _names(self.directory))
        return sorted(step for step in found if step is not None)


def _step_of(version: str | None) -> int | None:
    digits = (version or "").removeprefix(_PREFIX)
    return int(digits) if digits.isascii() and digits.isdigit() else None


def _names(directory: Path) -> list[str]:
    # Reading a directory makes NFS ask the server; the lookup of one name may be answered from its cache.
    try:
        return os.listdir(directory)  # noqa: PTH208 - names are all that is needed
    except OSError as error:
        if error.errno in _NOT_YET:
            return []
        raise


def _missing(path: Path) -> str | None:
    """What is not visible yet; None if the version is whole."""
    if STABLE not in _names(path):
        return f"no {STABLE}"
    try:
        listed = (path / STABLE).read_bytes()
        if not listed:
            return _unproven(path)
        sizes: dict[str, Any] = json.loads(listed)["files"]
        for name, size in sizes.items():
            seen = (path / name).stat().st_size
            if seen != size:
                return f"{name} has {seen} of {size} bytes"
    except OSError as error:
        if error.errno in _NOT_YET:
            return f"{error.filename} is not visible yet"
        raise
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{STABLE} cannot be read yet"
    return None


def _unproven(path: Path) -> str | None:
    """Why a version whose ``STABLE`` is empty may not be whole: prime-rl's lists no files.

    The headers of its safetensors say how large they must be.
    """
    try:
        note = read_checkpoint(str(path)).note
    except BadCheckpointError as error:
        note = str(error).partition("; no worker")[0]
    return None if note is None else f"{STABLE} is empty, and {note}"


def _flush(path: Path) -> dict[str, int]:
    """Fsync everything below a directory; the size of each file."""
    sizes = {}
    for folder, folders, files in os.walk(path, onerror=_raise):
        for name in (*folders, *files):
            entry = Path(folder, name)
            if entry.is_symlink():
                raise ValueError(f"{entry} is a link: what it points to could change under readers")
        for name in files:
            file = Path(folder, name)
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
                sizes[file.relative_to(path).as_posix()] = os.fstat(opened.fileno()).st_size
        _flush_directory(Path(folder))
    return sizes


def _flush_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_stable(path: Path, sizes: dict[str, int]) -> None:
    fresh = path / f".{STABLE}"
    _create(fresh, json.dumps({"files": sizes}).encode())
    fresh.replace(path / STABLE)
    _flush_directory(path)


def _create(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    _flush_directory(path.parent)


def _remove(path: Path) -> None:
    """Remove a version; it stops being readable first."""
    with contextlib.suppress(FileNotFoundError):
        (path / STABLE).unlink()
        _flush_directory(path)
    if path.exists():
        shutil.rmtree(path)


def _raise(error: OSError) -> None:
    raise error
