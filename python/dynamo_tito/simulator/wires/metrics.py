"""``GET /metrics`` in Prometheus' text form: what runs, and how many tokens were sampled.

vLLM's names are those of its ``v1/metrics/loggers.py`` (a Dynamo worker's system server passes them on), SGLang's those
of its ``metrics/collector.py``.
"""

from __future__ import annotations

from dynamo_tito.simulator.core import Core
from dynamo_tito.simulator.response import Response

__all__ = ["metrics"]

_NAMES = {
    "vllm": ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:generation_tokens_total"),
    "sglang": ("sglang:num_running_reqs", "sglang:num_queue_reqs", "sglang:generation_tokens_total"),
}


def metrics(core: Core, server: str) -> Response:
    """The answer of this server; requests that wait for the end of a pause are not counted."""
    running, waiting, tokens = _NAMES[server]
    values = {running: ("gauge", core.admin.in_flight), waiting: ("gauge", 0), tokens: ("counter", core.total_tokens)}
    lines = []
    for name, (kind, value) in values.items():
        lines += [
            f"# TYPE {name.removesuffix('_total')} {kind}",
            f'{name}{{model_name="{core.config.model}"}} {value}.0',
        ]
    return Response(200, "\n".join([*lines, ""]).encode(), "text/plain; version=0.0.4")
