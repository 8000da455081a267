"""The administration of one worker: one protocol, one file per backend."""

from __future__ import annotations

from .base import AdminApi, HttpAdmin
from .detect import detect_backend, make_admin
from .dynamo import DynamoAdmin
from .sglang import SglangAdmin
from .vllm import PrimeVllmAdmin, VllmAdmin

__all__ = [
    "AdminApi",
    "DynamoAdmin",
    "HttpAdmin",
    "PrimeVllmAdmin",
    "SglangAdmin",
    "VllmAdmin",
    "detect_backend",
    "make_admin",
]
