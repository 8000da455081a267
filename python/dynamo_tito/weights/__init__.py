"""Weights on a shared file system: published by a trainer, checked before workers load them. No HTTP."""

from __future__ import annotations

from .publisher import WeightPublisher

__all__ = ["WeightPublisher"]
