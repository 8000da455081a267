"""A language model that is a hash function: tokens, log-probabilities and routing without a GPU.

Everything is a pure function of the seed, the weight version and the token ids up to a position, so that

- the same request gives the same answer, on any backend's wire;
- the routing of a position is the same whichever request or turn computes it, trimmed or not;
- scoring a sequence gives each sampled token the log-probability that it was sampled with.

Needs numpy and nothing else of this package: the stand-in engine behind the real Dynamo frontend loads it by path.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["NUM_BYTES", "NUM_SPECIAL", "Model", "Part", "Sample", "Scores"]

NUM_BYTES = 256
NUM_SPECIAL = 4

_MASK = (1 << 64) - 1
_MUL_A = 0xBF58476D1CE4E5B9
_MUL_B = 0x94D049BB133111EB
_TOKEN = 0x9E3779B97F4A7C15
_POSITION = 0xD1B54A32D192ED03
# Distinct top-k rows that routing draws from; a power of two, small enough for the processor's cache.
_ROUTES = 1 << 14

U64 = NDArray[np.uint64]


def _mix(x: int) -> int:
    """The splitmix64 finaliser."""
    x &= _MASK
    x = ((x ^ (x >> 30)) * _MUL_A) & _MASK
    x = ((x ^ (x >> 27)) * _MUL_B) & _MASK
    return x ^ (x >> 31)


def _mix_array(x: U64) -> U64:
    """`_mix`, element by element. The products wrap, as they must."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(_MUL_A)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(_MUL_B)
    return x ^ (x >> np.uint64(31))


def _unit(x: U64) -> NDArray[np.float64]:
    """Uniform in [0, 1), with all 53 bits."""
    return (x >> np.uint64(11)).astype(np.float64) * 2.0**-53


@dataclass(frozen=True, slots=True)
class Scores:
    """The log-probability of each given token, and what its alternatives are."""

    token_ids: NDArray[np.int64]
    logprobs: NDArray[np.float64]
    #: Rank of the token among all, from 1.
    ranks: NDArray[np.int64]
    #: Distance in log-probability between neighbouring ranks.
    gaps: NDArray[np.float64]

    def __getitem__(self, part: slice) -> Scores:
        """The scores of some of the tokens; the arrays are views."""
        return Scores(self.token_ids[part], self.logprobs[part], self.ranks[part], self.gaps[part])


@dataclass(frozen=True, slots=True)
class Part:
    """Tokens that the same weights sampled."""

    #: Number of tokens before it.
    start: int
    #: What the weights are, and the version that the server reports for them.
    weights: str
    label: str


@dataclass(frozen=True, slots=True)
class Sample:
    """What the engine sampled for one choice of one request: the truth that answers are compared with."""

    prompt_ids: NDArray[np.int64]
    token_ids: NDArray[np.int64]
    scores: Scores = field(repr=False)
    #: `"length"`, `"stop"` or `"eos"` from sampling; `"abort"` when the request was aborted.
    finish_reason: str
    #: What ended it, if the request named it: a stop token, or a stop string.
    stop_reason: int | str | None
    index: int
    #: What the weights were when the first token was sampled.
    version: str
    model: Model = field(repr=False, compare=False)
    #: Which weights sampled what; empty: `version` everything.
    parts: tuple[Part, ...] = ()

    @property
    def logprobs(self) -> NDArray[np.float64]:
        """float64 [C]."""
        return self.scores.logprobs

    @property
    def routed_experts(self) -> NDArray[np.generic]:
        """[P + C - 1, layers, top_k] at wire width: the last sampled token has no forward pass."""
        return self.routing(0)

    def routing(self, start: int, *, extra_rows: int = 0) -> NDArray[np.generic]:
        """Rows of the positions from `start` on; `extra_rows` more (or, negative, fewer) than the engine has."""
        ids = np.concatenate([self.prompt_ids, self.token_ids])
        stop = max(start, len(ids) - 1 + extra_rows)
        if stop > len(ids):
            ids = np.concatenate([ids, np.zeros(stop - len(ids), dtype=np.int64)])
        # The forward pass that samples a token routes the position before it.
        changes = [(len(self.prompt_ids) + part.start - 1, part.weights) for part in self.parts[1:]]
        if not changes:
            return self.model.routing(ids, version=self.version, start=start, stop=stop)
        edges = [0, *(edge for edge, _ in changes), stop]
        weights = [self.version, *(weights for _, weights in changes)]
        return np.concatenate(
            [
                self.model.routing(ids, version=version, start=max(start, begin), stop=max(start, end))
                for version, begin, end in zip(weights, edges[:-1], edges[1:], strict=True)
            ]
        )

    @property
    def spans(self) -> list[dict[str, Any]]:
        """`{version, start, end}` of the tokens that each version sampled, as servers report them."""
        spans: list[dict[str, Any]] = []
        for part in self.parts or (Part(0, self.version, self.version),):
            if not spans or part.label != spans[-1]["version"]:
                spans.append({"version": part.label, "start": part.start})
        for span, end in zip(spans, [*(after["start"] for after in spans[1:]), len(self.token_ids)], strict=True):
            span["end"] = end
        return spans

    def first(self, count: int, finish_reason: str = "abort", stop_reason: int | str | None = None) -> Sample:
        """The sample as it stood after `count` tokens."""
        return replace(
            self,
            token_ids=self.token_ids[:count],
            scores=self.scores[:count],
            finish_reason=finish_reason,
            stop_reason=stop_reason,
            parts=tuple(part for part in self.parts if part.start < max(count, 1)),
        )

    def joined(self, rest: Sample) -> Sample:
        """This sample, and behind it what was sampled for a prompt that ends with it."""
        scores = Scores(
            *(
                np.concatenate([getattr(self.scores, name), getattr(rest.scores, name)])
                for name in ("token_ids", "logprobs", "ranks", "gaps")
            )
        )
        return replace(
            self,
            token_ids=scores.token_ids,
            scores=scores,
            finish_reason=rest.finish_reason,
            stop_reason=rest.stop_reason,
        )

    def between(self, begin: int, end: int) -> Sample:
        """The tokens from `begin` to `end` alone, as a chunk of a stream brings them."""
        return replace(self, token_ids=self.token_ids[begin:end], scores=self.scores[begin:end])


