"""Multi-turn rollouts: tokens, log-probabilities, masks and routing that never drift apart.

from dynamo_tito.rollout import Rollout

rollout = Rollout(renderer)
turn = await rollout.step(client, messages)
sample = rollout.sample()
"""

from __future__ import annotations

from dynamo_tito._routing_report import RoutingChecks, RoutingReport, routing_report

from .asking import FullRequest, Request
from .bridge import Parsed, ParsedCall, Rendered, Renderer, ServerRenderer
from .plan import Drift, DriftKind, OnDrift
from .rollout import Rollout
from .routing import FinalRowPolicy
from .sample import TrainingSample, TurnSpan
from .segments import Segment, WeightSpan
from .single import sample_of
from .tree import Turn

__all__ = [
    "Drift",
    "DriftKind",
    "FinalRowPolicy",
    "FullRequest",
    "OnDrift",
    "Parsed",
    "ParsedCall",
    "Rendered",
    "Renderer",
    "Request",
    "Rollout",
    "RoutingChecks",
    "RoutingReport",
    "Segment",
    "ServerRenderer",
    "TrainingSample",
    "Turn",
    "TurnSpan",
    "WeightSpan",
    "routing_report",
    "sample_of",
]

# A public address for each class, whichever file it lives in.
for _name in __all__:
    if isinstance(globals()[_name], type):
        globals()[_name].__module__ = __name__
del _name
