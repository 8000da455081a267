"""The embedded engine without its servers: state, records, faults, sampling."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .admin import Admin, PauseMode
from .calls import SAMPLING_PATHS, Ask, Call, EngineError, Record
from .config import EngineConfig
from .faults import Fault, FaultPlan
from .flight import Flight, Pace
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
        self.admin = Admin(self.wake)
        self.faults = FaultPlan(seed=c.seed, rate=c.fault_rate, random_faults=c.random_faults)
        #: Base URL of the routes that a client talks to, without `/v1`.
        self.url = ""
        #: Dynamo's discovery listener and this worker's system server; the main listener on other backends.
        self.rl_url = self.system_url = ""
        #: The workers that discovery lists.
        self.members: Sequence[Core] = [self]
        self.stopped = False
        self.total_requests = self.total_sampled = 0
        #: Tokens of the requests that are over.
        self.total_tokens = 0
        self._records: deque[Record] = deque(maxlen=c.keep_records)
        self._numbers = 0
        self._flights: dict[int, Flight] = {}
        #: Where the engine runs, once it does.
        self.loop: asyncio.AbstractEventLoop | None = None
        #: Holds streams, and lets them go step by step.
        self.pace = Pace(self.wake)
        self._lives = 0
        self.instance_id = self._identity()

    def _identity(self) -> int:
        digest = hashlib.blake2b(f"{self.config.seed}:{id(self)}:{self._lives}".encode(), digest_size=8).digest()
        # Above 2**53: a client that reads it as a float gets another number.
        return int.from_bytes(digest, "little") | 1 << 63

    # --- records ---

    @property
    def calls(self) -> list[Record]:
        """Every request, oldest first."""
        return list(self._records.copy())  # in one step, whatever thread asks

    @property
    def requests(self) -> list[Record]:
        """The requests on routes that sample, oldest first."""
        return [record for record in self.calls if record.path in SAMPLING_PATHS]

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

    async def take_off(self, call: Call, *asks: Ask, streams: bool = False) -> Flight:
        """Begin to sample; whoever calls lets it land.

        Raises:
            EngineError: the prompt is longer than the context.
        """
        limit = self.config.max_model_len
        for ask in asks:
            if len(ask.prompt_ids) >= limit:
                message = f"Input length ({len(ask.prompt_ids)}) exceeds model's maximum context length ({limit})."
                raise EngineError(400, message, kind="overlong")
        await self.admin.admitted()
        if self.admin.destroyed:
            raise EngineError(500, "EngineCore encountered an issue. See stack trace (above) for the root cause.")
        flight = Flight(self, call, asks, streams=streams)
        self._flights[call.record.number] = flight
        self.admin.in_flight += 1
        try:
            width = self.config.num_layers * self.config.top_k
            if sum((len(ask.prompt_ids) + self._room(ask)) * ask.n for ask in asks) * width > LARGE:
                await asyncio.to_thread(flight.draw)
            else:
                flight.draw()
        except BaseException:
            self.landed(flight)
            raise
        self.total_sampled += 1
        return flight

    def landed(self, flight: Flight) -> None:
        """A request is no longer being sampled."""
        flight.admin.landed()
        self.total_tokens += sum(len(sample.token_ids) for sample in flight.call.record.samples)
        del self._flights[flight.call.record.number]

    async def sample(self, call: Call, *asks: Ask) -> list[Sample]:
        """One sample per choice, recorded.

        Raises:
            EngineError: the prompt is longer than the context.
        """
        flight = await self.take_off(call, *asks)
        try:
            return await flight.whole()
        finally:
            flight.land()

    def _room(self, ask: Ask) -> int:
        count = self.config.default_max_tokens if ask.max_tokens is None else ask.max_tokens
        return min(count, self.config.max_model_len - len(ask.prompt_ids))

    def draw(self, call: Call, ask: Ask, index: int, weights: str, before: Sample | None) -> Sample:
        """What these weights sample for a choice, behind the tokens that it has already."""
        prompt = np.asarray(ask.prompt_ids, dtype=np.int64)
        made = 0 if before is None else len(before.token_ids)
        sample = self.model.sample(
            prompt if before is None else np.concatenate([prompt, before.token_ids]), self._room(ask) - made,
            version=weights, index=index, request_seed=ask.seed, stop_token_ids=ask.stop_token_ids,
            ignore_eos=ask.ignore_eos, min_tokens=max(0, ask.min_tokens - made), forced=ask.forced,
        )  # fmt: skip
        if before is not None and made:
            sample = before.joined(sample)
        return self._spoil(call, self._stopped(sample, ask) if ask.stop else sample)

    def _stopped(self, sample: Sample, ask: Ask) -> Sample:
        """The sample up to the token that completes one of the texts that end it."""
        text = ""
        for count, token in enumerate(sample.token_ids.tolist(), 1):
            text += self.tokenizer.decode((token,))
            found = next((stop for stop in ask.stop if stop in text), None)
            if found is not None and count > ask.min_tokens:
                return sample.first(count, "stop", found)
        return sample

    @staticmethod
    def _spoil(call: Call, sample: Sample) -> Sample:
        if call.fault_of("early_abort") is not None:
            return sample.first(0)
        if (fault := call.fault_of("abort")) is not None:
            return sample.first(fault.position(len(sample.token_ids)))
        if (fault := call.fault_of("finish")) is not None:
            return replace(sample, finish_reason=fault.message or sample.finish_reason, stop_reason=fault.stop_reason)
        return sample

    def routed(self, sample: Sample) -> bool:
        """Whether there is routing to tell of: not before the first token."""
        return self.config.routed_experts and len(sample.token_ids) > 0

    async def rows(self, call: Call, sample: Sample, start: int) -> np.ndarray[Any, Any]:
        """Routed experts from position `start` on, as the engine sends them (`wrong_rows` included)."""
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

    def abort(self, name: str | None = None, *, prefix: bool = False) -> int:
        """Abort what is being sampled: all, or what bears this id (or one that begins with it); how many."""
        found = [
            flight
            for flight in self._flights.values()
            if name is None or name in flight.names or (prefix and any(own.startswith(name) for own in flight.names))
        ]
        for flight in found:
            flight.abort()
        return len(found)

    def wake(self) -> None:
        """Let everything that is being sampled look at what has changed. Safe from any thread."""
        if self.loop is not None:
            self.loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        for flight in self._flights.values():
            flight.wake()
