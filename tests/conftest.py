"""Settings for every test."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# A slow machine must not fail a test: no deadline, and pytest-timeout bounds the whole.
settings.register_profile("tito", deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tito")
