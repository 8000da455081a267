"""``verifiers`` 0.4.0 and later: its ``TrainClient`` over this library.

>>> from dynamo_tito.integrations import verifiers
>>> verifiers.install(renderer_transport="dynamo_chat")  # doctest: +SKIP

Their client renders, bridges turns and fills the trace; the request travels and the answer is read by this library.
Routed experts reach the trace as the text that they are on the wire, which verifiers decodes once for each turn.
Tokens, log-probabilities and masks are the arrays of the installed version, so that its traces travel as before.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from dynamo_tito._client import AsyncTitoClient
from dynamo_tito._config import CONNECT_TIMEOUT, HttpLibrary, RendererTransport

from . import renderers
from ._frameworks import framework

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Installed", "TrainClient", "TrainClientConfig", "install"]

_MAX_CONCURRENCY = 1000

if TYPE_CHECKING:
    TrainClient: Any
    TrainClientConfig: Any


def __getattr__(name: str) -> Any:
    """The classes, which derive from those of verifiers, when they are used."""
    if name in ("TrainClient", "TrainClientConfig"):
        return _classes()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@functools.cache
def _classes() -> dict[str, Any]:
    configs = framework("verifiers.v1.configs.client", extra="verifiers")
    their_config: Any = configs.TrainClientConfig
    their_client: Any = framework("verifiers.v1.clients.train", extra="verifiers").TrainClient

    class TrainClientConfig(their_config):
        """Their configuration, with the route and the HTTP engine.

        Attributes:
            renderer_transport: the route: ``"vllm_generate"`` (vLLM, prime-rl's server, Dynamo) or ``"dynamo_chat"``.
            http: what moves the bytes. To keep theirs, use :func:`dynamo_tito.integrations.renderers.install` alone.
            require_routed_experts: refuse an answer without one row of routed experts for each position.
            num_layers: to read SGLang's routed experts, whose shape is not sent.
            top_k: likewise.
        """

        renderer_transport: RendererTransport = "vllm_generate"
        http: HttpLibrary = "native"
        require_routed_experts: bool = False
        num_layers: int | None = None
        top_k: int | None = None

    class TrainClient(their_client):
        """Their client for training, over :class:`dynamo_tito.AsyncTitoClient`.

        A request is sampled at most once. The client serves one event loop.

        Args:
            config: a :class:`TrainClientConfig`, or theirs with the defaults of :func:`install`. Of their timeouts
                ``connect`` limits one connection and ``read`` the whole call.
        """

        defaults: ClassVar[Mapping[str, Any]] = {}

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            chosen = {**TrainClientConfig.model_construct().model_dump(include=_OPTIONS), **self.defaults}
            if isinstance(config, TrainClientConfig):
                chosen |= {name: getattr(config, name) for name in _OPTIONS if name in config.model_fields_set}
            self._theirs: Any = vars(self)["client"]
            connect, read = config.timeout.connect, config.timeout.read
            self.client = AsyncTitoClient(
                config.base_url,
                model=None,
                transport=chosen["renderer_transport"],
                http=chosen["http"],
                timeout=read,
                connect_timeout=CONNECT_TIMEOUT if connect is None else connect,
                max_concurrency=_MAX_CONCURRENCY,
                api_key=configs.resolve_api_key(config),
                headers=configs.resolve_headers(config),
                retries=None,
                trust_env=True,
                require_routed_experts=chosen["require_routed_experts"],
                num_layers=chosen["num_layers"],
                top_k=chosen["top_k"],
            )

        async def get_response(self, *args: Any, **kwargs: Any) -> Any:
            """Theirs, which calls ``renderers.client.generate``: from here on that is this library's."""
            renderers.ensure_installed()
            return await super().get_response(*args, **kwargs)

        async def close(self) -> None:
            """Close the connections."""
            await self.client.aclose()
            await self._theirs.close()

    made = {"TrainClient": TrainClient, "TrainClientConfig": TrainClientConfig}
    for name, one in made.items():
        one.__qualname__ = name  # where pickle finds it
    return made


class Installed:
    """Their ``TrainClient`` is replaced until this is left as a context manager, or :meth:`uninstall` is called."""

    def __init__(self, replacement: type) -> None:
        modules = [
            framework(name, extra="verifiers") for name in ("verifiers.v1.clients.train", "verifiers.v1.clients")
        ]
        self._before = [(module, module.TrainClient) for module in modules]
        for module, _ in self._before:
            module.TrainClient = replacement

    def uninstall(self) -> None:
        """Put back what was there. Clients that were made stay what they are. Calling it again does nothing."""
        for module, before in self._before:
            module.TrainClient = before
        self._before = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.uninstall()


def install(**defaults: Any) -> Installed:
    """Make ``verifiers.v1.clients.resolve_client`` give every training configuration a :class:`TrainClient`.

    Call it in each process that runs environments.

    Args:
        **defaults: fields of :class:`TrainClientConfig` for configurations of theirs: ``renderer_transport``, ``http``,
            ``require_routed_experts``, ``num_layers``, ``top_k``.

    Raises:
        TypeError: an argument that is none of these.
    """
    unknown = defaults.keys() - _OPTIONS
    if unknown:
        raise TypeError(f"install() takes no {', '.join(sorted(unknown))}")
    ours = _classes()["TrainClient"]
    return Installed(type("TrainClient", (ours,), {"defaults": defaults, "__doc__": ours.__doc__}))


_OPTIONS = {"renderer_transport", "http", "require_routed_experts", "num_layers", "top_k"}
