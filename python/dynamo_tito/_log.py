"""The package's one logger. It is silent until the process adds a handler to it or to the root logger."""

from __future__ import annotations

import logging

logger = logging.getLogger("dynamo_tito")
logger.addHandler(logging.NullHandler())
