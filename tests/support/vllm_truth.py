"""Forward passes of tools/vllm/truth.py, in a process of vLLM's venv: the tests' own environment has no torch."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

TRUTH = Path(__file__).resolve().parents[2] / "tools" / "vllm" / "truth.py"


@dataclass(frozen=True, slots=True)
class Forward:
    """What the model says of one sequence of N tokens.

    Attributes:
        logprobs: [N, vocabulary], of the token after each position.
        experts: [N, layers, top_k], best first.
        margins: [N, layers], the least distance between neighbours among the logits of the best top_k + 1 experts.
    """

    logprobs: Any
    experts: Any
    margins: Any

    def sampled(self, token_ids: Sequence[int], prompt_len: int) -> Any:
        """Log-probabilities of the tokens after the prompt."""
        ids = np.asarray(token_ids)
        return self.logprobs[np.arange(prompt_len - 1, len(ids) - 1), ids[prompt_len:]]


class Truth:
    """Asks for forward passes, and keeps them."""

    def __init__(self, directory: Path) -> None:
        self._models = directory.resolve() / "models"
        self._run = directory.resolve() / "run"
        self._run.mkdir(exist_ok=True)
        self._known: dict[tuple[str, str | None, tuple[int, ...]], Forward] = {}
        with (self._run / "truth.log").open("wb") as log:
            self._process = subprocess.Popen(
                [str(directory.resolve() / "venv" / "bin" / "python"), str(TRUTH)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                env={"PATH": os.environ["PATH"], "HOME": str(self._run), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            )  # fmt: skip

    def __call__(self, model: str, sequences: Sequence[Sequence[int]], *, adapter: str | None = None) -> list[Forward]:
        """One forward pass per sequence."""
        keys = [(model, adapter, tuple(int(token) for token in sequence)) for sequence in sequences]
        wanted = [key for key in dict.fromkeys(keys) if key not in self._known]
        if wanted:
            self._known |= zip(wanted, self._ask(model, adapter, [key[2] for key in wanted]), strict=True)
        return [self._known[key] for key in keys]

    def one(self, model: str, sequence: Sequence[int], *, adapter: str | None = None) -> Forward:
        """The forward pass of one sequence."""
        return self(model, [sequence], adapter=adapter)[0]

    def _ask(self, model: str, adapter: str | None, sequences: list[tuple[int, ...]]) -> list[Forward]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        out = self._run / "truth.npz"
        request = {
            "model": str(self._models / model),
            "adapter": None if adapter is None else str(self._models / adapter),
            "sequences": sequences,
            "out": str(out),
        }
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        if self._process.stdout.readline().strip() != str(out):
            raise RuntimeError(f"truth.py ended; see {self._run / 'truth.log'}")
        ends = np.cumsum([len(sequence) for sequence in sequences])[:-1]
        with np.load(out) as found:
            parts = [np.split(found[name], ends) for name in ("logprobs", "experts", "margins")]
        return [Forward(*each) for each in zip(*parts, strict=True)]

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
