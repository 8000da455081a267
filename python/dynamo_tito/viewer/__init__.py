"""One self-contained page that shows what was sampled: tokens, log-probabilities, routing, and two scorings compared.

page = tito.view(sample, tokenizer="tokenizer.json")
page.save("rollout.html")
"""

from __future__ import annotations

from .build import view
from .files import load
from .page import Page

__all__ = ["Page", "load", "view"]
