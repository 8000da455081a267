"""A plugin of pytest: the suite that is run sees this library in place of what it tests."""

from __future__ import annotations

import importlib.util

from dynamo_tito.integrations import renderers

renderers.install()
if importlib.util.find_spec("verifiers") is not None:
    from dynamo_tito.integrations import verifiers

    verifiers.install()
if importlib.util.find_spec("prime_rl") is not None:
    from dynamo_tito.integrations import prime_rl

    prime_rl.install()
