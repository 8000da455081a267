"""Find the workers of a policy, and give all of them new weights.

Example::

    fleet = await Fleet.connect("http://frontend:8000", backend="dynamo", model="m")
    result = await fleet.update_weights("/shared/weights/step_7")
"""

from __future__ import annotations

from types import FunctionType

from dynamo_tito.weights import WeightPublisher

from .admin import AdminApi, DynamoAdmin, PrimeVllmAdmin, SglangAdmin, VllmAdmin, detect_backend, make_admin
from .discovery import Workers, discover_workers
from .doctor import Diagnosis, Finding, examine
from .fleet import Canary, Fleet, WatchReport
from .http import HttpOptions
from .types import (
    Changes,
    FleetLimits,
    FleetResult,
    Identity,
    PauseMode,
    Phase,
    PhaseLimit,
    Policy,
    VerifiedBy,
    WeightGroup,
    WeightUpdate,
    Worker,
    WorkerResult,
    WorkerState,
)

__all__ = [
    "AdminApi",
    "Canary",
    "Changes",
    "Diagnosis",
    "DynamoAdmin",
    "Finding",
    "Fleet",
    "FleetLimits",
    "FleetResult",
    "HttpOptions",
    "Identity",
    "PauseMode",
    "Phase",
    "PhaseLimit",
    "Policy",
    "PrimeVllmAdmin",
    "SglangAdmin",
    "VerifiedBy",
    "VllmAdmin",
    "WatchReport",
    "WeightGroup",
    "WeightPublisher",
    "WeightUpdate",
    "Worker",
    "WorkerResult",
    "WorkerState",
    "Workers",
    "detect_backend",
    "discover_workers",
    "examine",
    "make_admin",
]

# A public address for each, whichever file it lives in; the publisher's too.
for _name in __all__:
    if isinstance(globals()[_name], type | FunctionType):
        globals()[_name].__module__ = __name__
del _name
