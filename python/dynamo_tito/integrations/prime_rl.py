"""``prime-rl``: its administration of inference servers and its teacher scores, over any server of this library.

>>> from dynamo_tito.integrations import prime_rl
>>> prime_rl.install(backend="dynamo", rl_base_url="http://frontend:8001")  # doctest: +SKIP

prime-rl drives vLLM with routes of its own. Here the same functions drive Dynamo's workers, vLLM's own routes and
SGLang as well. Weights are given to every worker or the error says which have them
(:class:`dynamo_tito.control.Fleet`). A teacher's log-probability is looked up by the token's id, because the order in
which servers list alternatives differs.

Rollouts of prime-rl go through verifiers: :mod:`dynamo_tito.integrations.verifiers`.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, runtime_checkable

from dynamo_tito._client import AsyncTitoClient
from dynamo_tito._config import Backend, RendererTransport
from dynamo_tito.control import Canary, Fleet, WeightGroup, WeightUpdate, discover_workers, make_admin
from dynamo_tito.weights.publisher import NCCL_READY

from ._frameworks import framework
from ._scores import score

if TYPE_CHECKING:
    from types import TracebackType

    from dynamo_tito.control import AdminApi
    from dynamo_tito.control.http import HttpOptions

__all__ = [
    "AdminAPI",
    "Installed",
    "TitoAdminAPI",
    "discover_admin_urls",
    "init_nccl_broadcast",
    "install",
    "load_lora_adapter",
    "prefill_logprobs",
    "setup_admin_api",
    "setup_admin_clients",
    "update_weights",
]

WeightBroadcast = Literal["filesystem", "nccl"]

_LIBRARY_HEADERS = frozenset(("accept", "accept-encoding", "connection", "user-agent"))
"""What ``httpx`` sends by itself."""


@runtime_checkable
class AdminAPI(Protocol):
    """Administers the server at an ``httpx.AsyncClient``'s address: prime-rl's protocol.

    ``client`` gives the address and the headers. A method that returns has succeeded.
    """

    async def health(self, client: Any) -> None:
        """Return if the server is alive."""

    async def list_models(self, client: Any) -> list[str]:
        """Names of the models and adapters that it serves."""

    async def pause(self, client: Any) -> None:
        """Hold generation; requests in flight wait."""

    async def resume(self, client: Any) -> None:
        """Continue generation."""

    async def update_weights(self, client: Any, weight_dir: str | None, *, step: int = 0) -> None:
        """Load a checkpoint, or receive weights by collective."""

    async def load_lora_adapter(self, client: Any, lora_name: str, lora_path: str) -> None:
        """Load an adapter under a name."""

    async def init_broadcaster(
        self,
        client: Any,
        *,
        host: str,
        port: int,
        rank_offset: int,
        inference_world_size: int,
        timeout: int,  # noqa: ASYNC109 - how long the server waits for the others
        quantize_in_weight_transfer: bool = False,
    ) -> None:
        """Join the process group that brings weights; ranks count inference only."""


class TitoAdminAPI:
    """:class:`AdminAPI` for every server that this library administers.

    Args:
        backend: what the servers are; None to ask each.
        weight_broadcast: how weights come: as files, or by collective.
        openai_url: for Dynamo, the frontend that lists models.

    Raises:
        ServerError: of the methods: the server refused or failed, whatever the HTTP status.
        TransportError: of the methods: no complete answer came.
    """

    def __init__(
        self,
        backend: Backend | None = None,
        *,
        weight_broadcast: WeightBroadcast = "filesystem",
        openai_url: str | None = None,
    ) -> None:
        self.backend = backend
        self.weight_broadcast = weight_broadcast
        self.openai_url = openai_url

    @contextlib.asynccontextmanager
    async def admin(self, client: Any) -> AsyncIterator[AdminApi]:
        """This library's administration of the server at ``client``, on connections of its own."""
        admin = await make_admin(_url(client), self.backend, openai_url=self.openai_url, **_options(client))
        try:
            yield admin
        finally:
            await admin.aclose()

    async def health(self, client: Any) -> None:
        """See :class:`AdminAPI`."""
        async with self.admin(client) as admin:
            await admin.health()

    async def list_models(self, client: Any) -> list[str]:
        """See :class:`AdminAPI`."""
        async with self.admin(client) as admin:
            return [*await admin.models()]

    async def pause(self, client: Any) -> None:
        """See :class:`AdminAPI`."""
        async with self.admin(client) as admin:
            await admin.pause("keep", clear_cache=False)

    async def resume(self, client: Any) -> None:
        """See :class:`AdminAPI`."""
        async with self.admin(client) as admin:
            await admin.resume()

    async def update_weights(self, client: Any, weight_dir: str | os.PathLike[str] | None, *, step: int = 0) -> None:
        """See :class:`AdminAPI`. The server must be paused; :func:`update_weights` pauses and verifies."""
        async with self.admin(client) as admin:
            await admin.update_weights(self.weight_update(_text(weight_dir), step, _backend_of(admin)))

    async def load_lora_adapter(self, client: Any, lora_name: str, lora_path: str | os.PathLike[str]) -> None:
        """See :class:`AdminAPI`. Where a server keeps the adapter that has the name, that one is unloaded first."""
        async with self.admin(client) as admin:
            await admin.load_lora(lora_name, os.fspath(lora_path))

    async def init_broadcaster(
        self,
        client: Any,
        *,
        host: str,
        port: int,
        rank_offset: int,
        inference_world_size: int,
        timeout: int,  # noqa: ASYNC109 - how long the server waits for the others
        quantize_in_weight_transfer: bool = False,
    ) -> None:
        """See :class:`AdminAPI`. The trainer has rank 0 of the group."""
        group = WeightGroup(
            host,
            port,
            world_size=inference_world_size + 1,
            rank_offset=rank_offset + 1,
            timeout=timeout,
            options={"quantize_in_weight_transfer": quantize_in_weight_transfer},
        )
        async with self.admin(client) as admin:
            await admin.init_weight_group(group)

    def weight_update(self, weight_dir: str | None, step: int, backend: Backend | None) -> WeightUpdate:
        """The update as a backend takes it: prime-rl's server names the directory also where weights come by NCCL."""
        version = f"step_{step}"
        if weight_dir is None or (self.weight_broadcast == "nccl" and backend != "prime"):
            named = {} if weight_dir is None else {"weight_dir": weight_dir}
            return WeightUpdate(version, options=named)
        return WeightUpdate(version, path=weight_dir)


