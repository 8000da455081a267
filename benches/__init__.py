"""Measurements, run from the root of the checkout: ``python -m benches.NAME``. They build bodies with tests/support."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
