"""The servers that the embedded engine can be."""

from __future__ import annotations

from dynamo_tito.simulator.app import App
from dynamo_tito.simulator.core import Core

from .dynamo import DynamoApp
from .dynamo_admin import DiscoveryApp, SystemApp
from .prime import PrimeApp
from .sglang import SglangApp
from .vllm import VllmApp

__all__ = ["apps_of"]


def apps_of(engine: Core) -> dict[str, App]:
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
