"""The same document in many spellings: key order, white space, escapes, unknown keys. All decode alike."""

from __future__ import annotations

import json
from random import Random
from typing import Any

_SPACES = ("", "", "", " ", "\n", "\t", "\r\n  ")

_NOISE: tuple[Any, ...] = (
    None,
    True,
    -0.0,
    1e300,
    "",
    '"routed_experts":{"data":"',
    '],"token_ids":[9,9,9],"x":[',
    "\\",
    "\u2028 ünï \U0001f600",
    {"token_ids": [1], "choices": None, "error": {"message": "no"}},
    [[[[[[[[[{"a": [{}]}]]]]]]]]],
    {"logprobs": {"content": [{"token": "token_id:5", "logprob": "x"}]}},
)


def compact(document: Any) -> bytes:
    """As servers write it."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def scrambled(document: Any, random: Random) -> bytes:
    """The same document in an unusual spelling."""
    return _Writer(random).value(document).encode()


_WHOLE = ("usage", "weight_versions")
"""What is passed on as it is, unknown keys included."""


class _Writer:
    def __init__(self, random: Random, *, noisy: bool = True) -> None:
        self.random = random
        self.noisy = noisy

    def value(self, value: Any) -> str:
        if isinstance(value, dict):
            text = self._object(value)
        elif isinstance(value, list):
            items = ",".join(self.value(item) for item in value)
            text = f"[{items or self._space()}]"
        elif isinstance(value, str):
            text = self._string(value)
        elif isinstance(value, float):
            text = self._float(value)
        else:
            text = json.dumps(value)
        return f"{self._space()}{text}{self._space()}"

    def _object(self, pairs: dict[str, Any]) -> str:
        quiet = _Writer(self.random, noisy=False)
        written = [(key, (quiet if key in _WHOLE else self).value(value)) for key, value in pairs.items()]
        if self.noisy and not any(key.isdigit() for key in pairs):  # a map by token id has no unknown keys
            written += self._noise()
        self.random.shuffle(written)
        items = ",".join(f"{self._space()}{self._string(key)}{self._space()}:{value}" for key, value in written)
        return f"{{{items or self._space()}}}"

    def _noise(self) -> list[tuple[str, str]]:
        if self.random.random() < 0.7:
            return []
        key = self.random.choice(("", "x", "Token_ids", "token_ids ", "données", 'a"b'))
        noise = self.random.choice(_NOISE)
        return [(key, json.dumps(noise))] * self.random.choice((1, 1, 2))

    def _space(self) -> str:
        return self.random.choice(_SPACES)

    def _string(self, text: str) -> str:
        if len(text) > 400 or self.random.random() < 0.5:
            return json.dumps(text, ensure_ascii=self.random.random() < 0.5)
        return '"' + "".join(map(self._character, text)) + '"'

    def _character(self, character: str) -> str:
        if character in '"\\' or character < " ":
            return json.dumps(character)[1:-1]
        chance = self.random.random()
        if character == "/" and chance < 0.5:
            return "\\/"
        if chance < 0.15:
            units = character.encode("utf-16-be")
            form = "\\u%04x" if chance < 0.1 else "\\u%04X"
            return "".join(form % int.from_bytes(units[at : at + 2], "big") for at in range(0, len(units), 2))
        return character

    def _float(self, value: float) -> str:
        text = repr(value)
        if self.random.random() < 0.2:
            text = f"{value:.16e}"
        return text.replace("e", "E") if self.random.random() < 0.3 else text
