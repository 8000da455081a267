"""The servers that the embedded engine can be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .dynamo import DynamoApp
from .dynamo_admin import DiscoveryApp, SystemApp
from .prime import PrimeApp
from .sglang import SglangApp
from .vllm import VllmApp

if TYPE_CHECKING:
    from dynamo_tito.simulator.calls import App
    from dynamo_tito.simulator.engine import Engine

__all__ = ["apps_of"]


def apps_of(engine: Engine) -> dict[str, App]:
    """The listeners of the engine's backend, by name; `main` is where clients talk to."""
    match engine.config.backend:
        case "dynamo":
            return {"main": DynamoApp(engine), "rl": DiscoveryApp(engine), "system": SystemApp(engine)}
        case "vllm":
            return {"main": VllmApp(engine)}
        case "prime":
            return {"main": PrimeApp(engine)}
        case "sglang":
            return {"main": SglangApp(engine)}
