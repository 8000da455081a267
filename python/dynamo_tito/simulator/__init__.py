"""An inference server without a model, for development and tests.

It speaks every wire that `decode` reads, in the dialects and with the quirks of the servers, answers discovery and
administration, and fails on request. It is deterministic: tokens, log-probabilities and routing are a function of the
seed, the weight version and the tokens before them. It records what was sampled, so a test can compare token by token:

    with simulator.running(backend="dynamo", prompt_start="trim") as engine:
        ...
        truth = engine.last.samples[0]
        truth.token_ids, truth.logprobs, truth.routed_experts

It streams where the servers do. A test holds the streams (`engine.pace.hold(after=3)`) and lets them go step by step
(`engine.pace.step()`); `Record.outcome` and `Record.tokens_sent` say how each ended and how far it got.
"""

from __future__ import annotations

from .calls import Record
from .config import Backend, DynamoVersion, EngineConfig, PromptStart, VllmVersion
from .engine import Engine, running, serve
from .faults import Fault, FaultKind, Phase
from .model import Sample

__all__ = [
    "Backend",
    "DynamoVersion",
    "Engine",
    "EngineConfig",
    "Fault",
    "FaultKind",
    "Phase",
    "PromptStart",
    "Record",
    "Sample",
    "VllmVersion",
    "running",
    "serve",
]
