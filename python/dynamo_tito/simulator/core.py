"""The embedded engine without its servers: what it is told, what it remembers, and the sampling that wires share."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .admin import Admin, PauseMode
from .calls import SAMPLING_PATHS, Ask, Call, EngineError, Record
from .config import EngineConfig
from .faults import Fault, FaultPlan
from .model import Model, Sample
from .tokenizer import Tokenizer

__all__ = ["Core"]

# From this many routed-expert entries on, sampling leaves the event loop.
LARGE = 1 << 20


class Core:
    """One worker: its model, its state and its record. `Engine` adds the listeners."""

    def __init__(self, config: EngineConfig | None = None, /, **settings: Any) -> None:
        self.config = replace(config or EngineConfig(), **settings)
        c = self.config
        self.model = Model(
            seed=c.seed,
            vocab_size=c.vocab_size,
            num_layers=c.num_layers,
            top_k=c.top_k,
            num_experts=c.num_experts,
            eos_rate=c.eos_rate,
        )
        self.tokenizer = Tokenizer(c.vocab_size)
        self.admin = Admin()
        self.faults = FaultPlan(seed=c.seed, rate=c.fault_rate, random_faults=c.random_faults)
        #: Base URL of the routes that a client talks to, without `/v1`.
        self.url = ""
        #: Dynamo's discovery listener and this worker's system server; the main listener on other backends.
        self.rl_url = self.system_url = ""
        #: The workers that discovery lists.
        self.members: Sequence[Core] = [self]
        self.stopped = False
        self.total_requests = self.total_sampled = 0
        self._records: deque[Record] = deque(maxlen=c.keep_records)
        self._numbers = 0
        self._flights: dict[int, tuple[Record, asyncio.Event]] = {}
        self._lives = 0
        self.instance_id = self._identity()

    def _identity(self) -> int:
        digest = hashlib.blake2b(f"{self.config.seed}:{id(self)}:{self._lives}".encode(), digest_size=8).digest()
        # Above 2**53: a client that reads it as a float gets another number.
        return int.from_bytes(digest, "little") | 1 << 63

    # --- what it remembers ---

    @property
    def calls(self) -> list[Record]:
        """Every request, oldest first."""
        return list(self._records)

    @property
    def requests(self) -> list[Record]:
        """The requests on routes that sample, oldest first."""
        return [record for record in self._records if record.path in SAMPLING_PATHS]

    @property
    def last(self) -> Record:
        """The newest request on a route that samples."""
        return self.requests[-1]

    def hits(self) -> Counter[str]:
        """How often each call (`Record.key`) arrived on a route that samples."""
        return Counter(record.key for record in self.requests)

    def sampled(self) -> Counter[str]:
        """How often the engine sampled for each call (`Record.key`)."""
        return Counter(record.key for record in self.requests if record.samples)

    def forget(self) -> None:
        """Start a new record; totals go on."""
        self._records.clear()

    def inject(self, *faults: Fault) -> None:
        """Script faults: each happens once, in this order, to the first request that it fits. Safe from any thread."""
        self.faults.script(*faults)

    def join(self, *others: Core) -> None:
        """Let discovery list other engines too."""
        self.members = [*self.members, *others]

    # --- sampling ---

    async def sample(self, call: Call, ask: Ask) -> list[Sample]:
        """One sample per choice, recorded.

        Raises:
            EngineError: the prompt is longer than the context.
        """
        room = self.config.max_model_len - len(ask.prompt_ids)
        if room < 1:
            raise EngineError(
                400,
                f"Input length ({len(ask.prompt_ids)}) exceeds model's maximum context length "
                f"({self.config.max_model_len}).",
                kind="overlong",
            )
        await self.admin.admitted()
        if self.admin.destroyed:
            raise EngineError(500, "EngineCore encountered an issue. See stack trace (above) for the root cause.")
        aborted = asyncio.Event()
        self._flights[call.record.number] = call.record, aborted
        self.admin.in_flight += 1
        try:
            count = min(room, self.config.default_max_tokens if ask.max_tokens is None else ask.max_tokens)
            started = time.monotonic()
            version, call.version = self.admin.weights, str(self.admin.version)
            entries = (len(ask.prompt_ids) + count) * ask.n * self.config.num_layers * self.config.top_k
            if entries > LARGE:
                samples = await asyncio.to_thread(self._sample, ask, count, version)
            else:
                samples = self._sample(ask, count, version)
            busy = self.config.latency + self.config.token_latency * max(len(sample.token_ids) for sample in samples)
            if busy:
                await _within(aborted.wait(), busy - (time.monotonic() - started))
            samples = [self._spoil(call, sample) for sample in samples]
            if aborted.is_set():
                share = min(1.0, (time.monotonic() - started) / busy) if busy else 1.0
                samples = [_cut(sample, int(share * len(sample.token_ids))) for sample in samples]
        finally:
            self.admin.landed()
            del self._flights[call.record.number]
        call.record.samples = samples
        self.total_sampled += 1
        return samples

    def _sample(self, ask: Ask, count: int, version: str) -> list[Sample]:
        prompt = np.asarray(ask.prompt_ids, dtype=np.int64)
        samples = [
            self.model.sample(
                prompt, count, version=version, index=index, request_seed=ask.seed, stop_token_ids=ask.stop_token_ids,
                ignore_eos=ask.ignore_eos, min_tokens=ask.min_tokens, forced=ask.forced,
            )
            for index in range(ask.n)
        ]  # fmt: skip
        return [self._stopped(sample, ask) for sample in samples] if ask.stop else samples

    def _stopped(self, sample: Sample, ask: Ask) -> Sample:
        """The sample up to the token that completes one of the texts that end it."""
        tokens, text = sample.token_ids.tolist(), ""
        for count, token in enumerate(tokens, 1):
            text += self.tokenizer.decode((token,))
            found = next((stop for stop in ask.stop if stop in text), None)
            if found is not None and count > ask.min_tokens:
                return sample.model.given(
                    sample.prompt_ids, tokens[:count], version=sample.version, index=sample.index,
                    finish_reason="stop", stop_reason=found,
                )  # fmt: skip
        return sample

    def _spoil(self, call: Call, sample: Sample) -> Sample:
        if call.fault_of("early_abort") is not None:
            return _cut(sample, 0)
        if (fault := call.fault_of("abort")) is not None:
            return _cut(sample, fault.position(len(sample.token_ids)))
        if (fault := call.fault_of("finish")) is not None:
            return replace(sample, finish_reason=fault.message or sample.finish_reason, stop_reason=fault.stop_reason)
        return sample

    async def rows(self, call: Call, sample: Sample, start: int) -> np.ndarray[Any, Any]:
        """Routed experts from position `start` on, as the engine hands them out (`wrong_rows` included)."""
        fault = call.fault_of("wrong_rows")
        extra = fault.by if fault is not None else 0
        entries = (len(sample.prompt_ids) + len(sample.token_ids) - start) * self.config.num_layers * self.config.top_k
        if entries > LARGE:
            return await asyncio.to_thread(sample.routing, start, extra_rows=extra)
        return sample.routing(start, extra_rows=extra)

    async def pause(self, mode: PauseMode) -> None:
        """Hold new requests; those being sampled go on (keep), are waited for (wait), or end where they are (abort)."""
        self.admin.pause(mode)
        if mode == "abort":
            self.abort()
        if mode != "keep":
            await self.admin.idle()

    def abort(self, key: str | None = None, *, prefix: bool = False) -> int:
        """Abort what is being sampled: all, or the calls with this key (or one that begins with it); how many."""
        count = 0
        for record, aborted in self._flights.values():
            if key is None or record.key == key or (prefix and record.key.startswith(key)):
                aborted.set()
                count += 1
        return count


async def _within(awaitable: Any, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await awaitable
    except TimeoutError:
        pass


def _cut(sample: Sample, count: int) -> Sample:
    """The sample as it stood after `count` tokens, aborted."""
    return sample.model.given(
        sample.prompt_ids, sample.token_ids[:count], version=sample.version, index=sample.index, finish_reason="abort"
    )