@dataclass
class _Settings:
    """What :func:`install` was told."""

    api: TitoAdminAPI = field(default_factory=TitoAdminAPI)
    rl_base_url: str | Sequence[str] | None = None
    transport: RendererTransport = "vllm_generate"


_installed = [_Settings()]
"""Of each :func:`install`, the newest last."""


def setup_admin_api(client_config: Any) -> TitoAdminAPI:
    """The :class:`AdminAPI` of a client configuration, whose ``backend`` is used if it has one.

    Of Dynamo, ``base_url`` is the frontend.
    """
    backend = getattr(client_config, "backend", None) or _api().backend
    frontend = client_config.base_url if backend == "dynamo" else None
    return TitoAdminAPI(backend, weight_broadcast=_api().weight_broadcast, openai_url=frontend)


async def discover_admin_urls(client_config: Any, *, rl_base_url: str | Sequence[str] | None = None) -> list[str]:
    """The workers behind a Dynamo frontend, where they are administered; credentials are sent to the frontend only.

    Args:
        client_config: its ``base_url`` is the frontend.
        rl_base_url: where discovery listens; None for ``client_config.rl_base_url``, that of :func:`install`, or the
            frontend's host with port ``DYN_RL_PORT`` (8001).

    Raises:
        AdminError: discovery failed, or lists no worker or a broken one.
    """
    chosen = rl_base_url or getattr(client_config, "rl_base_url", None) or _installed[-1].rl_base_url
    async with await discover_workers(
        client_config.base_url, rl_base_url=chosen, **_credentials(client_config)
    ) as found:
        return [url for worker in found if (url := worker.system_url) is not None]


def setup_admin_clients(client_config: Any) -> list[Any]:
    """One ``httpx.AsyncClient`` for each server, as prime-rl's function of this name.

    Servers are those of ``admin_base_url``; of Dynamo, without it, those that discovery lists; else ``base_url``.
    """
    if client_config.admin_base_url or setup_admin_api(client_config).backend != "dynamo":
        given = client_config.admin_base_url or [client_config.base_url]
        return [_http_client(url, _credentials(client_config)) for url in given]
    with ThreadPoolExecutor(1) as thread:  # their function is called where a loop may run
        urls = thread.submit(lambda: asyncio.run(discover_admin_urls(client_config))).result()
    return [_http_client(url, {}) for url in urls]


