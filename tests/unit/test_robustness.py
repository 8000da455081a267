"""Threads, processes, and arrays that outlive the body."""

from __future__ import annotations

import gc
import sys
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dynamo_tito as tito
from support.bodies import DIALECTS
from support.processes import run
from support.samples import invent
from support.truth import check
from support.writing import compact


def large(seed: int) -> tuple[bytes, Any]:
    sample = invent(seed, prompt=1024, completion=1024, layers=24, top_k=8, top=1)
    return compact(DIALECTS["prime_generate"].build([sample], "object")), sample


def test_threads_do_not_mix() -> None:
    cases = [large(seed) for seed in range(3)]

    def work(turn: int) -> None:
        body, sample = cases[turn % len(cases)]
        completion = tito.decode(body, wire="vllm_generate", prompt_len=1024)
        check(completion, sample, DIALECTS["prime_generate"], "object")

    with ThreadPoolExecutor(4) as pool:
        assert len([*pool.map(work, range(60))]) == 60


def test_other_threads_run_while_one_decodes() -> None:
    body, _ = large(5)
    turns = 0
    stop = threading.Event()

    def count() -> None:
        nonlocal turns
        while not stop.is_set():
            turns += 1
            time.sleep(0)  # releases the GIL, which the long interval below never requests

    interval = sys.getswitchinterval()
    counter = threading.Thread(target=count, daemon=True)
    try:
        counter.start()
        # From here on a thread runs only while another releases the GIL by itself.
        sys.setswitchinterval(1000)
        progressed = False
        for _ in range(200):
            before = turns
            tito.decode(body, wire="vllm_generate")
            progressed = turns > before
            if progressed:
                break
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        counter.join()
    assert progressed


def test_results_outlive_the_body() -> None:
    body, sample = large(6)
    completion = tito.decode(bytearray(body), wire="vllm_generate")
    for array in (completion.token_ids, completion.logprobs):
        assert array is not None
        assert not np.shares_memory(array, np.frombuffer(body, np.uint8))
    del body
    gc.collect()
    tito.trim_memory()
    check(completion, sample, DIALECTS["prime_generate"], "object")


def test_recycled_memory_is_not_in_use() -> None:
    cases = [large(seed) for seed in (7, 8)]
    kept = []
    for turn in range(12):
        body, sample = cases[turn % 2]
        completion = tito.decode(body, wire="vllm_generate")
        if turn % 3:
            kept.append((completion, sample))
        del completion
        gc.collect()
    for completion, sample in kept:
        check(completion, sample, DIALECTS["prime_generate"], "object")


def test_a_view_keeps_its_memory() -> None:
    body, sample = large(9)
    completion = tito.decode(body, wire="vllm_generate")
    assert completion.routed_experts is not None
    view = completion.routed_experts.array[100:102, 3]
    del completion
    gc.collect()
    for seed in range(3):
        tito.decode(large(10 + seed)[0], wire="vllm_generate")
    assert np.array_equal(view, sample.experts[100:102, 3])


def test_results_are_writable_and_apart() -> None:
    body, sample = large(13)
    first = tito.decode(body, wire="vllm_generate")
    second = tito.decode(body, wire="vllm_generate")
    assert first.routed_experts is not None
    for array in (first.token_ids, first.logprobs, first.routed_experts.array):
        assert array is not None
        array[...] = 0
    check(second, sample, DIALECTS["prime_generate"], "object")


def test_memory_is_given_back_on_request() -> None:
    body, _ = large(14)
    tito.decode(body, wire="vllm_generate")
    gc.collect()
    tito.trim_memory()
    assert tito.trim_memory() == 0
    assert all(isinstance(value, int) for value in tito.memory_stats().values())


def test_the_pool_can_be_bounded_and_turned_off() -> None:
    body, sample = large(17)
    bound = tito.memory_stats()["max_bytes"]
    try:
        tito.configure_memory(max_bytes=0)
        tito.decode(body, wire="vllm_generate")
        gc.collect()
        assert tito.memory_stats()["held_bytes"] == 0
        tito.configure_memory(max_bytes=bound)
        tito.decode(body, wire="vllm_generate")
        gc.collect()
        held = tito.memory_stats()["held_bytes"]
        assert 0 < held <= bound
        assert tito.trim_memory() == held
    finally:
        tito.configure_memory(max_bytes=bound)
    check(tito.decode(body, wire="vllm_generate"), sample, DIALECTS["prime_generate"], "object")


@pytest.mark.parametrize(("bound", "error"), [(-1, (ValueError, OverflowError)), (1.5, TypeError), ("1", TypeError)])
def test_a_bound_that_does_not_fit(bound: Any, error: Any) -> None:
    with pytest.raises(error):
        tito.configure_memory(max_bytes=bound)


def test_a_forked_process_decodes() -> None:
    # In a separate process: forking one with threads is deprecated, and pytest may have some.
    done = run(str(Path(__file__).with_name("forking.py")))
    assert (done.returncode, done.stdout) == (0, "parent and child agree\n"), done.stderr


def test_decoding_makes_no_python_object_per_token() -> None:
    sample = invent(16, prompt=8, completion=20_000, layers=0, top=2)
    body = compact(DIALECTS["prime_generate"].build([sample], "object"))
    tito.decode(body, wire="vllm_generate")
    gc.collect()
    tracemalloc.start()
    completion = tito.decode(body, wire="vllm_generate")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(completion.token_ids) == 20_000
    # numpy reports its arrays here, Python its objects; one int per token would be half a million bytes alone.
    assert completion.logprobs is not None
    top = completion.top_logprobs
    assert top is not None
    arrays = (completion.token_ids, completion.logprobs, top.token_ids, top.logprobs, top.offsets)
    assert peak < sum(array.nbytes for array in arrays) + 65_536
