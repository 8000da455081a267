"""The workers behind Dynamo frontends, as its discovery lists them."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Unpack
from urllib.parse import urlsplit, urlunsplit

from dynamo_tito._errors import AdminError, NotFoundError, ServerError, TitoError, TransportError
from dynamo_tito._http.endpoint import make_endpoint

from .admin.dynamo import DynamoAdmin
from .http import HttpOptions, Server, models_of, without_credentials
from .listing import changes, merged, read_listing
from .types import Changes, Worker

if TYPE_CHECKING:
    from typing import Self

PATH = "/v1/rl/workers"
DEFAULT_RL_PORT = 8001
_TIMEOUT = 30.0
_INTERVAL = 1.0
_SWITCHES = (
    "the frontend serves discovery with DYN_ENABLE_RL=true, on port DYN_RL_PORT (default 8001), and lists workers of "
    "its own namespace that registered for RL; a worker has a system_url with DYN_SYSTEM_PORT"
)


class Workers(Sequence[Worker]):
    """The workers behind one or several frontends, as discovery listed them last.

    It does nothing until :meth:`refresh` or :meth:`wait_ready` is awaited; :func:`discover_workers` does the former.

    Args:
        base_url: the frontend, or several, with or without ``/v1``.
        rl_base_url: where discovery listens, one per frontend or one for all; by default the frontend's host with
            the port that ``DYN_RL_PORT`` names, or 8001.
        model: only workers that serve this model (or do not say what they serve) belong.
        expected_world_size: ranks of all workers together; anything else is refused.
        allow_incomplete: accept workers that cannot be administered; they are still listed.

    The other keywords are those of :class:`dynamo_tito.control.HttpOptions`. Credentials go to the frontends only.

    Raises:
        ValueError: an address is not a URL.
    """

    def __init__(
        self,
        base_url: str | Sequence[str],
        *,
        rl_base_url: str | Sequence[str] | None = None,
        model: str | None = None,
        expected_world_size: int | None = None,
        allow_incomplete: bool = False,
        **options: Unpack[HttpOptions],
    ) -> None:
        given = _several(base_url)
        self._roots = [*dict.fromkeys(make_endpoint(url).root for url in given)]
        if not self._roots:
            raise ValueError("base_url must name at least one frontend")
        listeners = _several(rl_base_url) if rl_base_url is not None else [rl_url_of(url) for url in given]
        self._urls = [*dict.fromkeys(make_endpoint(url).root for url in listeners)]
        # The given addresses carry the credentials.
        self._frontends = [Server(url, timeout=_TIMEOUT, **options) for url in _unique(given)]
        self._listeners = [Server(url, timeout=_TIMEOUT, **options) for url in _unique(listeners)]
        self._worker_options = without_credentials(options)
        self._model = model
        self._expected = expected_world_size
        self._allow_incomplete = allow_incomplete
        self._workers: tuple[Worker, ...] = ()

    def __getitem__(self, index: int) -> Worker:  # type: ignore[override]  # slices are not offered
        return self._workers[index]

    def __len__(self) -> int:
        return len(self._workers)

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._workers)

    def __repr__(self) -> str:
        return f"Workers({', '.join(self._roots)}: {len(self)} workers)"

    @property
    def world_size(self) -> int:
        """Ranks of all workers that say how many they have."""
        return sum(worker.world_size or 0 for worker in self._workers)

    @property
    def model(self) -> str | None:
        """The model whose workers these are."""
        return self._model

    @property
    def openai_url(self) -> str:
        """The first frontend."""
        return self._roots[0]

    async def refresh(self) -> Changes:
        """Ask again; what changed since the last time.

        A worker that is listed with an error, or without an address, is part of the membership: it may still serve.
        So the whole list is refused, and the last one kept, unless ``allow_incomplete``.

        Raises:
            AdminError: discovery does not answer, or not with a list that can be relied on.
        """
        workers = await self.look()
        self._check(workers)
        found = changes(self._workers, workers)
        self._workers = workers
        return found

    async def look(self) -> tuple[Worker, ...]:
        """The members as they are listed now, broken ones too; the remembered list stays.

        Raises:
            AdminError: discovery does not answer, or not with a list that can be read.
        """
        listings = await asyncio.gather(*(self._listing(server) for server in self._listeners))
        found = merged(worker for listing in listings for worker in listing)
        return tuple(worker for worker in found if self._model is None or worker.model in (None, self._model))

    async def check_model(self) -> None:
        """Return if every frontend lists the model.

        Raises:
            AdminError: one does not.
            ServerError, TransportError: one does not answer.
        """
        if self._model is None:
            return
        for server in self._frontends:
            listed = await models_of(server)
            if self._model not in listed:
                raise AdminError(f"{server.url}/v1/models lists {', '.join(listed) or 'nothing'}, not {self._model!r}")

    async def wait_ready(self, timeout: float, *, interval: float = _INTERVAL) -> None:  # noqa: ASYNC109 - ends in our error
        """Wait until discovery is complete, every worker is alive, and every frontend lists the model.

        Args:
            timeout: seconds.
            interval: seconds between two looks.

        Raises:
            AdminError: not in time; says what was missing last.
        """
        ends = time.monotonic() + timeout
        missing: TitoError = AdminError("discovery gave no answer")
        while (left := ends - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(left):
                    await self.refresh()
                    await asyncio.gather(*(self._alive(worker) for worker in self._workers))
                    await self.check_model()
            except TitoError as error:
                missing = error
            except TimeoutError:
                break
            else:
                return
            await asyncio.sleep(max(0.0, min(interval, ends - time.monotonic())))
        raise AdminError(f"the workers are not ready after {timeout:g} s: {missing}")

    async def worker_for(self, base_url: str) -> Worker:
        """The worker whose IP address or DNS name is that of this data-plane URL.

        Raises:
            AdminError: none is, or more than one.
            ValueError: no URL.
        """
        host = urlsplit(make_endpoint(base_url).root).hostname or ""
        wanted = await _addresses(host)
        found = []
        for worker in self._workers:
            url = worker.system_url or worker.admin_base_url
            name = (urlsplit(url).hostname or "") if url else ""
            if name and (name == host or wanted & await _addresses(name)):
                found.append(worker)
        if len(found) == 1:
            return found[0]
        if not found:
            raise AdminError(f"no worker is at {host}; there are {self._named(self._workers)}")
        raise AdminError(f"{len(found)} workers are at {host}: {self._named(found)}")

    async def aclose(self) -> None:
        """Close the connections."""
        for server in (*self._frontends, *self._listeners):
            await server.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _listing(self, server: Server) -> list[Worker]:
        url = server.url + PATH
        try:
            return read_listing(await server.json("GET", PATH), url)
        except NotFoundError:
            raise AdminError(f"{url} does not exist; {_SWITCHES}") from None
        except TransportError as error:
            raise AdminError(f"no discovery at {url} ({error}); {_SWITCHES}") from None
        except ServerError as error:
            raise AdminError(f"discovery failed: {error}") from None

    async def _alive(self, worker: Worker) -> None:
        if worker.system_url is None:
            return
        admin = DynamoAdmin(worker.system_url, **self._worker_options)
        try:
            await admin.health()
        finally:
            await admin.aclose()

    def _check(self, workers: tuple[Worker, ...]) -> None:
        asked = ", ".join(server.url + PATH for server in self._listeners)
        if not workers:
            which = f" that serves {self._model!r}" if self._model is not None else ""
            raise AdminError(f"{asked} lists no worker{which}; {_SWITCHES}")
        if self._allow_incomplete:
            return
        broken = [f"{worker.identity}: {worker.problem}" for worker in workers if worker.problem is not None]
        if broken:
            raise AdminError(f"{asked} lists {len(broken)} of {len(workers)} workers as broken: {'; '.join(broken)}")
        if self._expected is not None:
            silent = [str(worker.identity) for worker in workers if worker.world_size is None]
            total = sum(worker.world_size or 0 for worker in workers)
            if silent or total != self._expected:
                said = f", and {', '.join(silent)} did not say" if silent else ""
                raise AdminError(f"{asked}: the workers have {total} ranks{said}, {self._expected} are expected")

    @staticmethod
    def _named(workers: Sequence[Worker]) -> str:
        return ", ".join(f"{worker.identity} at {worker.system_url or worker.admin_base_url}" for worker in workers)


async def discover_workers(
    base_url: str | Sequence[str],
    *,
    rl_base_url: str | Sequence[str] | None = None,
    model: str | None = None,
    expected_world_size: int | None = None,
    allow_incomplete: bool = False,
    **options: Unpack[HttpOptions],
) -> Workers:
    """Ask Dynamo's discovery for its workers; arguments and errors as for :class:`Workers`, which it returns."""
    workers = Workers(
        base_url,
        rl_base_url=rl_base_url,
        model=model,
        expected_world_size=expected_world_size,
        allow_incomplete=allow_incomplete,
        **options,
    )
    try:
        await workers.refresh()
    except BaseException:
        await workers.aclose()
        raise
    return workers


def rl_url_of(base_url: str) -> str:
    """Where a frontend's discovery listens, unless told otherwise: the same host, another port.

    Raises:
        ValueError: no URL, or ``DYN_RL_PORT`` is no port.
    """
    text = os.environ.get("DYN_RL_PORT", "").strip() or str(DEFAULT_RL_PORT)
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65_536):
        raise ValueError(f"DYN_RL_PORT is no port: {text!r}")
    make_endpoint(base_url)
    parts = urlsplit(base_url.strip())
    user, at, _ = parts.netloc.rpartition("@")
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return urlunsplit((parts.scheme, f"{user}{at}{host}:{text}", "", "", ""))


async def _addresses(host: str) -> frozenset[str]:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return frozenset()
    return frozenset(str(entry[4][0]).partition("%")[0] for entry in found)


def _several(urls: str | Sequence[str]) -> list[str]:
    return [urls] if isinstance(urls, str) else [*urls]


def _unique(urls: Sequence[str]) -> list[str]:
    return [*{make_endpoint(url).root: url for url in urls}.values()]
