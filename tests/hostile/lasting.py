"""Arrays that outlive the response, the package and the pool; ``test_processes`` runs it."""

from __future__ import annotations

import gc
import sys

import numpy as np

from support.bodies import DIALECTS
from support.samples import invent
from support.writing import compact

LATE: list[object] = []


def main() -> None:
    import dynamo_tito as tito  # noqa: PLC0415 - so that nothing else refers to it

    sample = invent(51, prompt=512, completion=20_000, layers=4, top_k=8)
    assert sample.experts is not None
    body = bytearray(compact(DIALECTS["prime_generate"].build([sample], "object")))
    grown = tito.Body()
    grown.append(body)
    completions = [tito.decode(form, wire="vllm_generate") for form in (bytes(body), grown, body)]
    arrays = [
        (c.token_ids, c.logprobs, c.routed_experts.array[100:])
        for c in completions
        if c.routed_experts and c.logprobs is not None
    ]
    assert len(arrays) == 3
    body[:] = bytes(len(body))
    tito.configure_memory(max_bytes=0)
    tito.trim_memory()
    del completions, grown, body, tito
    for name in [name for name in sys.modules if name.startswith("dynamo_tito")]:
        del sys.modules[name]
    gc.collect()
    for ids, logprobs, experts in arrays:
        assert np.array_equal(ids, sample.tokens)
        assert np.array_equal(logprobs, sample.logprobs)
        assert np.array_equal(experts, sample.experts[100:])
        experts[...] = 7
    LATE.append(arrays)  # freed when the interpreter has gone
    print("all there")


if __name__ == "__main__":
    main()
