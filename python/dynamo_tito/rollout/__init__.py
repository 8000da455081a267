"""Multi-turn rollouts: tokens, log-probabilities, masks and routing that never drift apart.

from dynamo_tito.rollout import Rollout

rollout = Rollout(renderer)
turn = await rollout.step(client, messages)
sample = rollout.sample()
"""

from __future__ import annotations

from dynamo_tito._routing_report import RoutingChecks, RoutingReport, routing_report

from .bridge import Parsed, ParsedCall, Rendered, Renderer, ServerRenderer
from .rollout import Drift, DriftKind, OnDrift, Request, Rollout
from .routing import FinalRowPolicy
from .sample import TrainingSample, TurnSpan, WeightSpan
from .tree import Turn

__all__ = [
    "Drift",
    "DriftKind",
    "FinalRowPolicy",
    "OnDrift",
    "Parsed",
    "ParsedCall",
    "Rendered",
    "Renderer",
    "Request",
    "Rollout",
    "RoutingChecks",
    "RoutingReport",
    "ServerRenderer",
    "TrainingSample",
    "Turn",
    "TurnSpan",
    "WeightSpan",
    "routing_report",
]
