"""Dynamo's system server with the vLLM worker's own adapter handlers; the engine behind them is a stand-in.

The handlers are methods of a class in ``dynamo/vllm/handlers.py``, which imports vLLM. They are taken out of the
installed file and compiled alone. The stand-in keeps the first adapter of an id, as vLLM's cache does.

    adapters.py        with DYN_SYSTEM_PORT and the discovery settings of ``tests/support/dynamo_stack.py``
"""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import logging
import signal
import sys
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop


@dataclass
class LoRARequest:
    """What the handlers import from vLLM."""

    lora_name: str
    lora_int_id: int
    lora_path: str


for name in ("vllm", "vllm.lora", "vllm.lora.request"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["vllm.lora.request"].LoRARequest = LoRARequest  # type: ignore[attr-defined]

from dynamo.common import rl  # noqa: E402 - after the stand-in for vLLM
from dynamo.common.lora import manager  # noqa: E402
from dynamo.common.utils.runtime import create_runtime  # noqa: E402
from dynamo.llm import lora_name_to_id  # noqa: E402

HANDLERS = {
    "load_lora", "unload_lora", "list_loras", "_get_lora_lock", "_parse_lora_unload_request",
    "_resolve_lora_source_path", "_is_lora_not_loaded_error", "pause_generation", "resume_generation", "flush_cache",
}  # fmt: skip


def worker_folder() -> Path:
    """Where the installed package keeps its vLLM worker."""
    spec = importlib.util.find_spec("dynamo.common")
    assert spec is not None and spec.origin is not None  # noqa: PT018, S101 - the package is installed
    return Path(spec.origin).parents[1] / "vllm"


def state_module(folder: Path) -> Any:
    """The worker's record of adapters."""
    spec = importlib.util.spec_from_file_location("lora_state", folder / "lora_state.py")
    assert spec is not None and spec.loader is not None  # noqa: PT018, S101 - the file is there
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def own_handlers(folder: Path) -> type:
    """A class of the worker's own methods, as installed."""
    tree = ast.parse((folder / "handlers.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            methods = [each for each in node.body if getattr(each, "name", None) in HANDLERS]
            if len(methods) == len(HANDLERS):
                break
    else:
        raise SystemExit(f"no class of {folder / 'handlers.py'} has {', '.join(sorted(HANDLERS))}")
    module = ast.Module([ast.ClassDef("Handlers", [], [], methods, [])], [])
    names = {
        **vars(typing), **vars(rl), **vars(manager), "asyncio": asyncio, "logger": logging.getLogger("handlers"),
        "lora_name_to_id": lora_name_to_id, "LoRARequest": LoRARequest,
        "EngineDeadError": type("EngineDeadError", (Exception,), {}),
    }  # fmt: skip
    exec(compile(ast.fix_missing_locations(module), "handlers.py", "exec"), names)  # noqa: S102 - the installed code
    found = names["Handlers"]
    assert isinstance(found, type)  # noqa: S101 - made above
    return found


class Engine:
    """The calls of vLLM's engine that the handlers make."""

    def __init__(self) -> None:
        self.held: dict[int, str] = {}

    async def add_lora(self, request: LoRARequest) -> None:
        """Keep the adapter, unless its id is taken."""
        if not await asyncio.to_thread(Path(request.lora_path).is_dir):
            raise ValueError(f"no adapter at {request.lora_path}")
        self.held.setdefault(request.lora_int_id, request.lora_path)

    async def remove_lora(self, number: int) -> None:
        """Drop an adapter."""
        self.held.pop(number, None)

    async def pause_generation(self, **_: Any) -> None:
        """Nothing is generated."""

    async def resume_generation(self) -> None:
        """Nothing is generated."""

    async def reset_prefix_cache(self, *_: Any, **__: Any) -> bool:
        """There is no cache."""
        return True


async def main() -> None:
    """Serve until SIGTERM."""
    runtime, loop = create_runtime("file", "tcp", "zmq")
    folder = worker_folder()
    state = state_module(folder)

    class Worker(own_handlers(folder)):  # type: ignore[misc]
        def __init__(self) -> None:
            self._lora_state, self._engine_loaded_loras = state.LoRAState(), set[int]()
            self._lora_capacity_guard, self._pause_lock, self._paused = asyncio.Lock(), asyncio.Lock(), False
            self.engine_client, self.generate_endpoint = Engine(), object()

        def _preload_lora_into_engine(self) -> bool:
            return True

        async def _register_lora_discovery(self, *_: Any) -> None:
            pass

        async def _unregister_lora_discovery(self, *_: Any) -> None:
            pass

        async def liveness_probe(self, _: Any) -> dict[str, Any]:
            return {"status": "ok", "alive": True}

        async def get_weight_version(self, _: Any) -> dict[str, Any]:
            return {"status": "ok", "version": None, "version_declared": False}

        async def held(self, _: Any) -> dict[str, Any]:
            loaded = self._lora_state.loaded_loras.items()
            paths = {name: self.engine_client.held.get(info.id) for name, info in loaded}
            return {"status": "ok", "paths": paths, "paused": self._paused}

    worker = Worker()
    registry = rl.RLRouteRegistry(runtime, logger_=logging.getLogger("routes"), world_size=1)
    names = ("liveness_probe", "get_weight_version", "pause_generation", "resume_generation", "flush_cache", "held")
    routes: dict[str, Any] = {name: getattr(worker, name) for name in names}

    async def load(body: Any) -> Any:
        return await rl.first_endpoint_response(worker.load_lora, body)

    async def unload(body: Any) -> Any:
        return await rl.first_endpoint_response(worker.unload_lora, body)

    routes |= {"load_lora": load, "unload_lora": unload}
    rl.register_rl_routes(runtime, registry, routes, enable_dispatch=True)
    served = [
        runtime.endpoint(f"dynamo.backend.{name}").serve_endpoint(getattr(worker, name))
        for name in ("load_lora", "unload_lora", "list_loras")
    ]
    loop.add_signal_handler(signal.SIGTERM, runtime.shutdown)
    await asyncio.gather(*served)


if __name__ == "__main__":
    uvloop.run(main())