async def maybe_check_has_model(admin_clients: list[Any], model_name: str, skip_model_check: bool = False) -> None:  # noqa: FBT001, FBT002 - their signature
    """Raise ValueError unless every server serves the model. Dynamo's workers list no models and are not asked."""
    if skip_model_check or _api().backend == "dynamo":
        return
    for client in admin_clients:
        if model_name not in await _api().list_models(client):
            raise ValueError(f"Model {model_name} was not found in the inference pool on {client.base_url}")


async def update_weights(
    admin_clients: list[Any], weight_dir: Path | None, lora_name: str | None = None, step: int = 0
) -> None:
    """Give every server new weights, as prime-rl's function of this name, or say which have them.

    All are paused, ``NCCL_READY`` is written, all load, and each is checked. Caches are kept: prime-rl salts them by
    version.

    Raises:
        AdminError: not every server holds the new weights. Its results say which; those that do have resumed, and the
            others stay paused.
    """
    if lora_name is not None and weight_dir is not None:
        await load_lora_adapter(admin_clients, lora_name, weight_dir)
        return

    def ready() -> None:
        if weight_dir is not None:
            weight_dir.mkdir(parents=True, exist_ok=True)
            (weight_dir / NCCL_READY).touch()

    async with _fleet(admin_clients) as (fleet, backend):
        update = _api().weight_update(_text(weight_dir), step, backend)
        await fleet.update_weights(
            step if update.path is None else update.path,
            version=update.version,
            options=update.options,
            flush=False,
            before_update=ready,
            check_files=False if _api().weight_broadcast == "nccl" else None,
        )


async def load_lora_adapter(admin_clients: list[Any], lora_name: str, lora_path: Path) -> None:
    """Load an adapter on every server under one name, and check that each lists it.

    Raises:
        AdminError: not every server holds it.
    """
    async with _fleet(admin_clients) as (fleet, _):
        await fleet.load_lora(lora_name, _absolute(lora_path), versioned=False)


async def init_nccl_broadcast(
    admin_clients: list[Any],
    host: str,
    port: int,
    timeout: int,  # noqa: ASYNC109 - how long servers wait for each other
    inference_world_size: int | None = None,
    quantize_in_weight_transfer: bool = False,  # noqa: FBT001, FBT002 - their signature
) -> None:
    """Join every server to the trainer's process group, with as many ranks each.

    Raises:
        ValueError: the ranks cannot be shared equally; nothing was sent.
        ServerError, TransportError: a server did not join.
    """
    ranks = len(admin_clients) if inference_world_size is None else inference_world_size
    each, rest = divmod(ranks, len(admin_clients))
    if rest or not each:
        raise ValueError(f"{ranks} ranks cannot be shared equally by {len(admin_clients)} servers")
    await asyncio.gather(
        *(
            _api().init_broadcaster(
                client,
                host=host,
                port=port,
                rank_offset=number * each,
                inference_world_size=ranks,
                timeout=timeout,
                quantize_in_weight_transfer=quantize_in_weight_transfer,
            )
            for number, client in enumerate(admin_clients)
        )
    )


async def prefill_logprobs(
    openai: Any, model: str, token_ids: list[int], *, transport: RendererTransport | None = None
) -> list[float]:
    """The log-probability of each token given those before it, as prime-rl's function of this name.

    Args:
        openai: an ``AsyncOpenAI``, or an :class:`dynamo_tito.AsyncTitoClient` of the model.
        model: the teacher's name.
        token_ids: the sequence [N].
        transport: the route; None is that of :func:`install`, or of an ``AsyncTitoClient``.

    Returns:
        N floats, the first 0.0, because nothing scores it.

    Raises:
        DecodeError: the answer misses positions or scores other tokens.
        openai.OpenAIError: the server answered with an error, or no answer came.
    """
    if isinstance(openai, AsyncTitoClient):
        scores = await openai.score(token_ids, transport=transport)
    else:
        scores = await score(openai, model, token_ids, transport or _installed[-1].transport)
    values: list[float] = scores.logprobs.tolist()
    return [0.0 if number == 0 and math.isnan(value) else value for number, value in enumerate(values)]


