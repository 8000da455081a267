"""Dynamo's list of RL workers, read leniently and compared by identity. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from dynamo_tito._errors import AdminError
from dynamo_tito._http.endpoint import make_endpoint
from dynamo_tito._http.secrets import masked

from .types import Changes, Identity, Worker

PROTOCOL_VERSION = 1
_U64 = 1 << 64


def read_listing(document: Any, url: str) -> list[Worker]:
    """The workers in an answer to ``GET /v1/rl/workers``; unknown members are ignored, missing ones are None.

    Raises:
        AdminError: another protocol, or a worker without an identity.
    """
    workers = document.get("workers") if isinstance(document, dict) else None
    if not isinstance(workers, list):
        raise AdminError(f"{url}: the answer is no list of workers")
    version = document.get("protocol_version")
    if version != PROTOCOL_VERSION or isinstance(version, bool):
        raise AdminError(f"{url}: protocol_version is {version!r}, only {PROTOCOL_VERSION} is understood")
    return [_worker(entry, number, url) for number, entry in enumerate(workers)]


def merged(listings: Iterable[Worker]) -> tuple[Worker, ...]:
    """Every identity once, in the order of identities; several frontends list the same workers.

    Where one frontend reaches a worker and another does not, the entry of the former counts.

    Raises:
        AdminError: two listings of one worker, or two workers at one address, contradict each other.
    """
    found: dict[Identity, Worker] = {}
    for worker in listings:
        known = found.get(worker.identity)
        if known is None or (known.problem is not None and worker.problem is None):
            found[worker.identity] = worker
        elif worker.problem is None and (worker.system_url, worker.admin_base_url) != (
            known.system_url,
            known.admin_base_url,
        ):
            raise AdminError(f"worker {worker.identity} is listed at {_address(known)} and at {_address(worker)}")
    addresses: dict[str, Worker] = {}
    for worker in found.values():
        for url in {worker.system_url, worker.admin_base_url} - {None}:
            other = addresses.setdefault(str(url), worker)
            if other is not worker:
                raise AdminError(f"workers {other.identity} and {worker.identity} are both listed at {url}")
    return tuple(sorted(found.values(), key=lambda worker: worker.identity))


def changes(before: Sequence[Worker], after: Sequence[Worker]) -> Changes:
    """How the members changed, by identity."""
    old = {worker.identity: worker for worker in before}
    new = {worker.identity: worker for worker in after}
    joined = [worker for identity, worker in new.items() if identity not in old]
    left = [worker for identity, worker in old.items() if identity not in new]
    # A killed worker stays listed for some seconds, without its address, beside its successor.
    lost = left + [old[identity] for identity, worker in new.items() if identity in old and worker.problem is not None]
    gone = {_address(worker): worker for worker in lost if worker.problem is None}
    restarted = [(gone[_address(worker)], worker) for worker in joined if _address(worker) in gone]
    fresh, ended = {pair[1].identity for pair in restarted}, {pair[0].identity for pair in restarted}
    return Changes(
        joined=tuple(worker for worker in joined if worker.identity not in fresh),
        left=tuple(worker for worker in left if worker.identity not in ended),
        restarted=tuple(restarted),
    )


def _worker(entry: Any, number: int, url: str) -> Worker:
    if not isinstance(entry, dict):
        raise AdminError(f"{url}: workers[{number}] is no object")
    names = [entry.get(key) for key in ("namespace", "component", "endpoint")]
    instance = entry.get("instance_id")
    if (
        not all(isinstance(name, str) and name for name in names)
        or not isinstance(instance, int)
        or isinstance(instance, bool)
        or not 0 <= instance < _U64
    ):
        raise AdminError(f"{url}: workers[{number}] has no identity: {[*names, instance]!r}")
    routes, size, said = entry.get("routes"), entry.get("world_size"), entry.get("error")
    return Worker(
        identity=Identity(str(names[0]), str(names[1]), str(names[2]), instance),
        system_url=_url(entry.get("system_url"), number, url),
        admin_base_url=_url(entry.get("admin_base_url"), number, url),
        model=entry["model"] if isinstance(entry.get("model"), str) else None,
        routes=tuple(route for route in routes if isinstance(route, str)) if isinstance(routes, list) else (),
        world_size=size if isinstance(size, int) and not isinstance(size, bool) and size > 0 else None,
        error=None if said is None else masked(said if isinstance(said, str) else repr(said)),
    )


def _url(value: Any, number: int, url: str) -> str | None:
    if value is None:
        return None
    try:
        return make_endpoint(value).root
    except (TypeError, ValueError) as error:
        raise AdminError(f"{url}: the address of workers[{number}] cannot be read: {error}") from None


def _address(worker: Worker) -> str | None:
    return worker.system_url or worker.admin_base_url
