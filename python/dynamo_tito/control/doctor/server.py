"""What a server says of itself: its version, and where its sampling starts from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from dynamo_tito._errors import TitoError

if TYPE_CHECKING:
    from dynamo_tito._config import Backend
    from dynamo_tito.control.http import Server

    from .findings import Verdict

_NEUTRAL = "the clients send neutral values for what the caller leaves open"
_UNSEEN = "cannot be seen: no route tells the model's generation_config"
_OWN_ROUTE = "/inference/v1/generate does not start from the model's generation_config, the chat route does"
#: Routes whose answer has a member ``version``. Dynamo has none.
_VERSIONS: dict[Backend, tuple[str, ...]] = {
    "vllm": ("/version",),
    "prime": ("/version",),
    "sglang": ("/server_info", "/get_server_info"),
    "dynamo": (),
}


async def version_of(server: Server, backend: Backend) -> tuple[str, str] | None:
    """The version and the route that has it; None where no route has it."""
    for path in _VERSIONS[backend]:
        version = (await _asked(server, path)).get("version")
        if isinstance(version, str):
            return version, path
    return None


async def sampling_defaults(server: Server, backend: Backend) -> tuple[Verdict, str]:
    """Which sampling parameters apply that the caller did not give, where the server shows them."""
    match backend:
        case "sglang":
            return await _of_sglang(server)
        case "vllm" | "prime":
            return await _of_vllm(server)
        case _:
            return "note", f"{_UNSEEN}, from which the routes chat and completions start; {_NEUTRAL}"


async def _of_vllm(server: Server) -> tuple[Verdict, str]:
    """``/server_info`` of vLLM's development mode has its configuration, not the content of the file that it names."""
    info = await _asked(server, "/server_info", {"config_format": "json"})
    config = _member(_member(info, "vllm_config"), "model_config")
    if "generation_config" not in config:
        return "note", f"{_UNSEEN}. {_OWN_ROUTE}; {_NEUTRAL}"
    source, over = config["generation_config"], config.get("override_generation_config") or {}
    shown = f"generation_config {_shown(source)}, overridden by {_shown(over)}. {_OWN_ROUTE}"
    # "vllm" is vLLM's word for its own neutral defaults.
    return ("ok", shown) if source == "vllm" and not over else ("note", f"{shown}; {_NEUTRAL}")


async def _of_sglang(server: Server) -> tuple[Verdict, str]:
    model = await _asked(server, "/model_info")
    if "preferred_sampling_params" not in model:
        return "note", f"cannot be seen: /model_info holds no preferred_sampling_params; {_NEUTRAL}"
    preferred = model["preferred_sampling_params"]
    if not preferred:
        return "ok", "none: preferred_sampling_params is not set"
    return "note", f"preferred_sampling_params {_shown(preferred)} apply to what the caller leaves open"


async def _asked(server: Server, path: str, query: dict[str, str] | None = None) -> dict[str, Any]:
    """A route's object; empty where there is none."""
    try:
        answer = await server.json("GET", path, query=query)
    except TitoError:
        return {}
    return answer if isinstance(answer, dict) else {}


async def embedded_rl_url(server: Server) -> str | None:
    """Where the discovery of an embedded engine listens; None on any other server."""
    url = (await _asked(server, "/dynamo_tito/engine")).get("rl_url")
    return url if isinstance(url, str) else None


def _member(value: Any, key: str) -> dict[str, Any]:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def _shown(value: Any) -> str:
    return json.dumps(value, separators=(", ", ": "))
