"""Sampling parameters that the caller leaves open.

Servers fill them from the model's ``generation_config.json`` (``temperature``, ``top_p``, ``top_k``, ``min_p``,
``repetition_penalty``) or from a server's flag, and no answer says so:

- Dynamo 1.6.1 and 1.7 on chat and completions, where the worker starts from them (``dynamo/vllm/handlers.py``; except
  chat with ``--enable-rl``), and vLLM on its chat routes;
- vLLM's Rust frontend on every route, ``/inference/v1/generate`` included (``rust/src/text/src/lower.rs``); vLLM's
  Python server and Dynamo take none there;
- SGLang on ``/generate`` from ``--preferred-sampling-params`` (``tokenizer_manager.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .call import Call

_NEUTRAL: Mapping[str, float] = {
    "temperature": 1.0,
    "top_p": 1.0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}

TOP_K_OFF = -1
"""``top_k`` of Dynamo's chat and completions and of SGLang. SGLang refuses 0."""

TOP_K_ALL = 0
"""``top_k`` of vLLM. Its Rust frontend takes no negative number."""


def with_neutral(params: Mapping[str, Any], call: Call, *, top_k: int) -> dict[str, Any]:
    """``params``, and neutral values for what they leave open or give as None.

    A temperature of 0 stays. With it neutral values change nothing, but a penalty of the model would.

    Args:
        params: sampling parameters under the names that all servers share.
        call: says whether the model's defaults are wanted instead.
        top_k: how the server spells "off".
    """
    if call.sampling_defaults == "model":
        return dict(params)
    neutral = {**_NEUTRAL, "top_k": top_k}
    return {**params, **{name: value for name, value in neutral.items() if params.get(name) is None}}
