"""Counters and spans of the clients' calls over OpenTelemetry's API (extra ``dynamo-tito[otel]``).

Names are those of the semantic conventions for generative AI (1.43, in development) where they have one, else they
begin with ``dynamo_tito``. ``docs/observability.md`` lists all of them.
"""

from __future__ import annotations

from .instrumentation import Instrumentation, instrument

__all__ = ["Instrumentation", "instrument"]