class Model:
    """The hash function with the shape of a mixture-of-experts model.

    The vocabulary is 256 bytes, words, and four special tokens at its end, the second of which ends a message. Only
    words are sampled, and that token with probability `eos_rate` at each position.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        vocab_size: int = 32_000,
        num_layers: int = 4,
        top_k: int = 2,
        num_experts: int = 128,
        eos_rate: float = 0.0,
    ) -> None:
        if not 1 <= top_k <= num_experts:
            raise ValueError(f"top_k must be between 1 and num_experts ({num_experts}), got {top_k}")
        if num_experts > 65_536:
            raise ValueError(f"num_experts must be at most 65536, got {num_experts}")
        if num_layers < 1:
            raise ValueError(f"num_layers must be at least 1, got {num_layers}")
        if vocab_size <= NUM_BYTES + NUM_SPECIAL:
            raise ValueError(f"vocab_size must be above {NUM_BYTES + NUM_SPECIAL}, got {vocab_size}")
        self.seed, self.vocab_size, self.eos_token_id = seed, vocab_size, vocab_size - NUM_SPECIAL + 1
        self.num_layers, self.top_k, self.num_experts = num_layers, top_k, num_experts
        self._eos_below = int(eos_rate * 2.0**64)
        self._routes = self._draw_routes()
        self._layer_keys = np.array([_mix(layer + 1) | 1 for layer in range(num_layers)], dtype=np.uint64)

    def _draw_routes(self) -> NDArray[np.generic]:
        """[_ROUTES, top_k] at wire width; the experts of a row differ, as those of a router do."""
        rng = np.random.default_rng(self.seed)
        base = rng.integers(0, self.num_experts, size=(_ROUTES, 1))
        # Steps through a random permutation from a random place: distinct if the stride is coprime to the count.
        strides = np.array([s for s in range(1, min(self.num_experts, 4_096) + 1) if np.gcd(s, self.num_experts) == 1])
        stride = rng.choice(strides, size=(_ROUTES, 1))
        permutation = rng.permutation(self.num_experts)
        rows = permutation[(base + stride * np.arange(self.top_k)) % self.num_experts]
        return np.ascontiguousarray(rows.astype(self.wire_dtype))

    @property
    def wire_dtype(self) -> np.dtype[np.generic]:
        """The width that vLLM captures at: uint8 for at most 256 experts, else uint16."""
        return np.dtype(np.uint8 if self.num_experts <= 256 else np.uint16)

    def _key(self, version: str) -> int:
        digest = hashlib.blake2b(version.encode(), digest_size=8).digest()
        return _mix(int.from_bytes(digest, "little") + self.seed * _TOKEN)

    def _prefixes(self, ids: NDArray[np.int64], key: int) -> U64:
        """[N]: a hash of the tokens up to and including each position."""
        tokens = (ids.astype(np.uint64) + np.uint64(1)) * np.uint64(_TOKEN)
        tokens += np.arange(len(ids), dtype=np.uint64) * np.uint64(_POSITION)
        return np.cumsum(_mix_array(tokens), dtype=np.uint64) + np.uint64(key)

    def sample(
        self,
        prompt_ids: Sequence[int] | NDArray[np.integer],
        max_tokens: int,
        *,
        version: str = "",
        index: int = 0,
        request_seed: int | None = None,
        stop_token_ids: Collection[int] = (),
        ignore_eos: bool = False,
        min_tokens: int = 0,
        forced: int | None = None,
    ) -> Sample:
        """Up to `max_tokens` tokens, each a function of those before it, the choice's index and the request's seed.

        `forced` is sampled at every position.
        """
        prompt = np.asarray(prompt_ids, dtype=np.int64)
        key = self._key(version)
        prefix = int(self._prefixes(prompt, key)[-1]) if len(prompt) else key
        salt = _mix(index * _TOKEN + (0 if request_seed is None else _mix(request_seed + 1)))
        first, span = NUM_BYTES, self.vocab_size - NUM_BYTES - NUM_SPECIAL
        stops = frozenset(stop_token_ids)
        eos_below = 0 if ignore_eos else self._eos_below
        sampled: list[int] = []
        reason, stop_token = "length", None
        position = len(prompt)
        for count in range(1, max_tokens + 1):
            drawn = _mix(prefix ^ salt)
            ended = count > min_tokens and _mix(drawn) < eos_below
            token = self.eos_token_id if ended else first + drawn % span
            if forced is not None:
                token = forced
                ended = forced == self.eos_token_id and not ignore_eos and count > min_tokens
            sampled.append(token)
            if ended:
                reason = "eos"
                break
            if token in stops and count > min_tokens:
                reason, stop_token = "stop", token
                break
            prefix = (prefix + _mix((token + 1) * _TOKEN + position * _POSITION)) & _MASK
            position += 1
        return self.given(prompt, sampled, version=version, index=index, finish_reason=reason, stop_reason=stop_token)

    def given(
        self,
        prompt_ids: Sequence[int] | NDArray[np.integer],
        token_ids: Sequence[int] | NDArray[np.integer],
        *,
        version: str = "",
        index: int = 0,
        finish_reason: str = "stop",
        stop_reason: int | str | None = None,
    ) -> Sample:
        """A completion whose tokens were chosen elsewhere, scored and routed as if they had been sampled."""
        prompt = np.asarray(prompt_ids, dtype=np.int64)
        tokens = np.asarray(token_ids, dtype=np.int64)
        scores = self.score(np.concatenate([prompt, tokens]), version=version, start=len(prompt))
        return Sample(prompt, tokens, scores, finish_reason, stop_reason, index, version, self)

    def score(self, ids: NDArray[np.int64], *, version: str = "", start: int = 0) -> Scores:
        """The log-probability of each token from `start` on, given those before it."""
        key = self._key(version)
        prefixes = self._prefixes(ids, key)
        before = np.concatenate([np.array([key], dtype=np.uint64), prefixes[:-1]])[start:]
        tokens = ids[start:]
        drawn = _mix_array(before ^ ((tokens.astype(np.uint64) + np.uint64(1)) * np.uint64(_MUL_A)))
        gaps = 0.0625 + _unit(_mix_array(drawn + np.uint64(1)))
        ranks = 1 + (drawn % np.uint64(3)).astype(np.int64)
        logprobs = -(_unit(drawn) + 2.0**-10 + gaps * (ranks - 1))
        return Scores(tokens, logprobs, ranks, gaps)

    def alternatives(
        self, scores: Scores, k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
        """The best k tokens of each position but for the given one, best first.

        Returns:
            Ids, log-probabilities and ranks [N, k], and how many of them [N] belong: k, or k - 1 where the given token
            is among the best k itself.
        """
        number = np.arange(1, k + 1, dtype=np.int64)
        ranks = number + (number >= scores.ranks[:, None])
        ids = (scores.token_ids[:, None] + number) % self.vocab_size
        best = scores.logprobs + scores.gaps * (scores.ranks - 1)
        logprobs = best[:, None] - scores.gaps[:, None] * (ranks - 1)
        return ids, logprobs, ranks, k - (scores.ranks <= k).astype(np.int64)

    def routing(
        self, ids: NDArray[np.int64], *, version: str = "", start: int = 0, stop: int | None = None
    ) -> NDArray[np.generic]:
        """[stop - start, layers, top_k] at wire width, for the positions `start` to `stop` of the sequence."""
        prefixes = self._prefixes(ids, self._key(version))[start:stop]
        shift = np.uint64(64 - (_ROUTES - 1).bit_length())
        route = (_mix_array(prefixes + np.uint64(_POSITION))[:, None] * self._layer_keys) >> shift
        return np.take(self._routes, route.astype(np.intp), axis=0)