_REPLACED = (
    "init_nccl_broadcast",
    "load_lora_adapter",
    "maybe_check_has_model",
    "prefill_logprobs",
    "setup_admin_clients",
    "update_weights",
)


class Installed:
    """Functions of ``prime_rl.utils.client`` are replaced until :meth:`uninstall`, or until this is left."""

    def __init__(self, module: Any, settings: _Settings) -> None:
        self._module, self._own = module, settings
        self._before = {name: getattr(module, name) for name in _REPLACED}
        _installed.append(settings)
        for name in _REPLACED:
            setattr(module, name, globals()[name])

    def uninstall(self) -> None:
        """Put back what was there. Calling it again does nothing.

        Raises:
            RuntimeError: it was installed again since.
        """
        if not self._before:
            return
        if _installed[-1] is not self._own:
            raise RuntimeError("it was installed again since: undo that first")
        _installed.pop()
        for name, before in self._before.items():
            setattr(self._module, name, before)
        self._before = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.uninstall()


def install(
    *,
    backend: Backend | None = None,
    weight_broadcast: WeightBroadcast = "filesystem",
    rl_base_url: str | Sequence[str] | None = None,
    transport: RendererTransport | None = None,
) -> Installed:
    """Replace the functions of ``prime_rl.utils.client`` that this module has.

    Call it before ``prime_rl.orchestrator`` is imported, which takes ``init_nccl_broadcast`` by name.

    Args:
        backend: what the servers are; None to ask each.
        weight_broadcast: how weights come: as files, or by collective.
        rl_base_url: where Dynamo's discovery listens.
        transport: the route of :func:`prefill_logprobs`; None is ``"dynamo_chat"`` for Dynamo, else
            ``"vllm_generate"``, or ``"sglang_generate"`` for SGLang.

    Raises:
        ImportError: prime-rl is not installed.
    """
    routes: dict[str | None, RendererTransport] = {"dynamo": "dynamo_chat", "sglang": "sglang_generate"}
    module = framework("prime_rl.utils.client", extra="prime-rl", install="install prime-rl from its repository")
    api = TitoAdminAPI(backend, weight_broadcast=weight_broadcast)
    return Installed(module, _Settings(api, rl_base_url, transport or routes.get(backend, "vllm_generate")))


def _api() -> TitoAdminAPI:
    return _installed[-1].api


@contextlib.asynccontextmanager
async def _fleet(admin_clients: list[Any]) -> AsyncIterator[tuple[Fleet, Backend | None]]:
    """The servers as one fleet. Weights may be the same as before: a resumed run loads them again."""
    urls = [_url(client) for client in admin_clients]
    async with _api().admin(admin_clients[0]) as admin:
        backend = _backend_of(admin)
    fleet = await Fleet.connect(
        urls,
        backend=backend,
        admin_base_url=urls,
        canary=Canary(expect_change=False),
        **_options(admin_clients[0]),
    )
    async with fleet:
        yield fleet, backend


def _backend_of(admin: AdminApi) -> Backend | None:
    return getattr(admin, "backend", None)


def _url(client: Any) -> str:
    return str(client.base_url).rstrip("/")


def _text(path: str | os.PathLike[str] | None) -> str | None:
    return None if path is None else _absolute(path)


def _absolute(path: str | os.PathLike[str]) -> str:
    return str(Path(path).absolute())


def _options(client: Any) -> HttpOptions:
    """The headers that a client was made with."""
    own = {name: value for name, value in client.headers.items() if name.lower() not in _LIBRARY_HEADERS}
    return {"headers": own} if own else {}


def _credentials(client_config: Any) -> HttpOptions:
    named = {name: os.environ.get(variable) for name, variable in client_config.headers_from_env.items()}
    headers = {**client_config.headers, **{name: value for name, value in named.items() if value is not None}}
    key = os.environ.get(client_config.api_key_var)
    if key and key != "EMPTY":
        headers["Authorization"] = f"Bearer {key}"
    return {"headers": headers} if headers else {}


def _http_client(url: str, options: HttpOptions) -> Any:
    """As prime-rl makes it: a small pool of its own, no timeout."""
    import httpx  # noqa: PLC0415 - what prime-rl passes around; nothing else needs it here

    return httpx.AsyncClient(
        base_url=url.rstrip("/").removesuffix("/v1"),
        headers=options.get("headers"),
        limits=httpx.Limits(max_connections=4, max_keepalive_connections=1),
        timeout=httpx.Timeout(None),
    )
