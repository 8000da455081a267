"""Find the workers of a policy, and change their weights without leaving one behind.

>>> fleet = await Fleet.connect("http://frontend:8000", backend="dynamo", model="m")  # doctest: +SKIP
>>> result = await fleet.update_weights("/shared/weights/step_7")  # doctest: +SKIP
"""

from __future__ import annotations

from ._canary import Canary
from ._http import HttpOptions
from ._types import (
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
from .admin import AdminApi, DynamoAdmin, PrimeVllmAdmin, SglangAdmin, VllmAdmin, detect_backend, make_admin
from .discovery import Workers, discover_workers
from .doctor import Diagnosis, Finding, examine
from .fleet import Fleet
from .watch import WatchReport
from .weights import WeightPublisher

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
